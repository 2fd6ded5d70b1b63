"""Which rollouts want to know of an outage, and what was last seen of each."""

from collections.abc import Callable
from dataclasses import dataclass

from sartor_operator.rollout.analysis.access_logs import AccessLogs
from sartor_operator.rollout.analysis.agenda import FORGET_SECONDS
from sartor_operator.rollout.analysis.reach import Run, out
from sartor_operator.rollout.records import Backend, backends
from sartor_operator.rollout.samples import ArmsAsked, Outage
from sartor_operator.rollout.verdict.samples import ArmName
from sartor_operator.times import format_time


@dataclass(slots=True)
class _Asked:
    arms: ArmsAsked
    at: float
    outage: Outage | None = None


class Outages:
    """`tell` is called with namespace and name of a rollout whose arm is out, or is no longer. `now` counts seconds and
    never goes back, `wall` is Unix seconds."""

    def __init__(self, logs: AccessLogs, tell: Callable[[str, str], None]) -> None:
        self._logs, self._tell = logs, tell
        self._asked: dict[str, _Asked] = {}

    def ask(self, arms: ArmsAsked, now: float) -> Outage | None:
        """What is known; from now on somebody looks, for as long as it is asked for."""
        known = self._asked.get(arms.uid)
        self._asked[arms.uid] = _Asked(arms, now, None if known is None else known.outage)
        return self._asked[arms.uid].outage

    def arrange(self, now: float) -> bool:
        """Forget what nobody asks for any more, and have the rest watched. Whether there is any."""
        self._asked = {uid: one for uid, one in self._asked.items() if now - one.at <= FORGET_SECONDS}
        self._logs.watch({backend for one in self._asked.values() for backend in backends(one.arms)})
        return bool(self._asked)

    def look(self, wall: float) -> None:
        """What the records say, when the logs were read."""
        for one in list(self._asked.values()):
            ready = (one.arms.baseline_ready, one.arms.candidate_ready)
            for backend, there in zip(backends(one.arms), ready, strict=True):
                reach = self._logs.reach(backend)
                if reach is not None and not there:
                    reach.release()
            before, one.outage = one.outage, self._outage(one.arms, wall)
            if (before is None) != (one.outage is None):
                self._tell(one.arms.namespace, one.arms.name)

    def _outage(self, arms: ArmsAsked, wall: float) -> Outage | None:
        baseline, candidate = backends(arms)
        for arm, mine, theirs in ((ArmName.CANDIDATE, candidate, baseline), (ArmName.BASELINE, baseline, candidate)):
            run = self._run(mine, theirs, wall)
            if run is not None:
                return Outage(arm.value, _words(run))
        return None

    def _run(self, mine: Backend, theirs: Backend, wall: float) -> Run | None:
        one, other = self._logs.reach(mine), self._logs.reach(theirs)
        if one is None or other is None:
            return None
        return out(one, other, wall, whole=self._logs.whole)


def _words(run: Run) -> str:
    return (
        f"the gateway connects to it no more (since {format_time(run.first)}: UF or UH, and no answer), while the other arm "
        f"answers; it is tried again after {format_time(run.last + run.hold)} if it is still said to be ready"
    )
