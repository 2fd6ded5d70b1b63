"""A queue of open issues: the one that promises most is taken on top of the incumbent, and plans open new ones.

Unlike a trajectory it forgets no idea: what a planner saw and did not take waits with its forecast, and each result tells
how far forecasts of that kind can be trusted (`issues.queue`).
"""

from sartor_api.search.directive import Directive, Mode
from sartor_api.search.issues import issues, queue
from sartor_api.search.policies.common import because, line_mode, used_up, ways_back
from sartor_api.search.state import RunState
from sartor_api.search.stretch import Stretch


def issue_queue(run: RunState, round_number: int, now: Stretch) -> Directive:
    """See the module. With no issue open the planner looks around freely and opens some."""
    asked = line_mode(run, now)
    parents: tuple[str | None, ...] = ways_back(run) if asked is Mode.RETURN else (run.base,) if run.base else ()
    if run.base in used_up(run) and asked is not Mode.RETURN:
        parents = ()
    waiting = queue(issues(run))
    fresh = parents[:1] == (None,)  # issues are about stacks that are there
    if asked is Mode.EXPLORE or not waiting or fresh:
        why = f"the queue brings nothing: {because(now)}" if waiting else "no issue is open"
        wide = Mode.RETURN if asked is Mode.RETURN else Mode.EXPLORE
        return Directive(mode=wide, parents=parents, why=f"{why}; look around and open issues")
    first = waiting[0]
    return Directive(mode=asked, parents=parents, issue=first.id, why=f"issue {first.id} promises most")
