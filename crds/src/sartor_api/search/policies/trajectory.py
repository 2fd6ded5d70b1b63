"""One line of improvements: the planner goes on from the incumbent until the line is shown to have ended."""

from sartor_api.search.directive import Directive, Mode
from sartor_api.search.policies.common import because, line_mode, used_up, ways_back
from sartor_api.search.state import RunState
from sartor_api.search.stretch import Stretch


def trajectory(run: RunState, round_number: int, now: Stretch) -> Directive:
    """See the module. Before a detection the planner is free, also to return to an earlier candidate by itself."""
    match line_mode(run, now):
        case Mode.RETURN:
            back = ways_back(run)
            return Directive(mode=Mode.RETURN, parents=back, why=f"the line has ended: {because(now)}")
        case Mode.EXPLORE:
            base = run.base if run.base not in used_up(run) else None
            parents = (base,) if base is not None else ()
            return Directive(mode=Mode.EXPLORE, parents=parents, why=f"small steps bring nothing: {because(now)}")
        case other:
            return Directive(mode=other, why="the line goes on")
