"""Gathers what is known of one synthesis."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from sartor_api.agent_profile import AgentProfile
from sartor_api.hardware_target import HardwareTarget, HardwareTargetStatus
from sartor_api.meta import ObjectMeta
from sartor_api.policy import Payback
from sartor_api.search.records import Outcome
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
    NODE,
    POD,
    PROFILE,
    RUN,
    SERVICE,
    SERVICE_ACCOUNT,
    SYNTHESIS,
    TARGET,
    Manifest,
)
from sartor_operator.pods import state
from sartor_operator.pods.archive import INDEX_KEY
from sartor_operator.pods.jobs import ACCOUNTS
from sartor_operator.profile import profile_spec
from sartor_operator.run.observe import RunObserved, observe_run
from sartor_operator.settings import Settings
from sartor_operator.synthesis.access import POLICIES
from sartor_operator.synthesis.intent import intent_of
from sartor_operator.synthesis.references import References
from sartor_operator.synthesis.traffic import ARMS, DIGEST, RolloutSeen, Traffic, observe_rollouts, observe_traffic
from sartor_operator.target import target_status
from sartor_operator.understood import derived, understood
from sartor_operator.wire import StackIndex

CONTENT_ANNOTATION = "sartor.dev/content-hash"
"""On a stack's pods, and on what carries its content in its name: the whole hash."""


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
    def number(self) -> int:
        """Which search of its synthesis this is, counted from 1: a part of its name, which nobody can change."""
        parts = self.name.rsplit("-", 3)
        return int(parts[1]) if len(parts) == 4 and parts[1].isdecimal() else 1

    @property
    def request(self) -> str:
        """The value of the annotation that asks for another search, as this one knew it."""
        found: Any = self.manifest["spec"]["snapshot"].get("environment") or {}
        return str(found.get("request", ""))

    @property
    def ended(self) -> bool:
        return self.status.finished_at is not None

    @property
    def superseded(self) -> bool:
        """Ended because the intent was another one for a while: going back to this intent needs a new run."""
        return self.status.phase is RunPhase.CANCELLED and self._reason == "Superseded"

    @property
    def won(self) -> bool:
        return self.status.phase is RunPhase.SUCCEEDED and self.status.best is not None

    @property
    def content(self) -> str:
        """What it found best, as 64 hexadecimal digits; empty without anything."""
        best = self.status.best
        return (best.content_hash or "").removeprefix(DIGEST) if best is not None else ""

    def hopeless(self, now: Payback) -> bool:
        """Ended because it could not pay by other terms than those of `now`: whether it can by these, a new run tells."""
        if self.status.phase is not RunPhase.NO_GAIN or self._reason != "CannotPayBack":
            return False
        before: Any = self.manifest["spec"]["snapshot"]["synthesis"].get("payback") or {}
        return derived(Payback, before) != now

    @cached_property
    def _reason(self) -> str:
        return next((c.reason for c in self.status.conditions if c.type == "Ready"), "")


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
    pods: tuple[Manifest, ...] = ()
    """Pods of the Deployments, the newest first."""
    access: Mapping[tuple[str, str], Manifest] = field(default_factory=dict[tuple[str, str], Manifest])
    nodes: HardwareTargetStatus | None = None
    """What the nodes of the HardwareTarget are."""
    drift: str | None = None
    """What the rollout of the winner says of a live speed-up below its confirmed interval. It is left out here: rollouts
    compare arms and tell no speed-up. `resynthesis` knows what to do with it."""
    damaged: tuple[str, ...] = ()
    """ConfigMaps of the synthesis that cannot be read."""
    traffic: Traffic = field(default_factory=Traffic)
    services_of: Mapping[str, str] = field(default_factory=dict[str, str])
    """Service of each stack that a rollout may have moved traffic to, by content."""
    served: Mapping[str, RunObserved] = field(default_factory=dict[str, RunObserved])
    """By content, the runs of stacks that are not those of the winner (or are not delivered as such), and are used."""

    @property
    def uid(self) -> str:
        return names.uid(self.manifest)

    @property
    def name(self) -> str:
        return names.name_of(self.manifest)

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    @property
    def rolls_out(self) -> bool:
        """Whether traffic is moved to winners, through a Gateway."""
        spec = self.synthesis.spec
        return spec.rollout.parent_refs is not None and spec.delivery.mode == "apply"

    @property
    def serving(self) -> str:
        """Content of the stack that has the traffic of the Gateway; empty for the baseline."""
        return self.traffic.serving(self.services_of)

    @property
    def content(self) -> str:
        """What the winner is delivered as, 64 hexadecimal digits; empty without a winner that was confirmed."""
        ending = self.winner.ending if self.winner is not None else None
        finished = ending.finished if ending is not None else None
        confirmed = finished is not None and finished.outcome is Outcome.CONFIRMED
        return (finished.content_hash or "") if finished is not None and confirmed else ""

    def with_secrets(self, secrets: Mapping[str, frozenset[str]]) -> "SynthesisObserved":
        """The same, knowing the keys of those Secrets that exist."""
        return replace(self, references=replace(self.references, secrets=secrets))


