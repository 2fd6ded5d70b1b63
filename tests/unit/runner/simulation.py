"""A machine without processes: carries out what `sync` asks for, in pretended time, and keeps every status.

A `Script` says what a container does: how long each attempt runs and how it ends; the last entry repeats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sartor_runner.core import probes
from sartor_runner.core.observed import (
    Action,
    Delete,
    Discard,
    Forget,
    Observed,
    Refresh,
    Run,
    RunProbe,
    SetUp,
    Start,
    Stop,
    TearDown,
)
from sartor_runner.core.pod import parse
from sartor_runner.core.probes import Kind, ProbeState
from sartor_runner.core.sync import sync

START = 1_000_000.0


@dataclass(frozen=True)
class Attempt:
    """`seconds`: until it ends by itself (None: never); `stops`: seconds it takes to obey the stop signal (None: never)."""

    seconds: float | None = None
    code: int = 0
    stops: float | None = 0.0


@dataclass
class Machine:
    """`answers` of a probe: [(from when, passes)], by container and kind."""

    raw: dict[str, Any]
    scripts: Mapping[str, Sequence[Attempt]]
    answers: Mapping[tuple[str, Kind], Sequence[tuple[float, bool]]] = field(default_factory=dict)
    observed: Observed = field(default_factory=Observed)
    now: float = START
    statuses: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)
    done: list[tuple[float, Action]] = field(default_factory=list)
    deleted_object: bool = False
    discarded: bool = False

    def run(self, seconds: float) -> "Machine":
        """Lets so much time pass."""
        end = self.now + seconds
        for _ in range(10_000):
            decision = sync(parse(self.raw), self.observed, self.now)
            self._keep(decision.status)
            for action in decision.actions:
                self.done.append((self.now, action))
                self._do(action)
            if self._end_runs() or decision.actions:
                continue
            moments = [decision.wake, *self._ends()]
            following = min((m for m in moments if m is not None and m > self.now), default=None)
            if decision.wake is not None:
                assert decision.wake > self.now, "woken for something that is due and was not asked for"
            if following is None or following > end:
                self.now = end
                return self
            self.now = following
        raise AssertionError("the core asks for something without end")

    def delete(self, grace: float) -> "Machine":
        self.raw["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}
        return self

    @property
    def status(self) -> Mapping[str, Any]:
        return self.statuses[-1][1]

    def phases(self) -> list[str]:
        """Phases in the order they were seen, without repetitions."""
        found: list[str] = []
        for _, status in self.statuses:
            if not found or found[-1] != status["phase"]:
                found.append(status["phase"])
        return found

    def starts(self, name: str = "main") -> list[float]:
        """Seconds after the beginning at which attempts of the container began."""
        return [at - START for at, action in self.done if isinstance(action, Start) and action.container == name]

    def _keep(self, status: Mapping[str, Any]) -> None:
        self.observed = replace(self.observed, status=status)
        if not self.statuses or self.statuses[-1][1] != status:
            self.statuses.append((self.now, status))

    def _do(self, action: Action) -> None:
        match action:
            case SetUp():
                self.observed = replace(self.observed, setup="ready", addresses=("10.244.0.9",))
            case TearDown():
                self.observed = replace(self.observed, setup="removed", addresses=())
            case Start():
                run = Run(
                    action.attempt, f"id-{action.container}-{action.attempt}", "image", self.now, backoff=action.backoff
                )
                self._put(action.container, run)
            case Stop():
                run = self.observed.latest(action.container)
                assert run is not None
                self._put(action.container, replace(run, stop_by=action.by))
            case Forget():
                runs = tuple(r for r in self.observed.runs[action.container] if r.attempt != action.attempt)
                self.observed = replace(self.observed, runs={**self.observed.runs, action.container: runs})
            case RunProbe():
                self._probe(action)
            case Refresh():
                self.observed = replace(self.observed, refresh_at=self.now + 60)
            case Delete():
                self.observed, self.deleted_object = replace(self.observed, deleting=True, gone=True), True
            case Discard():
                self.discarded = True
                self.observed = replace(self.observed, setup="removing")

    def _probe(self, action: RunProbe) -> None:
        key = (action.container, action.kind)
        container = next(c for c in parse(self.raw).containers if c.name == action.container)
        state = self.observed.probes.get(key)
        if state is None or state.attempt != action.attempt:
            state = probes.initial(action.kind, action.attempt)
        begun = probes.begun(state, self.now)
        passed = [ok for since, ok in self.answers[key] if since <= self.now - START][-1]
        after: ProbeState = probes.recorded(begun, action.kind, probes.of(container)[action.kind], passed)
        self.observed = replace(self.observed, probes={**self.observed.probes, key: after})

    def _put(self, name: str, run: Run) -> None:
        runs = tuple(r for r in self.observed.runs.get(name, ()) if r.attempt != run.attempt)
        self.observed = replace(self.observed, runs={**self.observed.runs, name: (*runs, run)})

    def _plan(self, name: str, run: Run) -> tuple[float | None, int]:
        script = self.scripts[name]
        attempt = script[min(run.attempt, len(script) - 1)]
        assert run.started_at is not None
        own = None if attempt.seconds is None else run.started_at + attempt.seconds
        stopped = next(
            (at for at, a in self.done if isinstance(a, Stop) and (a.container, a.attempt) == (name, run.attempt)), None
        )
        if stopped is None:
            return own, attempt.code
        ways = [
            (run.stop_by, 137),
            (None if attempt.stops is None else stopped + attempt.stops, 143),
            (own, attempt.code),
        ]
        return min(((at, code) for at, code in ways if at is not None), key=lambda way: way[0])

    def _running(self) -> list[tuple[str, Run]]:
        return [(name, run) for name, runs in self.observed.runs.items() for run in runs if run.running]

    def _ends(self) -> list[float | None]:
        return [self._plan(name, run)[0] for name, run in self._running()]

    def _end_runs(self) -> bool:
        """Whether something ended now."""
        over = [(name, run, *self._plan(name, run)) for name, run in self._running()]
        due = [(name, run, at, code) for name, run, at, code in over if at is not None and at <= self.now]
        for name, run, at, code in due:
            self._put(name, replace(run, exit_code=code, finished_at=at))
        return bool(due)


def pod(*, restart: str = "Always", containers: Sequence[dict[str, Any]] = ({},), **spec: Any) -> dict[str, Any]:
    """A pod object; containers without a name are called `main`."""
    return {
        "metadata": {"uid": "uid-1", "namespace": "team", "name": "web", "resourceVersion": "1"},
        "spec": {
            "restartPolicy": restart,
            "containers": [{"name": "main", "image": "test", **container} for container in containers],
            **spec,
        },
    }
