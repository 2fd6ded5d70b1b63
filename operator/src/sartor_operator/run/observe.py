"""Gathers what is known of one run: from objects in the cache to the facts that `decide` looks at.

ConfigMaps that a human damaged are left out with a sentence about them: the decision then repairs or stops, it never
crashes on them.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sartor_api.search.records import Cost, Record, RunSpec
from sartor_api.serving_synthesis import ServingSynthesisSpec
from sartor_api.synthesis_run import Snapshot, SynthesisRun
from sartor_operator import names
from sartor_operator.cache import Cache
from sartor_operator.kinds import (
    CANDIDATE,
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    POD,
    PROFILE,
    RUN,
    SECRET,
    SYNTHESIS,
    TARGET,
    Kind,
    Manifest,
)
from sartor_operator.pods.archive import INDEX_KEY
from sartor_operator.pods.common import Place
from sartor_operator.pods.jobs import SPEC_KEY, STEP_KEY
from sartor_operator.pods.model_proxy import GRANT_KEY, proxy_url
from sartor_operator.profile import observe_proxy
from sartor_operator.settings import Settings
from sartor_operator.synthesis.intent import intent_of
from sartor_operator.understood import understood
from sartor_operator.wire import Ending, StackIndex, StepBegin, StoredRecord

RECORD_KEY = "record.json"
ENDING_KEY = "ending.json"
SEAL_KEY = "key"

M = TypeVar("M", bound=BaseModel)

LONGEST_WORD = 4096

_MOST_PARSED = 8192
"""Parts of runs that are kept parsed, a few kilobytes each: those of some hundred searches under way. Reading all steps of
a run anew with each look was most of what a look cost."""


@lru_cache(maxsize=_MOST_PARSED)
def _parsed(model: type[M], text: str) -> M:
    """The content of an immutable ConfigMap. Raises `ValidationError`."""
    return model.model_validate_json(text)


@dataclass(frozen=True)
class ModelsSeen:
    """The model proxy that a run's agents go through. `grant_key` signs what they may spend; `waits` says why they cannot
    begin yet (empty: they can)."""

    profile: str
    url: str = ""
    address: str = ""
    """Of the proxy's pod: where the operator asks it itself."""
    grant_key: str | None = field(default=None, repr=False)
    waits: str = ""