def _runs(cache: Cache, synthesis: Manifest) -> tuple[RunSeen, ...]:
    meta = synthesis["metadata"]
    found = cache.labelled(RUN, meta["namespace"], names.SYNTHESIS_LABEL, meta["name"])
    mine = (r for r in found if names.owner_uid(r) == meta["uid"] and not names.deleting(r))
    seen = [RunSeen(r, names.label(r, names.INTENT_LABEL), derived(SynthesisRunStatus, r.get("status"))) for r in mine]
    # Two runs may begin within one second, so their times do not order them.
    return tuple(sorted(seen, key=lambda r: (r.number, str(r.manifest["metadata"].get("creationTimestamp")), r.name)))


def _references(
    cache: Cache, synthesis: ServingSynthesis, namespace: str, score: float | None
) -> tuple[References, HardwareTargetStatus | None]:
    """What the synthesis refers to, and what the nodes of its target are."""
    name = synthesis.spec.hardware.target_ref.name
    found = cache.get(TARGET, None, name)
    target, nodes = None, None
    if found is not None:
        plain = {"metadata": {"name": name}, "spec": found["spec"]}
        target = understood(HardwareTarget, plain, f"HardwareTarget {name}")
        nodes = derived(HardwareTargetStatus, found.get("status"))
        if nodes.observed_generation != found["metadata"].get("generation", 1):
            nodes = target_status(found, target.spec, cache.all(NODE), 0.0)  # as its status will say in a moment
    reference = synthesis.spec.agents.profile_ref
    held = cache.get(PROFILE, namespace, reference.name) if reference is not None else None
    profile = None
    if reference is not None and held is not None:
        profile = AgentProfile(metadata=ObjectMeta(name=reference.name), spec=profile_spec(held))
    return References(synthesis, target, profile, {}, score), nodes


def _stacks(maps: Iterable[Manifest]) -> tuple[dict[str, StackIndex], list[str]]:
    """Published stacks by content, and names of the ConfigMaps that cannot be read."""
    stacks: dict[str, StackIndex] = {}
    damaged: list[str] = []
    for one in maps:
        if names.label(one, names.PART_LABEL) == names.STACK:
            try:
                index = StackIndex.model_validate_json(one.get("data", {}).get(INDEX_KEY, ""))
            except ValidationError:
                damaged.append(names.name_of(one))
            else:
                stacks[index.content_hash] = index
    return stacks, damaged


def _contents(runs: Iterable[RunSeen], rollouts: Iterable[RolloutSeen], services: Iterable[Manifest]) -> frozenset[str]:
    """Every content that traffic may have gone to."""
    told = (str((s["metadata"].get("annotations") or {}).get(CONTENT_ANNOTATION, "")) for s in services)
    arms = (content for r in rollouts for content in (r.content, r.baseline_content))
    return frozenset(c for c in (*(r.content for r in runs if r.won), *arms, *told) if c)


