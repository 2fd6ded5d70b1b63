"""The playbook's plan under a directive: which stack to climb from, which kind of move, which issue.

The moves themselves and their order are the planner's (`planner`). Here lies what the search policies ask for on top: climb
from the commit that is asked for, look wider, merge two stacks, take an issue, and leave ideas behind as issues.
"""

from collections.abc import Mapping, Sequence

from sartor_agents.backends.playbook.compose import Selection
from sartor_agents.backends.playbook.planner import Move, Trial, propose, ranked, recombine, taking
from sartor_agents.backends.protocol import PlanContext
from sartor_api.search.directive import IssueDraft, Mode
from sartor_api.search.issues import Issue, IssueState
from sartor_api.search.records import Plan
from sartor_api.search.records import Recipe as RecipeUse
from sartor_api.search.state import Round
from sartor_skills.catalog import Recipe, Scalar

IDEAS = 4
"""Issues that a plan opens: the moves that come after the one it makes."""


def selection_of(uses: Sequence[RecipeUse]) -> Selection:
    """The recipes of a plan as a selection."""
    return Selection({use.name: _scalars(use.parameters) for use in uses})


def directed(context: PlanContext, recipes: Mapping[str, Recipe]) -> Plan:
    """The next plan. A move that the directive leaves no room for ends in `stop`, on its parent where it names one."""
    trials = _trials((*context.rounds, *context.in_work))
    commits = {r.implementation.commit: r.number for r in context.rounds if r.implementation is not None}
    every = list(trials.values())
    base = _base(context, trials, commits)
    cores, wide = context.hardware.cores, context.directive.mode in (Mode.EXPLORE, Mode.RETURN)
    withdrawn = _useless(context.issues, base, every, recipes)
    issue = next((i for i in context.issues if i.id == context.directive.issue and i.id not in withdrawn), None)
    move: Move | None = None
    if issue is not None and base is not None and issue.recipes:
        move = _issue_move(issue, base, recipes)
    elif context.directive.partner in commits and base is not None:
        move = recombine(base, trials[commits[context.directive.partner]], every, recipes)
    elif wide and not context.directive.parents:
        start = propose(every, None, recipes, cores=cores)
        move, base = (start, None) if start is not None else (None, base)
    if move is None:
        issue = None
        move = propose(every, base, recipes, cores=cores, wide=wide)
    if move is None:
        bound = base is not None and bool(context.directive.parents)
        return Plan(
            round=context.round,
            action="stop",
            parent=_commit(context.rounds, trials, base) if bound else None,
            hypothesis=f"No recipe or parameter is left that promises a gain ({len(trials)} candidates were tried).",
            withdrawn=withdrawn,
        )
    plan = _plan(context, move, base, trials)
    ideas = _ideas(context, move, base, every, recipes) if context.run.policy.kind == "issue-queue" else ()
    return plan.model_copy(update={"issue": issue.id if issue else None, "withdrawn": withdrawn, "issues": ideas})


def _trials(rounds: Sequence[Round]) -> dict[int, Trial]:
    """The candidates that were judged or are in work, by round, with the selection that each one changed."""
    by_commit = {
        round_.implementation.commit: selection_of(round_.plan.recipes)
        for round_ in rounds
        if round_.plan is not None and round_.implementation is not None
    }
    return {
        round_.number: Trial(
            selection_of(round_.plan.recipes),
            by_commit.get(round_.plan.parent) if round_.plan.parent else None,
            round_.speedup.value if round_.speedup else None,
            not round_.closed,
        )
        for round_ in rounds
        if round_.plan is not None and round_.plan.action == "build"
    }


def _base(context: PlanContext, trials: Mapping[int, Trial], commits: Mapping[str, int]) -> Trial | None:
    """What to climb from: what is asked for; the incumbent; before there is one, the fastest correct stack so far.

    A stack slower than the baseline is never kept, but it is still the best ground for the next recipe.
    """
    if context.directive.parents:
        asked = context.directive.parents[0]
        return trials[commits[asked]] if asked is not None and asked in commits else None
    if context.incumbent is not None:
        return trials[context.incumbent]
    measured = [trial for trial in trials.values() if trial.speedup is not None]
    return max(measured, key=lambda trial: trial.speedup or 0.0, default=None)


