"""One look at one object: observe, decide, apply. And which objects have to be looked at when another one changes."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from pydantic import BaseModel

from sartor_api.agent_profile import AgentProfileStatus
from sartor_api.hardware_target import HardwareTargetStatus
from sartor_api.search.records import Cost
from sartor_api.serving_rollout import ServingRolloutStatus
from sartor_api.serving_synthesis import ServingSynthesisStatus
from sartor_api.synthesis_run import SynthesisRunStatus
from sartor_operator import names
from sartor_operator.actions import Decision, StatusOf, Tell
from sartor_operator.apply import Applier, TakenError
from sartor_operator.books import Books, NoBooks
from sartor_operator.cache import EVERYWHERE, PROFILE_INDEX, TARGET_INDEX, Cache, Key
from sartor_operator.client import Api
from sartor_operator.conditions import conditions, stalled
from sartor_operator.errors import ApiError, ConflictError, NotFoundError, RefusedError
from sartor_operator.keyqueue import KeyQueue
from sartor_operator.kinds import (
    DEPLOYMENT,
    ENDPOINT_SLICE,
    HTTP_ROUTE,
    NETWORK_POLICY,
    NODE,
    OPTIONAL,
    PROFILE,
    ROLLOUT,
    RUN,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    SYNTHESIS,
    TARGET,
    WHOLE,
    Kind,
    Manifest,
)
from sartor_operator.metrics import Metrics
from sartor_operator.pods.model_proxy import GRANT_KEY
from sartor_operator.profile import decide_profile, observe_proxy, profile_secrets, profile_spec, tokens_of
from sartor_operator.reasons import OperatorReason
from sartor_operator.rollout.decide import decide_rollout
from sartor_operator.rollout.keys import rollout_keys
from sartor_operator.rollout.observe import named_deployments, observe_rollout
from sartor_operator.rollout.route import route_shares
from sartor_operator.rollout.samples import NoVerdicts, Verdicts
from sartor_operator.run.decide import decide_run
from sartor_operator.run.observe import RunObserved, decoded, observe_run
from sartor_operator.run.step import own_grant
from sartor_operator.settings import Settings
from sartor_operator.synthesis.decide import decide_synthesis, secrets_to_read
from sartor_operator.synthesis.observe import observe_synthesis
from sartor_operator.target import decide_target
from sartor_operator.understood import NotUnderstoodError, derived

LOG = logging.getLogger(__name__)

_STATUSES: Mapping[Kind, type[BaseModel]] = {
    SYNTHESIS: ServingSynthesisStatus,
    RUN: SynthesisRunStatus,
    TARGET: HardwareTargetStatus,
    PROFILE: AgentProfileStatus,
    ROLLOUT: ServingRolloutStatus,
}


class Controller:
    """`now` gives Unix seconds. What it knows is in the cache; it has no state of its own."""

    def __init__(
        self,
        cache: Cache,
        api: Api,
        applier: Applier,
        settings: Settings,
        metrics: Metrics,
        now: Callable[[], float],
        *,
        verdicts: Verdicts | None = None,
        books: Books | None = None,
        gateway_api: Callable[[], bool] = lambda: True,
    ) -> None:
        """`gateway_api`: whether the cluster knows HTTPRoutes."""
        self._cache = cache
        self._api = api
        self._applier = applier
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._verdicts = verdicts or NoVerdicts()
        self._books = books or NoBooks()
        self._gateway_api = gateway_api

    async def reconcile(self, key: Key) -> float | None:
        """Look at one object and do what is due. Returns when to look again (Unix seconds), if time alone brings that.

        Idempotent at every point: killed anywhere, the next look goes on from what the API server holds.
        """
        kind, namespace, name = key
        try:
            decision = await self._decide(kind, namespace, name)
        except NotUnderstoodError as error:
            decision = self._stalled(key, OperatorReason.NOT_SUPPORTED, str(error))
        if decision is None:
            self._gone(kind, namespace, name)
            return None
        try:
            await self._applier.carry_out(decision)
        except (RefusedError, TakenError) as error:
            await self._complain(key, error)
            raise
        self._measure(decision)
        await self._afterwards(key, decision)
        return decision.wake_at

    async def _decide(self, kind: Kind, namespace: str, name: str) -> Decision | None:
        """Watches of several kinds are not behind by the same: a Job may be seen before the pod that it looks at, and a
        stack without the rollout that gives it traffic."""
        decision = await self._look(kind, namespace, name)
        if decision is None or not decision.rests_on:
            return decision
        await self._list_anew(decision.rests_on, namespace, of_run=name if kind is RUN else None)
        return await self._look(kind, namespace, name)

    async def _list_anew(self, kinds: Iterable[Kind], namespace: str, of_run: str | None) -> None:
        """Bring the cache up to date with objects of a run, or of a namespace. Of a namespace only what is there is taken:
        what is not goes by its watch, and nothing irrevocable follows from an object that is known too long."""
        for kind in kinds:
            if of_run is not None:
                found, at = await self._api.list(kind, namespace, f"{names.RUN_LABEL}={of_run}")
                self._cache.replace(kind, found, int(at), within=(namespace, names.RUN_LABEL, of_run))
            elif kind not in OPTIONAL or self._gateway_api():
                found, _ = await self._api.list(kind, namespace, None if kind in WHOLE else names.SELECTOR)
                for manifest in found:
                    self._cache.put(kind, manifest)

    async def _look(self, kind: Kind, namespace: str, name: str) -> Decision | None:
        if kind is RUN:
            run = observe_run(self._cache, self._settings, namespace, name)
            return None if run is None else await self._run(run)
        if kind is TARGET:
            target = self._cache.get(TARGET, None, name)
            return None if target is None else decide_target(target, self._cache.all(NODE), self._now())
        if kind is PROFILE:
            return await self._profile(namespace, name)
        if kind is ROLLOUT:
            return await self._rollout(namespace, name)
        synthesis = observe_synthesis(self._cache, self._settings, namespace, name)
        if synthesis is None:
            return None
        if needed := secrets_to_read(synthesis, self._now()):
            synthesis = synthesis.with_secrets(await self._secrets(namespace, needed))
        return decide_synthesis(synthesis, self._now())

    async def _run(self, run: RunObserved) -> Decision:
        decision = decide_run(run, self._now())
        if not decision.unbooked:
            return decision
        models, spent = run.models, dict[str, Cost | None]()
        for begin in (step for step in run.steps if step.id in decision.unbooked):
            spent[begin.id] = None
            if models is not None and models.grant_key is not None and models.address:
                grant = own_grant(run, begin, self._now())
                spent[begin.id] = await self._books.spent(models.address, grant, models.grant_key, begin.begun)
        return decide_run(replace(run, spent=spent), self._now())

    async def _profile(self, namespace: str, name: str) -> Decision | None:
        profile = self._cache.get(PROFILE, namespace, name)
        if profile is None:
            return None
        needed = {reference.name for _, reference in profile_secrets(profile_spec(profile))}
        secrets = await self._secrets(namespace, sorted(needed))
        runs = self._cache.labelled(RUN, namespace, PROFILE_INDEX, name)
        proxy = observe_proxy(self._cache, profile)
        key = decoded(proxy.parts[SECRET], GRANT_KEY) if SECRET in proxy.parts else None
        providers = None
        if proxy.ready and proxy.address and key is not None:
            providers = await self._books.providers(proxy.address, key)
        return decide_profile(profile, secrets, runs, proxy, self._settings, self._now(), providers=providers)

    async def _rollout(self, namespace: str, name: str) -> Decision | None:
        manifest = self._cache.get(ROLLOUT, namespace, name)
        if manifest is None:
            return None
        fetched: dict[str, Manifest] = {}
        for wanted in named_deployments(manifest):
            if self._cache.get(DEPLOYMENT, namespace, wanted) is not None:
                continue
            try:  # those of users are not watched; endpoints tell when something happens to them
                fetched[wanted] = await self._api.get(DEPLOYMENT, namespace, wanted)
            except NotFoundError:
                continue
        observed = observe_rollout(
            self._cache,
            self._verdicts,
            namespace,
            name,
            gateway_api=self._gateway_api(),
            fetched=fetched,
            settings=self._settings,
        )
        return None if observed is None else decide_rollout(observed, self._now())

    async def _secrets(self, namespace: str, wanted: Iterable[str]) -> Mapping[str, frozenset[str]]:
        """Keys of those Secrets that exist; their values are forgotten at once."""
        found: dict[str, frozenset[str]] = {}
        for secret in wanted:
            try:
                manifest = await self._api.get(SECRET, namespace, secret)
            except NotFoundError:
                continue
            found[secret] = frozenset(manifest.get("data") or {})
        return found

    def _stalled(self, key: Key, reason: OperatorReason, message: str) -> Decision | None:
        """Say so where the owner of the object looks; all else that its status says stays as it was."""
        manifest = self._cache.get(*key)
        if manifest is None:
            return None
        before = derived(_STATUSES[key[0]], manifest.get("status"))
        generation = int(manifest["metadata"].get("generation", 1))
        old = (manifest.get("status") or {}).get("conditions", ())
        wanted = stalled(reason, message)
        said: dict[str, object] = {
            "observed_generation": generation,
            "conditions": conditions(old, wanted, generation=generation, now=self._now()),
        }
        if isinstance(before, ServingRolloutStatus):
            # Its conditions are its memory (why it goes back, since when an arm is ready): only `Stalled` is added.
            new = conditions(old, wanted[-1:], generation=generation, now=self._now())
            said["conditions"] = (*(c for c in before.conditions if c.type != new[0].type), *new)
        if "message" in type(before).model_fields:
            said["message"] = message[:4096]
        return Decision(statuses=(StatusOf(key[0], manifest, before.model_copy(update=said)),))

    async def _complain(self, key: Key, error: Exception) -> None:
        """A write that repeating does not cure is said where its owner looks: as an Event, and in the status."""
        about = self._cache.get(*key)
        if about is None:
            return
        text = str(error)
        await self._applier.act(Tell(about, "WriteRefused", text, names.digest(text), warning=True))
        message = f"a write is refused, and tried again every minute: {text}"
        said = self._stalled(key, OperatorReason.WRITE_REFUSED, message)
        try:
            await self._applier.carry_out(said or Decision())
        except ApiError as worse:
            # It may be the very status that is refused. The error that led here is raised in any case.
            LOG.warning("the status of %s %s/%s cannot say it: %s", key[0].kind, key[1], key[2], worse)

    async def _afterwards(self, key: Key, decision: Decision) -> None:
        """What nothing else waits for. Raises `ApiError` for what goes by itself."""
        for action in decision.afterwards:
            try:
                await self._applier.act(action)
            except (RefusedError, TakenError) as error:
                LOG.warning("%s %s/%s: %s; tried again with the next look", key[0].kind, key[1], key[2], error)
                if (about := self._cache.get(*key)) is not None:
                    text = str(error)
                    await self._applier.act(Tell(about, "WriteRefused", text, names.digest(text), warning=True))
                return

    def _measure(self, decision: Decision) -> None:
        for status in decision.statuses:
            meta = status.manifest["metadata"]
            if isinstance(status.status, ServingSynthesisStatus):
                self._metrics.synthesis(meta["namespace"], meta["name"], status.status)
            elif isinstance(status.status, SynthesisRunStatus):
                self._metrics.run(meta["namespace"], meta["name"], status.status)
            elif isinstance(status.status, ServingRolloutStatus):
                self._metrics.rollouts.seen(meta["namespace"], meta["name"], status.status)

    def _gone(self, kind: Kind, namespace: str, name: str) -> None:
        if kind is RUN:
            self._metrics.run_gone(namespace, name)
        elif kind is SYNTHESIS:
            self._metrics.synthesis_gone(namespace, name)
        elif kind is ROLLOUT:
            self._metrics.rollouts.gone(namespace, name)


def keys_for(cache: Cache, kind: Kind, before: Manifest | None, now: Manifest | None) -> list[Key]:
    """What has to be looked at when this object was added (`before` None), changed, or removed (`now` None).

    Bounded by what refers to the object, not by what there is: an index leads to it.
    """
    manifest = now or before
    assert manifest is not None, "an object was there, or is there"
    meta = manifest["metadata"]
    namespace, name = str(meta.get("namespace") or ""), str(meta["name"])
    synthesis, run = names.label(manifest, names.SYNTHESIS_LABEL), names.label(manifest, names.RUN_LABEL)
    if profile := names.label(manifest, names.PROFILE_LABEL):
        # A run may wait for the proxy's Deployment, or for the key of its grants.
        waiting = cache.labelled(RUN, namespace, PROFILE_INDEX, profile) if kind in (DEPLOYMENT, SECRET) else ()
        return [(PROFILE, namespace, profile), *((RUN, namespace, names.name_of(run)) for run in waiting)]
    rollouts = rollout_keys(cache, kind, before, now)
    if rollouts or kind in (ROLLOUT, ENDPOINT_SLICE, *OPTIONAL):
        return [*rollouts, *_owner(namespace, synthesis, run), *_routed(cache, kind, before, now)]
    if kind is SYNTHESIS:
        return [(SYNTHESIS, namespace, name), *(_runs(cache, manifest) if _matters(before, now) else ())]
    if kind is RUN:
        keys: list[Key] = [(RUN, namespace, name), *([(SYNTHESIS, namespace, synthesis)] if synthesis else [])]
        return keys + (_profiles(namespace, manifest) if _tokens(before) != _tokens(now) else [])
    if kind is NODE:
        return [(TARGET, "", names.name_of(target)) for target in cache.all(TARGET)]
    if kind is TARGET:
        return _of_target(cache, name, before, now)
    if kind is PROFILE:
        users = cache.labelled(SYNTHESIS, namespace, PROFILE_INDEX, name) if _matters(before, now) else ()
        return [(PROFILE, namespace, name), *((SYNTHESIS, namespace, names.name_of(s)) for s in users)]
    if kind in (SERVICE_ACCOUNT, NETWORK_POLICY):
        # They belong to a namespace: any synthesis in it repairs them.
        any_one = cache.first(SYNTHESIS, namespace) if before is not None else None
        return [(SYNTHESIS, namespace, names.name_of(any_one))] if any_one is not None else []
    return _owner(namespace, synthesis, run)


def _owner(namespace: str, synthesis: str, run: str) -> list[Key]:
    if run:
        return [(RUN, namespace, run)]
    return [(SYNTHESIS, namespace, synthesis)] if synthesis else []


def _routed(cache: Cache, kind: Kind, before: Manifest | None, now: Manifest | None) -> Iterator[Key]:
    """Syntheses whose Services get another share of a route's traffic, or are named by it no more."""
    if kind is not HTTP_ROUTE:
        return
    shares = [route_shares(one) if one is not None else {} for one in (before, now)]
    if shares[0] == shares[1]:
        return
    namespace = str((now or before or {})["metadata"]["namespace"])
    services = (cache.get(SERVICE, namespace, name) for name in sorted(shares[0].keys() | shares[1].keys()))
    named = {names.label(service, names.SYNTHESIS_LABEL) for service in services if service is not None}
    yield from ((SYNTHESIS, namespace, name) for name in sorted(named) if name)


