"""Gathers what is known of one synthesis."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sartor_api.agent_profile import AgentProfile
from sartor_api.hardware_target import HardwareTarget
from sartor_api.serving_candidate import ServingCandidateStatus
from sartor_api.serving_synthesis import ServingSynthesis
from sartor_api.synthesis_run import RunPhase, SynthesisRunStatus
from sartor_operator import names
from sartor_operator.cache import Cache
from sartor_operator.kinds import (
    CANDIDATE,
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    PROFILE,
    RUN,
    SERVICE,
    SERVICE_ACCOUNT,
    SYNTHESIS,
    TARGET,
    Manifest,
)
from sartor_operator.pods.archive import INDEX_KEY
from sartor_operator.pods.jobs import ACCOUNTS
from sartor_operator.run.observe import RunObserved, observe_run
from sartor_operator.settings import Settings
from sartor_operator.synthesis.access import POLICIES
from sartor_operator.synthesis.intent import intent_of
from sartor_operator.synthesis.references import References, needed_secrets
from sartor_operator.wire import StackIndex


@dataclass(frozen=True)
class RunSeen:
    """A run of the synthesis, as its status tells it."""

    manifest: Manifest
    intent: str
    status: SynthesisRunStatus

    @property
    def name(self) -> str:
        return names.name_of(self.manifest)

    @property
    def ended(self) -> bool:
        return self.status.finished_at is not None

    @property
    def superseded(self) -> bool:
        """Ended because the intent was another one for a while: going back to this intent needs a new run."""
        return self.status.phase is RunPhase.CANCELLED and any(
            c.type == "Ready" and c.reason == "Superseded" for c in self.status.conditions
        )

    @property
    def won(self) -> bool:
        return self.status.phase is RunPhase.SUCCEEDED and self.status.best is not None


@dataclass(frozen=True)
class SynthesisObserved:
    """One synthesis as it stands. `runs` are from the oldest to the newest."""

    synthesis: ServingSynthesis
    manifest: Manifest
    intent: str
    settings: Settings
    references: References
    runs: tuple[RunSeen, ...] = ()
    current: RunSeen | None = None
    winner: RunObserved | None = None
    rounds: tuple[ServingCandidateStatus, ...] = ()
    stacks: Mapping[str, StackIndex] = field(default_factory=dict[str, StackIndex])
    deployments: Mapping[str, Manifest] = field(default_factory=dict[str, Manifest])
    services: Mapping[str, Manifest] = field(default_factory=dict[str, Manifest])
    access: frozenset[tuple[str, str]] = frozenset()

    @property
    def uid(self) -> str:
        return names.uid(self.manifest)

    @property
    def name(self) -> str:
        return names.name_of(self.manifest)

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])


def parse_synthesis(manifest: Manifest) -> ServingSynthesis:
    return ServingSynthesis.model_validate({"metadata": {"name": names.name_of(manifest)}, "spec": manifest["spec"]})


def _target(cache: Cache, name: str) -> HardwareTarget | None:
    found = cache.get(TARGET, None, name)
    return None if found is None else HardwareTarget.model_validate({"metadata": {"name": name}, "spec": found["spec"]})


def _profile(cache: Cache, namespace: str, name: str | None) -> AgentProfile | None:
    found = cache.get(PROFILE, namespace, name) if name else None
    if found is None:
        return None
    return AgentProfile.model_validate({"metadata": {"name": name}, "spec": found.get("spec", {})})


def secrets_to_read(cache: Cache, namespace: str, name: str) -> list[str]:
    """Names of Secrets whose keys have to be known before a run can begin; none once it has begun."""
    manifest = cache.get(SYNTHESIS, namespace, name)
    if manifest is None:
        return []
    synthesis = parse_synthesis(manifest)
    if any(names.label(r, names.INTENT_LABEL) == intent_of(synthesis.spec) for r in _runs(cache, manifest)):
        return []
    target = _target(cache, synthesis.spec.hardware.target_ref.name)
    reference = synthesis.spec.agents.profile_ref
    profile = _profile(cache, namespace, reference.name if reference else None)
    return sorted({ref.name for _, ref in needed_secrets(synthesis, target, profile)})


def _runs(cache: Cache, synthesis: Manifest) -> list[Manifest]:
    meta = synthesis["metadata"]
    found = cache.labelled(RUN, meta["namespace"], names.SYNTHESIS_LABEL, meta["name"])
    mine = [r for r in found if names.owner_uid(r) == meta["uid"] and not names.deleting(r)]
    return sorted(mine, key=lambda r: (str(r["metadata"].get("creationTimestamp", "")), names.name_of(r)))


def observe_synthesis(
    cache: Cache, settings: Settings, namespace: str, name: str, secrets: Mapping[str, frozenset[str]]
) -> SynthesisObserved | None:
    """The synthesis, or None when there is none (any more)."""
    manifest = cache.get(SYNTHESIS, namespace, name)
    if manifest is None:
        return None
    synthesis = parse_synthesis(manifest)
    uid, intent = names.uid(manifest), intent_of(synthesis.spec)
    reference = synthesis.spec.agents.profile_ref
    runs = tuple(
        RunSeen(r, names.label(r, names.INTENT_LABEL), SynthesisRunStatus.model_validate(r.get("status") or {}))
        for r in _runs(cache, manifest)
    )
    current = next((r for r in reversed(runs) if r.intent == intent and not r.superseded), None)
    winners = [r for r in runs if r.won]
    winner = current if current is not None and current.won else (winners[-1] if winners else None)

    def mine(kind_objects: list[Manifest]) -> dict[str, Manifest]:
        return {names.name_of(m): m for m in kind_objects if names.owner_uid(m) == uid and not names.deleting(m)}

    stacks: dict[str, StackIndex] = {}
    for one in mine(list(cache.labelled(CONFIG_MAP, namespace, names.SYNTHESIS_LABEL, name))).values():
        if names.label(one, names.PART_LABEL) == names.STACK:
            index = StackIndex.model_validate_json(one["data"][INDEX_KEY])
            stacks[index.content_hash] = index
    rounds = () if current is None else tuple(
        ServingCandidateStatus.model_validate(c.get("status") or {})
        for c in cache.labelled(CANDIDATE, namespace, names.RUN_LABEL, current.name)
    )  # fmt: skip
    access = frozenset(
        (kind.kind, wanted)
        for kind, every in ((SERVICE_ACCOUNT, ACCOUNTS), (NETWORK_POLICY, POLICIES))
        for wanted in every
        if cache.get(kind, namespace, wanted) is not None
    )
    return SynthesisObserved(
        synthesis=synthesis,
        manifest=manifest,
        intent=intent,
        settings=settings,
        references=References(
            synthesis,
            _target(cache, synthesis.spec.hardware.target_ref.name),
            _profile(cache, namespace, reference.name if reference else None),
            secrets,
        ),
        runs=runs,
        current=current,
        winner=observe_run(cache, settings, namespace, winner.name) if winner is not None else None,
        rounds=rounds,
        stacks=stacks,
        deployments=mine(list(cache.labelled(DEPLOYMENT, namespace, names.SYNTHESIS_LABEL, name))),
        services=mine(list(cache.labelled(SERVICE, namespace, names.SYNTHESIS_LABEL, name))),
        access=access,
    )
