"""Search landscapes with a planted optimum, and a stand-in for the planner: what `benchmarks.search_policies` searches on.

A candidate is a *genome*: one value for each of some dimensions (recipes, parameters). Its true speed-up over the baseline
is `exp` of a sum of effects of single values and of pairs of values (an NK model with few interactions, Kauffman &
Weinberger 1989), known only through measurements with noise. Some pairs make a candidate that the gates reject.

- `smooth`: no interactions. A climb needs no way out.
- `dead-end`: what climbs first leads to a summit from which every single change loses; the optimum needs two changes that
  each lose alone.
- `two-valleys`: two such places, in dimensions with few values: behind the first summit lies a second that is left by two
  more changes that each lose alone. No policy was worked on with it.
- `broken-ground`: the gates reject one in fourteen pairs of values, and with them two of three candidates: whole regions
  give nothing to measure.

The stand-in planner plays an engineer: it believes something of every effect, with an error as large as the effects
themselves, believes half of what pairs bring, and corrects itself by what was measured. It keeps to the directive that the
search policy gives, as every planner has to. It says nothing about how good a language model is; it lets policies be
compared with one another and with random search.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from random import Random
from typing import Literal

from sartor_api.search.directive import IssueDraft, Mode
from sartor_api.search.issues import IssueState, issues
from sartor_api.search.records import Plan, Recipe, Speedup
from sartor_api.search.rules import Begin
from sartor_api.search.state import RunState

Genome = tuple[int, ...]
Kind = Literal["smooth", "dead-end", "two-valleys", "broken-ground"]
KINDS: tuple[Kind, ...] = ("smooth", "dead-end", "two-valleys", "broken-ground")

SHAPE = (4, 4, 3, 3, 2, 2)
"""Values of each dimension: 576 genomes."""
SMALLEST, LARGEST = 0.06, 0.2
"""Effects of single values on the log scale, either sign: none so small that it is below the minimum effect."""
EFFECT, BELIEF_ERROR, NOISE = 0.12, 0.12, 0.012
"""On the log scale: a typical effect; standard deviations of what the planner believes of one, and of one measurement."""
BROKEN_SHARE, CLUMSY = 0.07, 0.1
"""Share of pairs that gates reject; share of first attempts that a gate rejects and the repair mends."""

WORTH = 0.4
"""Least logarithmic speed-up of a planted optimum."""

Pair = tuple[int, int, int, int]
"""Dimension and value, twice."""


@dataclass(frozen=True)
class Landscape:
    """One instance: all random parts follow from `kind` and `seed`."""

    kind: Kind
    seed: int
    effects: tuple[tuple[float, ...], ...]
    pairs: Mapping[Pair, float]
    broken: frozenset[Pair]

    def gain(self, genome: Genome) -> float:
        """True logarithmic speed-up over the baseline."""
        single = sum(self.effects[d][v] for d, v in enumerate(genome))
        return single + sum(self.pairs.get(pair, 0.0) for pair in pairs_of(genome))

    def works(self, genome: Genome) -> bool:
        """Whether the gates pass it."""
        return self.broken.isdisjoint(pairs_of(genome))

    @cached_property
    def genomes(self) -> tuple[Genome, ...]:
        return tuple(itertools.product(*(range(n) for n in SHAPE)))

    @cached_property
    def optimum(self) -> Genome:
        return max((g for g in self.genomes if self.works(g)), key=self.gain)

    def measured(self, genome: Genome, seed: str) -> Speedup:
        """A measurement with its 95 % interval."""
        value = math.exp(self.gain(genome) + Random(f"{self.seed}/{seed}").gauss(0, NOISE))
        half = math.exp(1.96 * NOISE)
        return Speedup(value=value, low=value / half, high=value * half, n=6)


@lru_cache(maxsize=4096)
def pairs_of(genome: Genome) -> frozenset[Pair]:
    return frozenset((a, genome[a], b, genome[b]) for a, b in itertools.combinations(range(len(genome)), 2))


def landscape(kind: Kind, seed: int) -> Landscape:
    """An instance whose optimum is worth finding; value 0 of every dimension is the plain choice, whose effect is 0."""
    draws = (_drawn(kind, seed, Random(f"{kind}/{seed}/{draw}")) for draw in itertools.count())
    return next(one for one in draws if one.gain(one.optimum) >= WORTH)


def _drawn(kind: Kind, seed: int, rng: Random) -> Landscape:
    effects = [[0.0, *(rng.choice((-1, 1)) * rng.uniform(SMALLEST, LARGEST) for _ in range(n - 1))] for n in SHAPE]
    pairs: dict[Pair, float] = {}
    if kind == "dead-end":
        # The climb takes value 1 in the first two dimensions; value 3 loses alone and wins together.
        effects[0][1] = effects[1][1] = 0.25
        effects[0][3] = effects[1][3] = -0.15
        pairs[(0, 3, 1, 3)] = 1.2
    if kind == "two-valleys":
        for (a, v), (b, w), bonus in (((2, 2), (3, 2), 0.7), ((4, 1), (5, 1), 0.6)):
            effects[a][v] = effects[b][w] = -0.15
            pairs[(a, v, b, w)] = bonus
    broken: set[Pair] = set()
    if kind == "broken-ground":
        plain = pairs_of((0,) * len(SHAPE))
        every = {pair for genome in itertools.product(*(range(n) for n in SHAPE)) for pair in pairs_of(genome)}
        broken = {pair for pair in sorted(every - plain) if rng.random() < BROKEN_SHARE}
    return Landscape(kind, seed, tuple(tuple(one) for one in effects), pairs, frozenset(broken))


def genome_of(recipes: tuple[Recipe, ...]) -> Genome:
    """The genome that a plan of the stand-in planner names."""
    values = {int(one.name[1:]): one.parameters["value"] for one in recipes}
    return tuple(int(str(values[d])) for d in range(len(SHAPE)))


def recipes_of(genome: Genome) -> tuple[Recipe, ...]:
    return tuple(Recipe(name=f"d{d}", parameters={"value": v}) for d, v in enumerate(genome))


@dataclass
class Planner:
    """The stand-in planner of one landscape."""

    ground: Landscape
    _belief: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])
    _pair_belief: dict[Pair, float] = field(default_factory=dict[Pair, float])

    def __post_init__(self) -> None:
        rng = Random(f"belief/{self.ground.kind}/{self.ground.seed}")
        for d, row in enumerate(self.ground.effects):
            for v, effect in enumerate(row):
                self._belief[(d, v)] = effect + (rng.gauss(0, BELIEF_ERROR) if v else 0.0)
        for pair, effect in self.ground.pairs.items():
            self._pair_belief[pair] = 0.5 * effect

    def plan(self, run: RunState, begin: Begin) -> Plan:
        """The plan of a round, from the records and the directive alone."""
        directive = begin.directive
        assert directive is not None, "a planner is given a directive"
        rng = Random(f"{run.spec.seed}/planner/{begin.round}")
        known = {
            r.implementation.commit: genome_of(r.plan.recipes)
            for r in run.rounds
            if r.plan is not None and r.implementation is not None
        }
        tried = {genome_of(r.plan.recipes) for r in run.rounds if r.plan is not None and r.plan.recipes}
        parent = directive.parents[0] if directive.parents else run.base
        if parent is None:
            start = max((g for g in self.ground.genomes if g not in tried), key=lambda g: (-_far(g), rng.random()))
            return _build(begin, None, start)
        base = known[parent]
        believed = self._believe(run, known)
        withdrawn: tuple[str, ...] = ()
        chosen: Genome | None = None
        issue = next((i for i in issues(run) if i.id == directive.issue), None)
        if issue is not None:
            chosen = _with(base, issue.recipes)
            if chosen in tried:
                withdrawn, chosen, issue = (issue.id,), None, None
        elif directive.mode is Mode.RECOMBINE and directive.partner is not None:
            partner = known[directive.partner]
            child = tuple(rng.choice(both) for both in zip(base, partner, strict=True))
            chosen = child if child not in tried else None
        if chosen is None:
            reach = (1, 2, 3) if directive.mode is Mode.EXPLORE else (1,)
            fresh = [g for g in self.ground.genomes if _apart(g, base) in reach and g not in tried]
            if not fresh:
                return Plan(round=begin.round, action="stop", parent=parent, hypothesis="nothing is left here")
            error = BELIEF_ERROR if directive.mode is Mode.EXPLORE else 0.0
            chosen = max(fresh, key=lambda g: self._gain(g, base, believed) + rng.gauss(0, error))
        opened = self._ideas(run, base, believed) if run.spec.policy.kind == "issue-queue" else ()
        return _build(begin, parent, chosen, issue.id if issue else None, withdrawn, opened)

    def _gain(self, genome: Genome, base: Genome, believed: Mapping[tuple[int, int], float]) -> float:
        """What the planner expects of the genome over the base."""
        single = sum(believed[(d, v)] - believed[(d, w)] for d, (v, w) in enumerate(zip(genome, base, strict=True)))
        there, here = pairs_of(genome), pairs_of(base)
        return single + sum(gain * ((pair in there) - (pair in here)) for pair, gain in self._pair_belief.items())

    def _believe(self, run: RunState, known: Mapping[str, Genome]) -> dict[tuple[int, int], float]:
        """The beliefs, corrected by every measured change of one value."""
        believed, speed = dict(self._belief), {one.commit: one.speedup.value for one in run.measured}
        for commit, genome in known.items():
            parent = run.parents.get(commit)
            if parent is None or parent not in speed or parent not in known:
                continue
            changed = [d for d, (v, w) in enumerate(zip(genome, known[parent], strict=True)) if v != w]
            if len(changed) != 1:
                continue
            d = changed[0]
            if commit not in speed:
                believed[(d, genome[d])] -= EFFECT
                continue
            seen = math.log(speed[commit] / speed[parent])
            believed[(d, genome[d])] = believed[(d, known[parent][d])] + seen
        return believed

    def _ideas(self, run: RunState, base: Genome, believed: Mapping[tuple[int, int], float]) -> tuple[IssueDraft, ...]:
        """Single changes, and the pairs that it believes in, that no issue names."""
        named = {str(i.recipes) for i in issues(run) if i.state in (IssueState.OPEN, IssueState.IN_WORK)}
        reach = [g for g in self.ground.genomes if _apart(g, base) == 1]
        reach += [_put(_put(base, a, v), b, w) for a, v, b, w in self._pair_belief]
        drafts: list[IssueDraft] = []
        for genome in sorted(reach, key=lambda g: -self._gain(g, base, believed)):
            recipes = tuple(r for d, r in enumerate(recipes_of(genome)) if genome[d] != base[d])
            gain = self._gain(genome, base, believed)
            if recipes and gain > 0 and str(recipes) not in named:
                drafts.append(IssueDraft(title=f"try {genome}", forecast_gain=math.exp(gain), recipes=recipes))
        return tuple(drafts[:3])


def _build(
    begin: Begin,
    parent: str | None,
    genome: Genome,
    issue: str | None = None,
    withdrawn: tuple[str, ...] = (),
    opened: tuple[IssueDraft, ...] = (),
) -> Plan:
    partner = begin.directive.partner if begin.directive is not None else None
    return Plan(
        round=begin.round, action="build", parent=parent, partner=partner, hypothesis=f"genome {genome}",
        recipes=recipes_of(genome), issue=issue, withdrawn=withdrawn, issues=opened,
    )  # fmt: skip


def _far(genome: Genome) -> int:
    return sum(value != 0 for value in genome)


def _apart(one: Genome, other: Genome) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def _put(genome: Genome, dimension: int, value: int) -> Genome:
    return tuple(value if d == dimension else v for d, v in enumerate(genome))


def _with(genome: Genome, recipes: tuple[Recipe, ...]) -> Genome:
    for one in recipes:
        genome = _put(genome, int(one.name[1:]), int(str(one.parameters["value"])))
    return genome
