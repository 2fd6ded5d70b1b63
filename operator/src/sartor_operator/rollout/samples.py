"""Where verdicts come from: a protocol, so that a rollout knows neither gateways nor statistics.

A reading is the newest that is known; asking for it does no I/O. Samples are taken outside both engines.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from sartor_api.conditions import Reason
from sartor_api.serving_rollout import ServingRolloutSpec, VerdictSummary
from sartor_operator.conditions import AnyReason

StepKind = Literal["mirror", "headerOptIn", "weight", "pause"]


@dataclass(frozen=True)
class ArmCounts:
    """Requests of one arm in one step."""

    samples: int = 0
    errors: int = 0
    handovers: int = 0


@dataclass(frozen=True)
class StepAsked:
    """The step that a verdict is wanted for. `number` is from 1, `since` Unix seconds, `weight` the candidate's per cent,
    `mirror` that of the copies. `uid` is the rollout's; with `number` and `since` it tells steps apart."""

    namespace: str
    name: str
    uid: str
    number: int
    kind: StepKind
    since: float
    weight: int
    spec: ServingRolloutSpec
    mirror: int = 0
    probe: str = ""
    """Name of the probe's Service; empty where the policy names no such source."""
    probe_waits: str = ""
    """Why the probe has no ready endpoint; empty where it has one."""


@dataclass(frozen=True)
class Reading:
    """What is known of one step.

    `reason` and `message` say why there is no verdict, or what an `error` comes from. Without a verdict and without a
    message the source is at work and has not said anything yet.
    """

    verdict: VerdictSummary | None = None
    baseline: ArmCounts = ArmCounts()
    candidate: ArmCounts = ArmCounts()
    reason: AnyReason = Reason.NO_SAMPLES
    message: str = ""
    begun: float | None = field(default=None, compare=False)
    """Since when (Unix seconds) the source looks at the step, where it has not said anything yet: an operator that was
    started anew in the middle of a step knows nothing of it for a moment. None: since the step began."""


@dataclass(frozen=True)
class ArmsAsked:
    """The arms that an outage is looked for among. `uid` is the rollout's."""

    namespace: str
    name: str
    uid: str
    spec: ServingRolloutSpec
    baseline_ready: bool = True
    candidate_ready: bool = True


@dataclass(frozen=True)
class Outage:
    """A gateway cannot connect to an arm, while the other one answers. `message` says since when, and what is next."""

    arm: Literal["baseline", "candidate"]
    message: str


class Verdicts(Protocol):
    """A source of verdicts. It must not block and must not raise: what goes wrong is a reading that says so."""

    def latest(self, step: StepAsked) -> Reading: ...

    def outage(self, arms: ArmsAsked) -> Outage | None:
        """The arm that is out now; None also where nobody could know."""
        ...


class NoVerdicts:
    """No source: rollouts freeze, and say why. A human can still promote them."""

    def latest(self, step: StepAsked) -> Reading:
        return Reading(
            message="no source of samples is configured for this operator; configure one, or promote by hand "
            "(spec.control.promote)"
        )

    def outage(self, arms: ArmsAsked) -> None:
        return None