def _matters(before: Manifest | None, now: Manifest | None) -> bool:
    """Whether more than the status changed: what others read of an object is its spec, and whether it is there."""
    if before is None or now is None:
        return True
    one, other = before["metadata"], now["metadata"]
    return any(one.get(field) != other.get(field) for field in ("uid", "generation", "deletionTimestamp"))


def _runs(cache: Cache, synthesis: Manifest) -> list[Key]:
    """Its runs: they hold, or go on, or end, by what the synthesis says."""
    meta = synthesis["metadata"]
    found = cache.labelled(RUN, meta["namespace"], names.SYNTHESIS_LABEL, meta["name"])
    return [(RUN, str(meta["namespace"]), names.name_of(r)) for r in found]


def _of_target(cache: Cache, name: str, before: Manifest | None, now: Manifest | None) -> list[Key]:
    keys: list[Key] = [(TARGET, "", name)]
    spec = _matters(before, now)
    if not spec and _nodes(before) == _nodes(now):
        return keys
    for synthesis in cache.labelled(SYNTHESIS, EVERYWHERE, TARGET_INDEX, name):
        keys.append((SYNTHESIS, str(synthesis["metadata"]["namespace"]), names.name_of(synthesis)))
        if spec:
            keys += _runs(cache, synthesis)  # those that wait in a queue say so if it is not the target's any more
    return keys


