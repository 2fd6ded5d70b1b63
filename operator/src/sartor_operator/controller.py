"""One look at one object: observe, decide, apply. And which objects have to be looked at when another one changes."""

import logging
from collections.abc import Callable, Mapping

from sartor_api.serving_synthesis import ServingSynthesisStatus
from sartor_api.synthesis_run import SynthesisRunStatus
from sartor_operator import names
from sartor_operator.actions import Decision, Tell
from sartor_operator.apply import Applier, TakenError
from sartor_operator.cache import Cache, Key
from sartor_operator.client import Api
from sartor_operator.errors import ApiError, ConflictError, NotFoundError, RefusedError
from sartor_operator.keyqueue import KeyQueue
from sartor_operator.kinds import PROFILE, RUN, SECRET, SYNTHESIS, TARGET, Kind, Manifest
from sartor_operator.metrics import Metrics
from sartor_operator.run.decide import decide_run
from sartor_operator.run.observe import observe_run
from sartor_operator.settings import Settings
from sartor_operator.synthesis.decide import decide_synthesis
from sartor_operator.synthesis.observe import observe_synthesis, secrets_to_read

LOG = logging.getLogger(__name__)


class Controller:
    """`now` gives Unix seconds. What it knows is in the cache; it has no state of its own."""

    def __init__(
        self, cache: Cache, api: Api, applier: Applier, settings: Settings, metrics: Metrics, now: Callable[[], float]
    ) -> None:
        self._cache = cache
        self._api = api
        self._applier = applier
        self._settings = settings
        self._metrics = metrics
        self._now = now

    async def reconcile(self, key: Key) -> float | None:
        """Look at one object and do what is due. Returns when to look again (Unix seconds), if time alone brings that.

        Idempotent at every point: killed anywhere, the next look goes on from what the API server holds.
        """
        kind, namespace, name = key
        decision = await self._decide(kind, namespace, name)
        if decision is None:
            self._gone(kind, namespace, name)
            return None
        try:
            await self._applier.carry_out(decision)
        except (RefusedError, TakenError) as error:
            await self._complain(key, error)
            raise
        self._measure(decision)
        return decision.wake_at

    async def _decide(self, kind: Kind, namespace: str, name: str) -> Decision | None:
        if kind is RUN:
            run = observe_run(self._cache, self._settings, namespace, name)
            return None if run is None else decide_run(run, self._now())
        secrets = await self._secrets(namespace, name)
        synthesis = observe_synthesis(self._cache, self._settings, namespace, name, secrets)
        return None if synthesis is None else decide_synthesis(synthesis, self._now())

    async def _secrets(self, namespace: str, name: str) -> Mapping[str, frozenset[str]]:
        """Keys of the Secrets that a run would need; their values are forgotten at once."""
        found: dict[str, frozenset[str]] = {}
        for secret in secrets_to_read(self._cache, namespace, name):
            try:
                manifest = await self._api.get(SECRET, namespace, secret)
            except NotFoundError:
                continue
            found[secret] = frozenset(manifest.get("data") or {})
        return found

    async def _complain(self, key: Key, error: Exception) -> None:
        """A write that repeating does not cure is said where its owner looks."""
        about = self._cache.get(*key)
        if about is not None:
            text = str(error)
            await self._applier.act(Tell(about, "WriteRefused", text, names.digest(text), warning=True))

    def _measure(self, decision: Decision) -> None:
        for status in decision.statuses:
            meta = status.manifest["metadata"]
            if isinstance(status.status, ServingSynthesisStatus):
                self._metrics.synthesis(meta["namespace"], meta["name"], status.status)
            elif isinstance(status.status, SynthesisRunStatus):
                self._metrics.run(meta["namespace"], meta["name"], status.status)

    def _gone(self, kind: Kind, namespace: str, name: str) -> None:
        if kind is RUN:
            self._metrics.run_gone(namespace, name)
        else:
            self._metrics.synthesis_gone(namespace, name)


def keys_for(cache: Cache, kind: Kind, manifest: Manifest) -> list[Key]:
    """What has to be looked at when this object was added, changed or removed."""
    meta = manifest["metadata"]
    namespace, name = str(meta.get("namespace") or ""), str(meta["name"])
    synthesis, run = names.label(manifest, names.SYNTHESIS_LABEL), names.label(manifest, names.RUN_LABEL)
    if kind is SYNTHESIS:
        # Its run holds, or goes on, or ends, by what the synthesis says.
        runs = cache.labelled(RUN, namespace, names.SYNTHESIS_LABEL, name)
        return [(SYNTHESIS, namespace, name), *((RUN, namespace, names.name_of(r)) for r in runs)]
    if kind is RUN:
        return [(RUN, namespace, name), *([(SYNTHESIS, namespace, synthesis)] if synthesis else [])]
    if kind in (TARGET, PROFILE):
        return [
            (SYNTHESIS, str(s["metadata"]["namespace"]), names.name_of(s))
            for s in cache.all(SYNTHESIS)
            if _refers_to(s, kind, namespace, name)
        ]
    keys: list[Key] = []
    if run:
        keys.append((RUN, namespace, run))
    elif synthesis:
        keys.append((SYNTHESIS, namespace, synthesis))
    return keys


def _refers_to(synthesis: Manifest, kind: Kind, namespace: str, name: str) -> bool:
    spec = synthesis.get("spec", {})
    if kind is TARGET:
        return spec.get("hardware", {}).get("targetRef", {}).get("name") == name
    reference = spec.get("agents", {}).get("profileRef") or {}
    return synthesis["metadata"]["namespace"] == namespace and reference.get("name") == name


async def work(
    queue: KeyQueue[Key],
    controller: Controller,
    metrics: Metrics,
    *,
    clock: Callable[[], float],
    now: Callable[[], float],
) -> None:
    """One worker, for ever: take a key, look, put it back with its wake time. Errors are counted and repeated."""
    while True:
        key = await queue.take()
        kind = key[0].kind
        metrics.waited.labels(kind).observe(queue.waited(key))
        begun = clock()
        try:
            wake_at = await controller.reconcile(key)
        except ConflictError as error:
            LOG.debug("%s %s/%s changed in between: %s", kind, key[1], key[2], error)
            metrics.errors.labels(kind, "ConflictError").inc()
            queue.failed(key)
        except (ApiError, TakenError) as error:
            metrics.errors.labels(kind, type(error).__name__).inc()
            delay = queue.failed(key)
            LOG.warning("%s %s/%s: %s; again in %.1f s", kind, key[1], key[2], error, delay)
        except Exception:
            metrics.errors.labels(kind, "Defect").inc()
            delay = queue.failed(key)
            LOG.exception("%s %s/%s: a defect of the operator; again in %.1f s", kind, key[1], key[2], delay)
        else:
            queue.done(key, wake_at=None if wake_at is None else clock() + max(0.0, wake_at - now()))
        finally:
            metrics.reconcile.labels(kind).observe(clock() - begun)