@dataclass(frozen=True)
class RunObserved:
    """One run as it stands. `steps` and `records` are in order of `sequence`; `stacks` are by content hash."""

    run: SynthesisRun
    manifest: Manifest
    place: Place
    synthesis_alive: bool = True
    suspended: bool = False
    superseded: bool = False
    wanted: ServingSynthesisSpec | None = None
    """The intent as it is now, where it is the one that this run is for: payback, delivery and so on may be others."""
    word: str = ""
    """A word of a human to the planner: `spec.control.message` of the run, else the annotation of run or synthesis."""
    queue_left: bool = False
    """The HardwareTarget does not name the queue any more in which this run's Jobs wait."""
    spec: RunSpec | None = None
    spec_name: str = ""
    seal: str | None = None
    models: ModelsSeen | None = None
    """None where no agent asks a model."""
    spent: Mapping[str, Cost | None] = field(default_factory=dict[str, Cost | None])
    """What steps that ended without a word spent, by their ids, once the model proxy was asked; None: it does not say."""
    steps: tuple[StepBegin, ...] = ()
    records: tuple[StoredRecord, ...] = ()
    ending: Ending | None = None
    stacks: Mapping[str, StackIndex] = field(default_factory=dict[str, StackIndex])
    jobs: tuple[Manifest, ...] = ()
    pods: tuple[Manifest, ...] = ()
    secrets: tuple[Manifest, ...] = ()
    deployments: tuple[Manifest, ...] = ()
    candidates: tuple[Manifest, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def uid(self) -> str:
        return names.uid(self.manifest)

    @property
    def name(self) -> str:
        return names.name_of(self.manifest)

    @property
    def prefix(self) -> str:
        """What names of children begin with: the synthesis's name."""
        return self.run.spec.synthesis_ref.name

    @property
    def intent(self) -> ServingSynthesisSpec:
        """What the run is for; where it may change without another run, as it is now."""
        return self.wanted or self.run.spec.snapshot.synthesis

    def of_step(self, manifests: tuple[Manifest, ...], step_id: str) -> list[Manifest]:
        """Those that belong to one step."""
        return [m for m in manifests if names.label(m, names.STEP_LABEL) == names.step_label(step_id)]


def observe_run(cache: Cache, settings: Settings, namespace: str, name: str) -> RunObserved | None:
    """The run, or None when there is none (any more). Raises `NotUnderstoodError` for a spec that no operator wrote."""
    manifest = cache.get(RUN, namespace, name)
    if manifest is None:
        return None
    own = {k: v for k, v in manifest.items() if k != "status"}
    run = understood(SynthesisRun, own, f"SynthesisRun {name}")
    snapshot = run.spec.snapshot
    uid = names.uid(manifest)
    damaged: list[str] = []
    maps = [m for m in cache.labelled(CONFIG_MAP, namespace, names.RUN_LABEL, name) if names.owner_uid(m) == uid]
    synthesis = cache.get(SYNTHESIS, namespace, run.spec.synthesis_ref.name)
    alive = (
        synthesis is not None and names.uid(synthesis) == run.spec.synthesis_ref.uid and not names.deleting(synthesis)
    )
    wanted: ServingSynthesisSpec | None = None
    if alive and synthesis is not None:
        wanted = understood(
            ServingSynthesisSpec, synthesis["spec"], f"ServingSynthesis {names.name_of(synthesis)}: spec"
        )
    superseded = wanted is not None and intent_of(wanted) != names.label(manifest, names.INTENT_LABEL)
    environment = snapshot.environment

    def parts(part: str, key: str, model: type[M]) -> list[tuple[str, M]]:
        found: list[tuple[str, M]] = []
        for one in maps:
            if names.label(one, names.PART_LABEL) != part:
                continue
            try:
                found.append((names.name_of(one), _parsed(model, one.get("data", {}).get(key, ""))))
            except ValidationError as error:
                damaged.append(f"ConfigMap {names.name_of(one)}: {error.errors()[0]['msg']}")
        return found

    def children(kind: Kind, *, owned: bool = True) -> tuple[Manifest, ...]:
        every = cache.labelled(kind, namespace, names.RUN_LABEL, name)
        return tuple(m for m in every if not owned or names.owner_uid(m) == uid)

    specs = parts(names.SPEC, SPEC_KEY, RunSpec)
    endings = parts(names.ENDING, ENDING_KEY, Ending)
    secrets = children(SECRET)
    seals = [m for m in secrets if names.label(m, names.PART_LABEL) == names.SEAL]
    return RunObserved(
        run=run,
        manifest=manifest,
        place=Place(
            settings=settings,
            hardware=snapshot.hardware,
            agents=snapshot.agents,
            model=snapshot.synthesis.model.source,
            dtype=snapshot.synthesis.model.dtype,
            baseline_image=(environment and environment.baseline_image) or snapshot.synthesis.baseline.image,
        ),
        synthesis_alive=alive,
        suspended=wanted is not None and wanted.suspend,
        superseded=superseded,
        wanted=None if superseded else wanted,
        word=run.spec.control.message or _annotated(manifest) or _annotated(synthesis if alive else None),
        queue_left=_queue_left(cache, snapshot),
        spec=specs[0][1] if specs else None,
        spec_name=names.child_name(run.spec.synthesis_ref.name, uid, names.SPEC),
        seal=decoded(seals[0], SEAL_KEY) if seals else None,
        models=_models(cache, namespace, snapshot),
        steps=tuple(sorted((s for _, s in parts(names.STEP, STEP_KEY, StepBegin)), key=lambda s: s.sequence)),
        records=tuple(
            sorted((r for _, r in parts(names.RECORD, RECORD_KEY, StoredRecord)), key=lambda r: r.record.sequence)
        ),
        ending=endings[0][1] if endings else None,
        stacks={index.content_hash: index for _, index in parts(names.STACK, INDEX_KEY, StackIndex)},
        jobs=children(JOB),
        pods=children(POD, owned=False),
        secrets=secrets,
        deployments=children(DEPLOYMENT),
        candidates=children(CANDIDATE),
        damaged=tuple(damaged),
    )


def _annotated(manifest: Manifest | None) -> str:
    """The word that an annotation says, as long as one in `spec.control` may be."""
    annotations = ((manifest or {}).get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(names.MESSAGE_ANNOTATION, ""))[:LONGEST_WORD]


def _models(cache: Cache, namespace: str, snapshot: Snapshot) -> ModelsSeen | None:
    reference = snapshot.synthesis.agents.profile_ref
    if snapshot.agents.backend == "playbook" or reference is None:
        return None
    profile = cache.get(PROFILE, namespace, reference.name)
    if profile is None or names.deleting(profile):
        waits = f"there is no AgentProfile {reference.name} any more; create it again, with the same name"
        return ModelsSeen(reference.name, waits=waits)
    proxy = observe_proxy(cache, profile)
    secret = proxy.parts.get(SECRET)
    key = decoded(secret, GRANT_KEY) if secret is not None else None
    waits = "" if proxy.ready and key is not None else f"the model proxy of AgentProfile {reference.name} is not ready"
    return ModelsSeen(reference.name, proxy_url(profile), proxy.address, key, waits)


def decoded(secret: Manifest, key: str) -> str | None:
    """A value of a Secret, which is base64 text on the wire."""
    try:
        return base64.b64decode(secret.get("data", {}).get(key, ""), validate=True).decode("ascii") or None
    except (binascii.Error, UnicodeDecodeError):
        return None


def config_map(
    owner: Manifest, name: str, part: str, data: Mapping[str, Record | str], labels: Mapping[str, str]
) -> Manifest:
    """An immutable ConfigMap that is part of a run's memory."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": names.metadata(name, owner, {names.PART_LABEL: part, **labels}),
        "immutable": True,
        "data": {k: v if isinstance(v, str) else v.model_dump_json(exclude_none=True) for k, v in data.items()},
    }


def _queue_left(cache: Cache, snapshot: Snapshot) -> bool:
    """Whether the target names another queue than the run's Jobs wait in, or none (the target may be gone)."""
    if snapshot.hardware.kueue is None:
        return False
    target = cache.get(TARGET, None, snapshot.synthesis.hardware.target_ref.name)
    queue = ((target or {}).get("spec", {}).get("kueue") or {}).get("queueName")
    return queue != snapshot.hardware.kueue.queue_name