def _nodes(target: Manifest | None) -> tuple[object, object]:
    """What of a target's status can start another search."""
    status = (target or {}).get("status") or {}
    return status.get("product"), status.get("driverVersion")


def _tokens(run: Manifest | None) -> int:
    return tokens_of(run) if run is not None else 0


def _profiles(namespace: str, run: Manifest) -> list[Key]:
    spec = (run.get("spec") or {}).get("snapshot", {}).get("synthesis", {})
    name = (spec.get("agents", {}).get("profileRef") or {}).get("name")
    return [(PROFILE, namespace, str(name))] if name else []


async def work(
    queue: KeyQueue[Key],
    controller: Controller,
    metrics: Metrics,
    *,
    clock: Callable[[], float],
    now: Callable[[], float],
    only_first: bool = False,
    lets_pass: KeyQueue[Key] | None = None,
) -> None:
    """One worker, for ever: take a key, look, put it back with its wake time. Errors are counted and repeated.

    `only_first`: it takes only what cannot wait. `lets_pass`: it begins nothing while that queue has something of the kind.
    """
    while True:
        if lets_pass is not None:
            await lets_pass.calm()
        key = await queue.take(only_first=only_first)
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
        # A look at which nothing was waited for gives nobody else a turn: a thousand of them would cost the lease.
        await asyncio.sleep(0)
