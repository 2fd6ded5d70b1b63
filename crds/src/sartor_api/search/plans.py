"""Whether a plan may be carried out: the same questions on one machine and in a cluster, before anything is built."""

from collections.abc import Collection

from sartor_api.search.directive import Directive
from sartor_api.search.records import Plan


def problem(plan: Plan, *, round_number: int, directive: Directive | None, known: Collection[str]) -> str | None:
    """Why the plan is none for this round, in a sentence for its planner, or None.

    `known` are the commits of the run's candidates. A plan that stops keeps to every directive: nobody can be made to have
    a hypothesis.
    """
    if plan.round != round_number:
        return f"the plan is for round {plan.round}, asked was round {round_number}"
    for name, commit in (("parent", plan.parent), ("partner", plan.partner)):
        if commit is not None and commit not in known:
            return f"the plan's {name} {commit[:12]} is no candidate of this run"
    if directive is None or plan.action == "stop":
        return None
    if directive.parents and plan.parent not in directive.parents:
        allowed = ", ".join(_name(one) for one in directive.parents)
        return f"the plan builds on {_name(plan.parent)}, and the search policy asks for {allowed} ({directive.why})"
    wanted = directive.issue
    if wanted is not None and plan.issue != wanted and wanted not in plan.withdrawn:
        taken = plan.issue or "no issue"
        return f"the plan takes {taken}, and the search policy asks for issue {wanted}; take it or withdraw it"
    return None


def _name(commit: str | None) -> str:
    return "the empty stack" if commit is None else commit[:12]