def _served(
    cache: Cache, settings: Settings, namespace: str, runs: tuple[RunSeen, ...], contents: Iterable[str]
) -> dict[str, RunObserved]:
    """The newest run of each of these contents, where there is one."""
    found: dict[str, RunObserved] = {}
    for content in contents:
        name = next((r.name for r in reversed(runs) if r.won and r.content == content), None)
        run = observe_run(cache, settings, namespace, name) if name is not None else None
        if run is not None:
            found[content] = run
    return found


def observe_synthesis(cache: Cache, settings: Settings, namespace: str, name: str) -> SynthesisObserved | None:
    """The synthesis, or None when there is none (any more). Raises `NotUnderstoodError`.

    Nothing is said of Secrets yet: which of them have to be known follows from this.
    """
    manifest = cache.get(SYNTHESIS, namespace, name)
    if manifest is None:
        return None
    plain = {"metadata": {"name": name}, "spec": manifest["spec"]}
    synthesis = understood(ServingSynthesis, plain, f"ServingSynthesis {name}")
    uid, intent = names.uid(manifest), intent_of(synthesis.spec)
    runs = _runs(cache, manifest)
    same = [r for r in runs if r.intent == intent]
    current = next(
        (r for r in reversed(same) if not r.superseded and not r.hopeless(synthesis.spec.payback)),
        None,
    )
    winners = [r for r in runs if r.won]
    winner = current if current is not None and current.won else (winners[-1] if winners else None)

    def mine(kind_objects: list[Manifest]) -> dict[str, Manifest]:
        return {names.name_of(m): m for m in kind_objects if names.owner_uid(m) == uid and not names.deleting(m)}

    maps = mine(list(cache.labelled(CONFIG_MAP, namespace, names.SYNTHESIS_LABEL, name)))
    stacks, damaged = _stacks(maps.values())
    rounds = () if current is None else tuple(
        derived(ServingCandidateStatus, c.get("status"))
        for c in cache.labelled(CANDIDATE, namespace, names.RUN_LABEL, current.name)
    )  # fmt: skip
    access = {
        (kind.kind, wanted): there
        for kind, every in ((SERVICE_ACCOUNT, ACCOUNTS), (NETWORK_POLICY, POLICIES))
        for wanted in every
        if (there := cache.get(kind, namespace, wanted)) is not None and not names.deleting(there)
    }
    pods = cache.labelled(POD, namespace, names.SYNTHESIS_LABEL, name)
    alone = [p for p in pods if not names.label(p, names.RUN_LABEL) and not names.deleting(p)]
    scores = (r.status.baseline.score for r in reversed(same) if r.status.baseline is not None)
    score = next((float(s.number) for s in scores if s is not None), None)
    references, nodes = _references(cache, synthesis, namespace, score)
    deployments = mine(list(cache.labelled(DEPLOYMENT, namespace, names.SYNTHESIS_LABEL, name)))
    services = mine(list(cache.labelled(SERVICE, namespace, names.SYNTHESIS_LABEL, name)))
    rollouts = observe_rollouts(cache, namespace, uid)
    services_of = {c: names.stack_name(name, uid, c) for c in _contents(runs, rollouts, services.values())}
    known = {*services_of.values(), *services, *deployments, *(r.service(arm) for r in rollouts for arm in ARMS)}
    traffic = observe_traffic(cache, namespace, rollouts, sorted(known))
    observed = SynthesisObserved(
        synthesis=synthesis,
        manifest=manifest,
        intent=intent,
        settings=settings,
        references=references,
        runs=runs,
        current=current,
        winner=observe_run(cache, settings, namespace, winner.name) if winner is not None else None,
        rounds=rounds,
        stacks=stacks,
        deployments=deployments,
        services=services,
        pods=tuple(sorted(alone, key=state.created, reverse=True)),
        access=access,
        nodes=nodes,
        damaged=tuple(damaged),
        traffic=traffic,
        services_of=services_of,
    )
    won = "" if winner is None or not observed.rolls_out or traffic.rejected(winner.content) else winner.content
    used = sorted(c for c, service in services_of.items() if c != won and traffic.needs(service))
    return replace(observed, served=_served(cache, settings, namespace, runs, used))