def _issue_move(issue: Issue, base: Trial, recipes: Mapping[str, Recipe]) -> Move | None:
    selection, first = base.selection, issue.recipes[0]
    for use in issue.recipes:
        selection = taking(selection, use.name, _scalars(use.parameters), recipes)
    if first.name not in recipes:
        return None
    kind = "tune" if first.name in base.selection.recipes else "add"
    return Move(kind, selection, recipes[first.name], issue.forecast_gain, f"issue {issue.id}")


def _useless(
    issues: Sequence[Issue], base: Trial | None, trials: Sequence[Trial], recipes: Mapping[str, Recipe]
) -> tuple[str, ...]:
    """Open issues that say nothing that was not tried, from where the climb goes on, or that cannot be carried out here."""
    if base is None:
        return ()
    tried = {trial.selection.key() for trial in trials}
    found: list[str] = []
    for issue in issues:
        if issue.state is not IssueState.OPEN:
            continue
        move = _issue_move(issue, base, recipes) if issue.recipes else None
        if move is None or move.selection.key() in tried:
            found.append(issue.id)
    return tuple(found)


def _ideas(
    context: PlanContext, chosen: Move, base: Trial | None, trials: Sequence[Trial], recipes: Mapping[str, Recipe]
) -> tuple[IssueDraft, ...]:
    """The moves that are not made now and that no issue names yet."""
    known = {str(issue.recipes) for issue in context.issues}
    drafts: list[IssueDraft] = []
    for move in ranked(trials, base, recipes, cores=context.hardware.cores):
        parameters = move.selection.recipes[move.recipe.name]
        use = RecipeUse(name=move.recipe.name, parameters=dict(parameters))
        if move.kind == "start" or move.selection.key() == chosen.selection.key() or str((use,)) in known:
            continue
        drafts.append(
            IssueDraft(title=f"{move.kind} {move.recipe.name} {move.detail}".strip()[:120], detail=move.recipe.summary,
                       forecast_gain=move.gain, recipes=(use,))
        )  # fmt: skip
    return tuple(drafts[:IDEAS])


def _scalars(parameters: Mapping[str, object]) -> dict[str, Scalar]:
    def scalar(value: object) -> Scalar:
        assert isinstance(value, (str, int, float, bool))
        return value

    return {name: scalar(value) for name, value in parameters.items()}


def _commit(rounds: Sequence[Round], trials: Mapping[int, Trial], base: Trial | None) -> str | None:
    """The newest commit of this trial."""
    return next(
        (
            round_.implementation.commit
            for round_ in reversed(rounds)
            if base is not None and trials.get(round_.number) == base and round_.implementation is not None
        ),
        None,
    )


def _plan(context: PlanContext, move: Move, base: Trial | None, trials: Mapping[int, Trial]) -> Plan:
    recipe = move.recipe
    what = {
        "start": f"Serve with {recipe.name}: {recipe.summary}",
        "add": f"Add {recipe.name}: {recipe.summary}",
        "swap": f"Use {recipe.name} {move.detail}: {recipe.summary}",
        "tune": f"Set {move.detail} in {recipe.name}",
        "recombine": f"Bring {recipe.name} of another candidate into this one: {recipe.summary}",
    }[move.kind]
    before = base.speedup if base and base.speedup else 1.0
    floor = before * (1.0 + context.run.policy.minimum_effect)
    recombined = move.kind == "recombine"
    return Plan(
        round=context.round,
        action="build",
        parent=_commit(context.rounds, trials, base),
        partner=context.directive.partner if recombined else None,
        hypothesis=what,
        changes=(f"{move.kind} {recipe.name}" + (f" ({move.detail})" if move.detail else ""),),
        evidence_active=recipe.active,
        refuted_by=f"a speed-up over the baseline whose lower end is below {floor:.3f}",
        forecast_speedup=before * move.gain,
        threshold_speedup=floor,
        recipes=tuple(
            RecipeUse(name=name, parameters=dict(parameters))
            for name, parameters in sorted(move.selection.recipes.items())
        ),
        skills_consulted=tuple(sorted({recipe.name, *move.selection.recipes})),
    )
