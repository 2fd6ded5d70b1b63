"""The playbook's planner: which recipe or parameter to try next. Pure and deterministic.

It climbs from the incumbent by one move at a time, so that each round tests one hypothesis: add a recipe to an empty slot,
swap the recipe of a slot, or set one parameter to another of its values. Moves are ordered by the gain expected of them:
what this run measured for the same change, else the recipe's prior, else a small credit for a parameter nobody tried.
What was tried is not tried again; a parameter that lost in one direction is not pushed further that way.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

from sartor_agents.backends.playbook.compose import Selection
from sartor_skills.catalog import Parameter, Recipe, Scalar

UNTRIED_PARAMETER_GAIN = 1.02
"""What a parameter value that was never tried may bring; worth a round only once no recipe promises more."""


@dataclass(frozen=True)
class Trial:
    """One candidate of this run: what it was made of and what the gates found.

    `speedup` is over the baseline (dimensionless), or None when a gate rejected the candidate. `parent` is the selection
    that it changed.
    """

    selection: Selection
    parent: Selection | None
    speedup: float | None


@dataclass(frozen=True)
class Move:
    """A change of the incumbent: `gain` is the expected ratio of the objective after ÷ before."""

    kind: Literal["start", "add", "swap", "tune"]
    selection: Selection
    recipe: Recipe
    gain: float
    detail: str = ""


def propose(
    trials: Sequence[Trial], incumbent: Trial | None, recipes: Mapping[str, Recipe], *, cores: int
) -> Move | None:
    """The most promising untried move, or None when nothing is left that could gain."""
    moves = _starts(recipes, cores) if incumbent is None else _moves(incumbent.selection, trials, recipes, cores)
    tried = {trial.selection.key() for trial in trials}
    fresh = [move for move in moves if move.selection.key() not in tried and (incumbent is None or move.gain > 1)]
    return max(fresh, key=lambda move: move.gain, default=None)


def _starts(recipes: Mapping[str, Recipe], cores: int) -> Iterable[Move]:
    """A first stack for each decoder: the base and the decoder with its first parameters, nothing else."""
    bases = {name: recipe for name, recipe in recipes.items() if recipe.slot == "base"}
    for name, recipe in recipes.items():
        if recipe.slot == "decoder":
            first = {
                base: {key: value for key, value in _first(made, cores).items() if key not in _taken(base, [recipe])}
                for base, made in bases.items()
            }
            yield Move("start", Selection({**first, name: _first(recipe, cores)}), recipe, recipe.speedup)


def _taken(name: str, others: Iterable[Recipe]) -> set[str]:
    """Parameters of recipe `name` that a recipe built on it has as its own: that one's value is the one that counts."""
    return {parameter.name for other in others if name in other.requires for parameter in other.parameters}


def _first(recipe: Recipe, cores: int) -> Mapping[str, Scalar]:
    """The defaults, but as many threads as there are cores: the baseline's best setting uses all of them too."""
    threads = [value for p in recipe.parameters if p.name == "THREADS" for value in p.values if int(value) <= cores]
    return {**recipe.defaults(), **({"THREADS": max(threads, key=int)} if threads else {})}


def _moves(current: Selection, trials: Sequence[Trial], recipes: Mapping[str, Recipe], cores: int) -> Iterable[Move]:
    by_slot = {recipes[name].slot: name for name in current.recipes if name in recipes}
    for name, recipe in recipes.items():
        if name in current.recipes or recipe.slot in ("base", "library"):
            continue
        holder = by_slot.get(recipe.slot)
        gain = _effect(recipe, trials) / (_effect(recipes[holder], trials) if holder else 1.0)
        selection = current.with_recipe(name, _first(recipe, cores), without=holder)
        detail = f"instead of {holder}" if holder else ""
        yield Move("swap" if holder else "add", selection, recipe, gain, detail)
    for name, parameters in current.recipes.items():
        recipe = recipes.get(name)
        taken = _taken(name, (recipes[other] for other in current.recipes if other in recipes))
        for parameter in recipe.parameters if recipe else ():
            if parameter.name in taken:
                continue
            now = parameters.get(parameter.name, parameter.default)
            for value in _worth_trying(parameter, name, now, trials, cores):
                selection = current.with_recipe(name, {**parameters, parameter.name: value})
                assert recipe is not None
                yield Move("tune", selection, recipe, UNTRIED_PARAMETER_GAIN, f"{parameter.name}: {now} → {value}")


def _effect(recipe: Recipe, trials: Sequence[Trial]) -> float:
    """What the recipe multiplies the objective by: the mean of what was measured here, else its prior.

    A candidate that a gate rejected shows no effect worth having.
    """
    known = {trial.selection.key(): trial.speedup for trial in trials}
    logs: list[float] = []
    rejected = False
    for trial in trials:
        if recipe.name not in trial.selection.recipes or trial.parent is None or recipe.name in trial.parent.recipes:
            continue
        before = known.get(trial.parent.key())
        if trial.speedup is None:
            rejected = True
        elif before:
            logs.append(log(trial.speedup / before))
    if logs:
        return exp(sum(logs) / len(logs))
    return 0.0 if rejected else recipe.speedup


def _worth_trying(
    parameter: Parameter, recipe: str, now: Scalar, trials: Sequence[Trial], cores: int
) -> Iterable[Scalar]:
    """The values next to the present one (numbers), or all others; without those beyond a value that lost."""
    values = [value for value in parameter.values if not (parameter.name == "THREADS" and int(value) > cores)]
    if now not in values or isinstance(now, (str, bool)):
        return [value for value in values if value != now]
    ordered = sorted(values, key=float)
    place = ordered.index(now)
    return [
        ordered[near]
        for near in (place + 1, place - 1)
        if 0 <= near < len(ordered) and not _lost(parameter.name, recipe, now, ordered[near], trials)
    ]


def _lost(parameter: str, recipe: str, now: Scalar, value: Scalar, trials: Sequence[Trial]) -> bool:
    """Whether setting the parameter from `now` to `value` was measured somewhere in this run and did not pay."""
    known = {trial.selection.key(): trial.speedup for trial in trials}
    for trial in trials:
        if trial.parent is None or trial.selection.recipes.get(recipe, {}).get(parameter) != value:
            continue
        if trial.parent.recipes.get(recipe, {}).get(parameter) != now:
            continue
        before = known.get(trial.parent.key())
        if trial.speedup is None or (before is not None and trial.speedup <= before):
            return True
    return False
