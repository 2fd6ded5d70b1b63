"""Search policies: from the state of a run to what its next plan has to keep to. One interface, one gate path.

A policy is a pure function `(run, round, stretch) -> Directive`. It chooses nothing among candidates: what is kept, when
the search stops and what is confirmed is the same for all of them (`rules`). Random draws come from the run's seed and the
round's number, so that a run that was killed asks for the same again.

- `trajectory`: one line of improvements; leaves it only when the line is shown to have ended.
- `evolutionary`: an evolving set of measured candidates (tournament selection, mutation, recombination).
- `issue-queue`: the open issue that promises most, on top of the incumbent.
"""

from collections.abc import Callable, Mapping

from sartor_api.search.directive import Directive
from sartor_api.search.policies.evolutionary import evolutionary
from sartor_api.search.policies.issue_queue import issue_queue
from sartor_api.search.policies.trajectory import trajectory
from sartor_api.search.state import RunState
from sartor_api.search.stretch import Stretch, stretch

__all__ = ["POLICIES", "Policy", "next_directive"]

Policy = Callable[[RunState, int, Stretch], Directive]

POLICIES: Mapping[str, Policy] = {
    "trajectory": trajectory,
    "evolutionary": evolutionary,
    "issue-queue": issue_queue,
}


def next_directive(run: RunState, round_number: int) -> Directive:
    """What the plan of this round has to keep to."""
    return POLICIES[run.spec.policy.kind](run, round_number, stretch(run))
