"""What can be watched of the operator. Series of an object end with the object; those of its progress when it has ended."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sartor_api.serving_synthesis import ServingSynthesisStatus, SynthesisPhase
from sartor_api.synthesis_run import SynthesisRunStatus
from sartor_operator.rollout.telemetry import RolloutMetrics

_OBJECT = ["namespace", "name"]
_BUDGETS = ("rounds", "wallClockSeconds", "acceleratorHours", "tokens", "money")


class Metrics:
    """All series, in a registry of their own."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._runs: dict[tuple[str, str], None] = {}

        def counter(name: str, text: str, labels: list[str]) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: list[str] | None = None) -> Gauge:
            return Gauge(name, text, labels or [], registry=self.registry)

        def histogram(name: str, text: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, labels, registry=self.registry, buckets=buckets)

        times = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
        self.phase = gauge("sartor_synthesis_phase", "1 for the phase that a synthesis is in.", [*_OBJECT, "phase"])
        self.rounds = gauge("sartor_run_rounds", "Rounds begun by a run that has not ended.", _OBJECT)
        self.budget = gauge(
            "sartor_run_spent", "What a run that has not ended has spent of a budget.", [*_OBJECT, "budget"]
        )
        self.ends = counter("sartor_runs_ended_total", "Runs that ended, by phase.", ["phase"])
        self.reconcile = histogram(
            "sartor_reconcile_seconds", "One look at one object, writes included.", ["kind"], times
        )
        self.errors = counter("sartor_reconcile_errors_total", "Looks that failed, by what failed.", ["kind", "error"])
        self.waited = histogram("sartor_queue_wait_seconds", "From ready to taken by a worker.", ["kind"], times)
        self.depth = gauge("sartor_queue_depth", "Keys that wait for a worker.")
        self.requests = counter("sartor_api_requests_total", "Requests to the API server.", ["verb", "code"])
        self.latency = histogram("sartor_api_request_seconds", "Time of a request to the API server.", ["verb"], times)
        self.writes = counter("sartor_api_writes_total", "Requests that change something.", ["verb"])
        self.leader = gauge("sartor_leader", "1 while this process is the leader.")
        self.objects = gauge("sartor_cached_objects", "Objects in the cache.")
        self.age = gauge("sartor_watch_age_seconds", "Since the last list or event of a kind.", ["kind"])
        self.rollouts = RolloutMetrics(self.registry)

    def counted(self, verb: str, code: str, seconds: float) -> None:
        """One answer of the API server."""
        self.requests.labels(verb, code).inc()
        if verb != "watch":
            self.latency.labels(verb).observe(seconds)
        if verb in ("create", "apply", "update", "delete"):
            self.writes.labels(verb).inc()

    def seen(self, kind: str) -> None:
        """A list or an event of this kind came."""
        if kind not in self._seen:
            self.age.labels(kind).set_function(lambda: self._clock() - self._seen[kind])
        self._seen[kind] = self._clock()

    def synthesis(self, namespace: str, name: str, status: ServingSynthesisStatus) -> None:
        """The phase of a synthesis; the other phases have no series."""
        for phase in SynthesisPhase:
            if phase is status.phase:
                self.phase.labels(namespace, name, phase.value).set(1)
            else:
                _drop(self.phase, namespace, name, phase.value)

    def synthesis_gone(self, namespace: str, name: str) -> None:
        for phase in SynthesisPhase:
            _drop(self.phase, namespace, name, phase.value)

    def run(self, namespace: str, name: str, status: SynthesisRunStatus) -> None:
        """The progress of a run, until it has ended."""
        if status.finished_at is not None:
            if (namespace, name) in self._runs:
                self.ends.labels(status.phase.value if status.phase else "").inc()
            self.run_gone(namespace, name)
            return
        self._runs[namespace, name] = None
        spent = status.spent
        self.rounds.labels(namespace, name).set(spent.rounds)
        values = (
            spent.rounds,
            spent.wall_clock.seconds,
            float(spent.accelerator_hours),
            spent.tokens,
            float(spent.money.amount) if spent.money else 0.0,
        )
        for budget, value in zip(_BUDGETS, values, strict=True):
            self.budget.labels(namespace, name, budget).set(value)

    def run_gone(self, namespace: str, name: str) -> None:
        self._runs.pop((namespace, name), None)
        _drop(self.rounds, namespace, name)
        for budget in _BUDGETS:
            _drop(self.budget, namespace, name, budget)


def _drop(gauge: Gauge, *labels: str) -> None:
    try:
        gauge.remove(*labels)
    except KeyError:
        return  # it never was
