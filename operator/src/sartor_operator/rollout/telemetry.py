"""What can be watched of rollouts. Series of a rollout end with it, and those of one that has ended at once."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge

from sartor_api.conditions import ConditionType
from sartor_api.serving_rollout import RolloutPhase, ServingRolloutStatus

_OBJECT = ["namespace", "name"]
_ARMS = ("baseline", "candidate")
_ENDS = (RolloutPhase.PROMOTED, RolloutPhase.ROLLED_BACK)


class RolloutMetrics:
    """All series of rollouts. Weights are per cent, times seconds; samples, errors and hand-overs are those of the step
    under way, so that they fall when a step begins."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, [*_OBJECT, *labels], registry=registry)

        self.phase = gauge("sartor_rollout_phase", "1 for the phase that a rollout is in.", "phase")
        self.wanted = gauge("sartor_rollout_weight_wanted", "Per cent of the traffic that an arm is to get.", "arm")
        self.accepted = gauge("sartor_rollout_weight_accepted", "Per cent as the Gateway accepted it.", "arm")
        self.ready = gauge("sartor_rollout_ready_replicas", "Ready endpoints of an arm.", "arm")
        self.step = gauge("sartor_rollout_step", "Step under way, from 1.")
        self.step_began = gauge(
            "sartor_rollout_step_started_timestamp_seconds", "When the step began (time in it: time() minus this)."
        )
        self.samples = gauge("sartor_rollout_samples", "Requests of an arm in this step.", "arm")
        self.errors = gauge("sartor_rollout_errors", "Of those, failed.", "arm")
        self.handovers = gauge("sartor_rollout_handovers", "Of those, handed over to the baseline.", "arm")
        self.verdict = gauge("sartor_rollout_verdict", "1 for what the samples of this step say.", "outcome")
        self.guardrail = gauge(
            "sartor_rollout_guardrail", "What a guardrail compares (seconds, fraction or plain).", "metric", "arm"
        )
        self.frozen = gauge("sartor_rollout_frozen", "1 for the reason of a freeze that lasts.", "reason")
        self.freezes = Counter(
            "sartor_rollout_freezes_total", "Freezes that began, by reason.", ["reason"], registry=registry
        )
        self.ends = Counter(
            "sartor_rollouts_ended_total", "Ends and promotions, by phase.", ["namespace", "phase"], registry=registry
        )
        self._known: dict[tuple[str, str], ServingRolloutStatus] = {}
        self._series: dict[tuple[str, str], set[tuple[Gauge, tuple[str, ...]]]] = {}

    def seen(self, namespace: str, name: str, status: ServingRolloutStatus) -> None:
        """One look at a rollout. What counts events counts what this process saw change."""
        before = self._known.get((namespace, name))
        self._count(namespace, before, status)
        if status.finished_at is not None:
            self.gone(namespace, name)
            return
        self._known[namespace, name] = status
        made = set[tuple[Gauge, tuple[str, ...]]]()
        for gauge, labels, value in self._values(status):
            gauge.labels(namespace, name, *labels).set(value)
            made.add((gauge, labels))
        for gauge, labels in self._series.get((namespace, name), set()) - made:
            gauge.remove(namespace, name, *labels)
        self._series[namespace, name] = made

    def _values(self, status: ServingRolloutStatus) -> Iterator[tuple[Gauge, tuple[str, ...], float]]:
        if status.phase is not None:
            yield self.phase, (status.phase.value,), 1
        for arm, of in zip(_ARMS, (status.baseline, status.candidate), strict=True):
            yield self.wanted, (arm,), of.wanted_weight
            yield self.accepted, (arm,), of.weight
            yield self.ready, (arm,), of.ready_replicas
            yield self.samples, (arm,), of.samples
            yield self.errors, (arm,), of.errors
            yield self.handovers, (arm,), of.handovers
        yield self.step, (), status.step or 0
        if status.step_started_at is not None:
            yield self.step_began, (), status.step_started_at.timestamp()
        if (reason := _frozen(status)) is not None:
            yield self.frozen, (reason,), 1
        if status.verdict is None:
            return
        yield self.verdict, (status.verdict.outcome,), 1
        for guardrail in status.verdict.guardrails:
            for arm, value in zip(_ARMS, (guardrail.baseline, guardrail.candidate), strict=True):
                if value is not None:
                    yield self.guardrail, (guardrail.metric, arm), float(value.number)

    def gone(self, namespace: str, name: str) -> None:
        """The rollout is deleted, or has ended."""
        self._known.pop((namespace, name), None)
        for gauge, labels in self._series.pop((namespace, name), set()):
            gauge.remove(namespace, name, *labels)

    def _count(self, namespace: str, before: ServingRolloutStatus | None, status: ServingRolloutStatus) -> None:
        if before is None:
            for phase in _ENDS:
                self.ends.labels(namespace, phase.value)  # at 0: who asks for the increase would not see the first end
            return
        reason = _frozen(status)
        if reason is not None and reason != _frozen(before):
            self.freezes.labels(reason).inc()
        ended = status.phase in _ENDS
        if ended and status.phase is not before.phase and status.phase is not None:
            self.ends.labels(namespace, status.phase.value).inc()


def _frozen(status: ServingRolloutStatus) -> str | None:
    return next(
        (c.reason for c in status.conditions if c.type == ConditionType.FROZEN.value and c.status == "True"), None
    )
