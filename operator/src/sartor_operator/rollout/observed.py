"""What is known of one rollout when it is decided upon: both arms, the route, the newest verdict, siblings."""

from dataclasses import dataclass
from functools import cached_property

from sartor_api.conditions import ConditionType
from sartor_api.meta import Condition
from sartor_api.rollout_policy import RolloutPolicy
from sartor_api.serving_rollout import ServingRollout, ServingRolloutSpec, ServingRolloutStatus
from sartor_operator import names
from sartor_operator.kinds import Manifest
from sartor_operator.rollout.position import Position, StepSeen, position_of
from sartor_operator.rollout.route import (
    MIRROR,
    PERCENTAGE_MIRROR,
    REQUEST_TIMEOUT,
    RETRY,
    SESSION_PERSISTENCE,
    RouteSeen,
)
from sartor_operator.rollout.samples import Outage, Reading
from sartor_operator.times import parse_time

NOTHING_READ = Reading()
FULL_ANNOTATION = "sartor.dev/full-replicas"
"""On a Deployment that a rollout has scaled down: its replicas before. Written with the scaling, in one request, so that no
crash can part the two; and on the Deployment, since the next rollout has to know it, too."""


@dataclass(frozen=True)
class DeploymentSeen:
    """The Deployment of an arm that Sartor may scale. `full`: its replicas before it was scaled down, None if it was not."""

    name: str
    uid: str
    replicas: int
    full: int | None = None


