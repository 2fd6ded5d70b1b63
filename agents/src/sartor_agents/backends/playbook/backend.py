"""The playbook as a `Backend`: contexts in, `Plan` and `Implementation` out; planning and composing lie beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sartor_agents.backends.playbook import facts
from sartor_agents.backends.playbook.compose import ComposeError, Selection, Target, compose
from sartor_agents.backends.playbook.planner import Move, Trial, propose
from sartor_agents.backends.protocol import BackendError, ImplementContext, PlanContext, Usage
from sartor_api.search.records import FailureClass, Implementation, Plan, RunSpec
from sartor_api.search.records import Recipe as RecipeUse
from sartor_api.search.state import Round
from sartor_skills.catalog import CatalogError, Recipe, Scalar, load_catalog


class PlaybookBackend:
    """See the package. Holds no state: every answer follows from the context alone."""

    def plan(self, context: PlanContext) -> Plan:
        recipes = _recipes(context.run, context.model_dir, context.skills_root)
        trials = {round_.number: trial for round_, trial in _trials(context.rounds)}
        base = _base(context, trials)
        move = propose(list(trials.values()), base, recipes, cores=context.hardware.cores)
        if move is None:
            hypothesis = f"No recipe or parameter is left that promises a gain ({len(trials)} candidates were tried)."
            return Plan(round=context.round, action="stop", hypothesis=hypothesis)
        return _plan(context, move, base, trials)

    def implement(self, context: ImplementContext) -> Implementation:
        if context.attempt > 1:
            reasons = ", ".join(verdict.reason for verdict in context.feedback)
            raise BackendError(
                "NothingToRepair",
                f"the playbook composes tested blocks and cannot repair what a gate rejected ({reasons})",
                FailureClass.CANDIDATE,
            )
        recipes = _recipes(context.run, context.model_dir, context.skills_root)
        selection = _selection(context.plan.recipes)
        out = context.worktree / "stack"
        try:
            chosen = compose(selection, _target(context.run, context.model_dir), recipes, out)
        except ComposeError as error:
            raise BackendError("CannotCompose", str(error), FailureClass.CANDIDATE) from error
        return Implementation(
            skills_used=tuple(recipe.name for recipe in chosen),
            summary=f"Composed {selection.key()}.",
            lines=sum(len(path.read_text(encoding="utf-8").splitlines()) for path in _sources(out)),
        )

    def usage(self) -> Usage:
        return Usage()


def _sources(out: Path) -> list[Path]:
    return [path for path in sorted(out.rglob("*")) if path.suffix in (".py", ".h", ".cpp")]


def _recipes(run: RunSpec, model_dir: Path, skills_root: Path | None) -> Mapping[str, Recipe]:
    if skills_root is None:
        raise BackendError(
            "SkillsNeeded",
            "the playbook is made of skills and cannot run with --no-skills; choose another agent backend",
            FailureClass.INFRASTRUCTURE,
        )
    try:
        architecture = facts.model_spec(model_dir)["ARCHITECTURE"]
        recipes = load_catalog(skills_root).recipes(
            architecture=architecture, platform=run.platform, scenario=run.scenario
        )
    except (facts.UnsupportedModelError, CatalogError, OSError) as error:
        raise BackendError("NoRecipes", str(error), FailureClass.INFRASTRUCTURE) from error
    if not any(recipe.slot == "decoder" for recipe in recipes.values()):
        raise BackendError(
            "NoRecipes",
            f"no decoder recipe for {architecture} on {run.platform}; see `applies` in skills/*/recipe.toml",
            FailureClass.INFRASTRUCTURE,
        )
    return recipes


def _selection(uses: Sequence[RecipeUse]) -> Selection:
    def scalar(value: object) -> Scalar:
        assert isinstance(value, (str, int, float, bool))
        return value

    return Selection({use.name: {name: scalar(value) for name, value in use.parameters.items()} for use in uses})


def _trials(rounds: Sequence[Round]) -> list[tuple[Round, Trial]]:
    """The candidates that were judged, with the selection that each one changed."""
    by_commit = {
        round_.implementation.commit: _selection(round_.plan.recipes)
        for round_ in rounds
        if round_.plan is not None and round_.implementation is not None
    }
    return [
        (
            round_,
            Trial(
                _selection(round_.plan.recipes),
                by_commit.get(round_.plan.parent) if round_.plan.parent else None,
                round_.speedup.value if round_.speedup else None,
            ),
        )
        for round_ in rounds
        if round_.plan is not None and round_.plan.action == "build"
    ]


def _base(context: PlanContext, trials: Mapping[int, Trial]) -> Trial | None:
    """What to climb from: the incumbent; before there is one, the fastest correct stack so far.

    A stack slower than the baseline is never kept, but it is still the best ground for the next recipe.
    """
    if context.incumbent is not None:
        return trials[context.incumbent]
    measured = [trial for trial in trials.values() if trial.speedup is not None]
    return max(measured, key=lambda trial: trial.speedup or 0.0, default=None)


def _plan(context: PlanContext, move: Move, base: Trial | None, trials: Mapping[int, Trial]) -> Plan:
    recipe = move.recipe
    what = {
        "start": f"Serve with {recipe.name}: {recipe.summary}",
        "add": f"Add {recipe.name}: {recipe.summary}",
        "swap": f"Use {recipe.name} {move.detail}: {recipe.summary}",
        "tune": f"Set {move.detail} in {recipe.name}",
    }[move.kind]
    before = base.speedup if base and base.speedup else 1.0
    floor = before * (1.0 + context.run.policy.minimum_effect)
    parent = next(
        (
            round_.implementation.commit
            for round_ in reversed(context.rounds)
            if base is not None and trials.get(round_.number) == base and round_.implementation is not None
        ),
        None,
    )
    return Plan(
        round=context.round,
        action="build",
        parent=parent,
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


def _target(run: RunSpec, model_dir: Path) -> Target:
    limit = facts.max_positions(model_dir)
    length = min(run.envelope.max_model_len, limit)
    levels = run.parameters.get("concurrencies") or run.parameters.get("concurrency") or 1
    widest = max(int(level) for level in (levels if isinstance(levels, list) else [levels]))  # type: ignore[arg-type]
    return Target(
        model_name=str(run.model.get("name", model_dir.name)),
        model=facts.model_spec(model_dir),
        scenario=run.scenario,
        platform=run.platform,
        envelope={
            "MAX_MODEL_LEN": length,
            "MAX_INPUT_TOKENS": min(run.envelope.max_input_tokens, length - 1),
            "MAX_OUTPUT_TOKENS": min(run.envelope.max_output_tokens, length - 1),
        },
        concurrency=widest,
        provenance={"run": run.name, "intent": run.content_hash()},
    )
