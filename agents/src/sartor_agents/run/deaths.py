"""What a candidate's end means for what was seen of it."""

from sartor_agents.measurement.messages import Reason
from sartor_agents.run.servers import RunningServer
from sartor_api.search.records import FailureClass, Judgement, Verdict


def memory_death(server: RunningServer) -> tuple[str, str] | None:
    """Reason and message if the candidate was ended for its memory: the true cause of whatever else was seen."""
    death = server.death()
    return death if death is not None and death[0] == "MemoryExceeded" else None


_SAYS_NO_MORE = frozenset(
    reason.value for reason in (Reason.REQUEST_FAILED, Reason.CANDIDATE_DIED, Reason.CHECK_TIMED_OUT)
)
"""What the judge calls it when there is no answer: that the process ended tells more."""


def with_death(judgement: Judgement, server: RunningServer) -> Judgement:
    """The judgement with the candidate's end, before what followed from it and after what tells how it came about."""
    death = server.death()
    if death is None:
        return judgement
    reason, message = death
    verdict = Verdict(
        gate="alive",
        passed=False,
        reason=f"Candidate{reason}",
        message=message,
        failure_class=FailureClass.CANDIDATE,
    )
    others = [v for v in judgement.verdicts if v.passed or v.failure_class is FailureClass.CANDIDATE]
    tell = [v for v in others if reason == "Died" and not v.passed and v.reason not in _SAYS_NO_MORE]
    return Judgement(verdicts=(*tell, verdict, *(v for v in others if v not in tell)))