@dataclass(frozen=True)
class ArmSeen:
    """One arm. `ready` counts endpoints that take new requests, `there` says whether the Service exists; without it nothing
    is ready."""

    there: bool = True
    ready: int = 0
    deployment: DeploymentSeen | None = None
    missing: str = ""
    """The Deployment that the spec names and that is not there."""
    unreachable: str = ""
    """Why its ready endpoints do not count: a gateway cannot connect to them (`outage`). Empty where they do."""

    @property
    def size(self) -> int:
        """Replicas that it takes to answer everything. Of an arm that Sartor may not scale nothing is known: its owner sizes
        it, and one ready endpoint counts."""
        if self.deployment is None:
            return 1
        return max(1, self.deployment.full or self.deployment.replicas)

    @property
    def capacity(self) -> int:
        """Endpoints to count on. Right after a scale-down the Service still has those that are about to go."""
        if self.unreachable:
            return 0
        return self.ready if self.deployment is None else min(self.ready, self.deployment.replicas)

    @property
    def alive(self) -> bool:
        return self.ready > 0 and not self.unreachable

    def needed(self, weight: int) -> int:
        """Ready endpoints that it takes to answer `weight` per cent."""
        return 0 if weight <= 0 else max(1, -(-weight * self.size // 100))

    def can_take(self, weight: int) -> bool:
        return self.capacity >= self.needed(weight)

    @property
    def share(self) -> int:
        """Per cent of the traffic that it has ready capacity for."""
        return min(100, 100 * self.capacity // self.size)


@dataclass(frozen=True)
class ProbeSeen:
    """The probe of a rollout. `wanted`: the policy names it as a source; `ready` counts its ready endpoints; `waits` is why
    it has none. `there`: its Deployment and Service as far as they exist, `manifests` as they should be."""

    name: str
    wanted: bool = True
    ready: int = 0
    waits: str = ""
    there: tuple[Manifest, ...] = ()
    manifests: tuple[Manifest, ...] = ()


@dataclass(frozen=True)
class Successor:
    """A newer rollout for the same route. `takes_over`: it starts from where this one ended, its baseline being what was
    promoted here, so that traffic need not go back first. `replaces`: the same object made both, and wants the newer one."""

    name: str
    takes_over: bool = False
    replaces: bool = False


@dataclass(frozen=True)
class RolloutObserved:
    """One rollout as it stands. `gateway_api`: whether the cluster knows HTTPRoutes at all."""

    rollout: ServingRollout
    manifest: Manifest
    before: ServingRolloutStatus
    wanted_name: str
    gateway_api: bool = True
    features: frozenset[str] | None = None
    """What the classes of all Gateways support; None where one does not say."""
    route: RouteSeen | None = None
    baseline: ArmSeen = ArmSeen()
    candidate: ArmSeen = ArmSeen()
    probe: ProbeSeen | None = None
    """None where there is no such thing, and none is wanted."""
    reading: Reading = NOTHING_READ
    outage: Outage | None = None
    """What the gateway's records say, whether or not it is believed (`ArmSeen.unreachable`)."""
    older: str = ""
    """What has the route before this rollout may."""
    rejected_by: str = ""
    """The rollout that rolled these very bytes back."""
    baseline_rejected_by: str = ""
    """The rollout that rolled back the bytes which are to be the baseline here (it went back after this one was made)."""
    successor: Successor | None = None

    @property
    def spec(self) -> ServingRolloutSpec:
        return self.rollout.spec

    @property
    def policy(self) -> RolloutPolicy:
        return self.rollout.spec.policy

    @cached_property
    def position(self) -> Position:
        """Where the status, as the API server has it, says that the rollout stands."""
        return position_of(self.before)

    @property
    def name(self) -> str:
        return names.name_of(self.manifest)

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    @property
    def generation(self) -> int:
        return int(self.manifest["metadata"].get("generation", 1))

    @property
    def deleting_since(self) -> float | None:
        return parse_time(self.manifest["metadata"].get("deletionTimestamp"))

    def condition(self, kind: ConditionType) -> Condition | None:
        """A condition of the stored status."""
        return next((c for c in self.before.conditions if c.type == kind.value), None)

    def since(self, kind: ConditionType, status: str) -> float | None:
        """Since when the stored condition has this status; None where it has another."""
        found = self.condition(kind)
        return found.last_transition_time.timestamp() if found is not None and found.status == status else None

    @property
    def frozen_for(self) -> str:
        """The reason of a freeze that the stored status tells of; empty without one."""
        found = self.condition(ConditionType.FROZEN)
        return found.reason if found is not None and found.status == "True" else ""

    @property
    def probed(self) -> bool:
        """Whether copies of requests are for a probe."""
        return self.probe is not None and self.probe.wanted

    @property
    def copies_to(self) -> str:
        """The Service of a probe that can take copies; empty without one."""
        return self.probe.name if self.probe is not None and self.probe.wanted and self.probe.ready else ""

    def mirror_of(self, step: StepSeen) -> int:
        """Per cent of the requests that the candidate itself gets as a copy: none where a probe asks both arms."""
        return 0 if self.probed else step.mirror

    @property
    def missing_features(self) -> tuple[str, ...]:
        """Features that the policy needs and the Gateways lack, each with what needs it."""
        return missing_features(self.policy, self.features)

    def supports(self, feature: str, *, unknown: bool) -> bool:
        """Whether the Gateways support it; `unknown` where they do not say."""
        return unknown if self.features is None else feature in self.features

    @property
    def timeouts(self) -> bool:
        return self.supports(REQUEST_TIMEOUT, unknown=True)

    @property
    def retries(self) -> bool:
        return self.supports(RETRY, unknown=False)  # not in the standard channel: the field may not exist


def missing_features(policy: RolloutPolicy, features: frozenset[str] | None) -> tuple[str, ...]:
    """Features that are needed and lacking. What a Gateway does not say is left for it to refuse, except fields that are not
    in the standard channel."""
    missing: list[str] = []
    mirrors = [step.mirror for step in policy.steps if step.mirror is not None]
    if "probe" in policy.analysis.sources:
        if features is not None and MIRROR not in features:
            missing.append(f"{MIRROR} (analysis.sources: probe)")
    elif features is not None and mirrors and MIRROR not in features:
        missing.append(f"{MIRROR} (steps with mirror)")
    elif features is not None and any(m < 100 for m in mirrors) and PERCENTAGE_MIRROR not in features:
        missing.append(f"{PERCENTAGE_MIRROR} (steps that mirror less than 100)")
    sticky = policy.sticky_sessions
    if sticky is not None and sticky.by == "contentHash":
        missing.append("stickySessions.by: contentHash (no feature of Gateway API tells clients apart by content)")
    elif sticky is not None and SESSION_PERSISTENCE not in (features or ()):
        missing.append(f"{SESSION_PERSISTENCE} (stickySessions)")
    return tuple(missing)
