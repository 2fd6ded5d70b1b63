"""The playbook as a `Backend`: contexts in, `Plan` and `Implementation` out; planning and composing lie beside it."""

from collections.abc import Mapping
from pathlib import Path

from sartor_agents.backends.playbook import facts
from sartor_agents.backends.playbook.compose import ComposeError, Target, compose
from sartor_agents.backends.playbook.directed import directed, selection_of
from sartor_agents.backends.protocol import BackendError, ImplementContext, PlanContext, Usage
from sartor_api.search.records import FailureClass, Implementation, Plan, RunSpec
from sartor_skills.catalog import CatalogError, Recipe, load_catalog


class PlaybookBackend:
    """See the package. Holds no state: every answer follows from the context alone."""

    def plan(self, context: PlanContext) -> Plan:
        recipes = _recipes(context.run, context.model_dir, context.skills_root)
        return directed(context, recipes)

    def implement(self, context: ImplementContext) -> Implementation:
        if context.attempt > 1:
            reasons = ", ".join(verdict.reason for verdict in context.feedback)
            raise BackendError(
                "NothingToRepair",
                f"the playbook composes tested blocks and cannot repair what a gate rejected ({reasons})",
                FailureClass.CANDIDATE,
            )
        recipes = _recipes(context.run, context.model_dir, context.skills_root)
        selection = selection_of(context.plan.recipes)
        out = context.worktree / "stack"
        try:
            target = _target(context.run, context.model_dir, context.hardware.cache_bytes)
            chosen = compose(selection, target, recipes, out)
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


def _target(run: RunSpec, model_dir: Path, cache_bytes: int | None) -> Target:
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
        cache_bytes=cache_bytes,
    )
