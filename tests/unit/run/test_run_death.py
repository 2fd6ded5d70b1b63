"""A candidate that ends under the judge: what is said first of it."""

from dataclasses import dataclass
from typing import cast

import pytest

from sartor_agents.run.deaths import with_death
from sartor_agents.run.servers import RunningServer
from sartor_api.search.records import FailureClass, Judgement, Verdict


@dataclass
class Ended:
    reason: str | None

    def death(self) -> tuple[str, str] | None:
        return None if self.reason is None else (self.reason, "the candidate ended (exit code 3)")


def failed(reason: str, blamed: FailureClass = FailureClass.CANDIDATE) -> Verdict:
    return Verdict(gate="g", passed=False, reason=reason, message="m", failure_class=blamed)


PASSED = Verdict(gate="accuracy", passed=True, reason="Passed", message="")


@pytest.mark.parametrize(
    ("death", "seen", "reasons"),
    [
        (None, [PASSED, failed("OutputDiverged")], ["Passed", "OutputDiverged"]),
        ("Died", [PASSED, failed("BadInputCrashed")], ["BadInputCrashed", "CandidateDied", "Passed"]),
        ("Died", [failed("RequestFailed")], ["CandidateDied", "RequestFailed"]),
        ("Died", [failed("CheckTimedOut")], ["CandidateDied", "CheckTimedOut"]),
        ("Died", [failed("ReferenceFailed", FailureClass.INFRASTRUCTURE)], ["CandidateDied"]),
        ("MemoryExceeded", [failed("BadInputCrashed")], ["CandidateMemoryExceeded", "BadInputCrashed"]),
    ],
)
def test_the_first_verdict_is_what_tells_most(death: str | None, seen: list[Verdict], reasons: list[str]) -> None:
    said = with_death(Judgement(verdicts=tuple(seen)), cast(RunningServer, Ended(death)))
    assert [verdict.reason for verdict in said.verdicts] == reasons
