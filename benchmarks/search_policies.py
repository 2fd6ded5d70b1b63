"""Rounds that each search policy needs to a planted optimum, against random search: real decision core, simulated steps.

Landscapes, noise and the stand-in planner are those of `support.landscape`; every search runs through `decide` with faults,
rejected candidates, repairs and noisy measurements (`support.simulated`). All policies have the same planner, the same
landscapes and the same escalation; only what they ask of plans differs.

- `rounds-to-optimum`: the round in which the optimum (or one as good) became the incumbent. A search that did not find it
  within the limit counts as the limit, so that a median is never flattered by what was left out.
- `rounds-against-random`: the same over that of random search on the same landscape, seed by seed.
- `found`: the share of searches that found it at all within the limit.
- `after-20-rounds`: what the incumbent's logarithmic speed-up is of the optimum's after the default budget of rounds.
- `measurements-per-round`: of candidates that reached one, those of incumbents included: what it costs that a round which
  leaves a gain open is looked at again.
- `without-a-way-out`: the trajectory as it is with no escalation, which stops at its first plateau.

    python -m benchmarks.search_policies [--seeds 40]
"""

import argparse
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
from scipy import stats

from benchmarks.support.landscape import KINDS, Kind, Landscape, Planner, landscape
from benchmarks.support.record import Bench, Row, median_row
from benchmarks.support.simulated import Found, optimum_found, random_search, search, spec
from sartor_api.search.policies import POLICIES
from sartor_api.search.snapshot import LOOKS

FIRST = 1000
"""The first landscape's seed. The policies were worked on with those from 0 on; these tell what they do elsewhere."""
LIMIT = 150
"""Rounds that a policy's search may take; random search may try every candidate."""
DEFAULT_ROUNDS = 20
PLATEAU, THRASH = 5, 6
"""As a `ServingSynthesis` has them by default."""
WAY_OUT = ("explore", "return")


def directed(ground: Landscape, policy: str, seed: int) -> Found:
    """One search under a policy, stopped once it has the optimum."""
    asked = spec(
        seed, LIMIT, kind=policy, plateau_rounds=PLATEAU, thrash_rounds=THRASH, looks=LOOKS, escalation=WAY_OUT * LIMIT
    )
    return search(ground, asked, Planner(ground), until=optimum_found(ground))


def stubborn(ground: Landscape, seed: int) -> Found:
    """One trajectory that knows no way out."""
    return search(ground, spec(seed, LIMIT, plateau_rounds=PLATEAU, looks=LOOKS), Planner(ground))


def rounds(found: Found, limit: int) -> float:
    return float(found.at if found.at is not None else limit)


def after(found: Found) -> float:
    """The share of the optimum after the default rounds; what is stopped early keeps what it has."""
    return found.share[min(DEFAULT_ROUNDS, len(found.share)) - 1] if found.share else 0.0


def share(bar: str, hits: Sequence[bool], note: str) -> Row:
    """A share with its exact interval (Clopper & Pearson 1934)."""
    k, n = sum(hits), len(hits)
    low = float(stats.beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(stats.beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return Row(bar, "share", "higher", None, k / n, low, high, n, note)


def missed(found: Sequence[Found]) -> str:
    """How far the searches came that did not find it."""
    reached = [one.share[-1] for one in found if one.at is None and one.share]
    return f"; the others reached {min(reached):.0%} to {max(reached):.0%} of its gain" if reached else ""


def spread(values: Sequence[float]) -> str:
    low, high = np.quantile(values, [0.25, 0.75])
    return f"quartiles {low:.0f} to {high:.0f}, least {min(values):.0f}, most {max(values):.0f}"


def rows(kind: Kind, name: str, found: Sequence[Found], luck: Sequence[float], limit: int) -> list[Row]:
    """The figures of one policy on one kind of landscape; `luck` are the rounds of random search on the same ones."""
    prefix = f"agents/search/{kind}/{name}"
    needed = [rounds(one, limit) for one in found]
    made = [
        median_row(f"{prefix}/rounds-to-optimum", "rounds", "lower", needed, None, spread(needed)),
        share(f"{prefix}/found", [one.at is not None for one in found], f"within {limit} rounds{missed(found)}"),
        median_row(f"{prefix}/after-20-rounds", "share", "higher", [after(one) for one in found], None),
    ]
    if name != "random":
        looks = [fmean(len(r.looks) for r in one.run.rounds if r.looks) for one in found if one.run is not None]
        made.append(median_row(f"{prefix}/measurements-per-round", "1", "lower", looks, None, "mean of each search"))
        ratios = [ours / theirs for ours, theirs in zip(needed, luck, strict=True)]
        note = f"rounds over those of random search on the same landscape; not found counts as {limit}"
        made.insert(1, median_row(f"{prefix}/rounds-against-random", "ratio", "lower", ratios, 1.0, note))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40, help="landscapes of each kind (at least 20)")
    given = parser.parse_args()
    if given.seeds < 20:
        parser.error("the variance of a search is part of its result: at least 20 seeds")
    bench = Bench("search_policies")
    for kind in KINDS:
        grounds = [landscape(kind, seed) for seed in range(FIRST, FIRST + given.seeds)]
        size = len(grounds[0].genomes)
        lucky = [random_search(ground, spec(ground.seed, size)) for ground in grounds]
        luck = [rounds(one, size) for one in lucky]
        bench.add(*rows(kind, "random", lucky, luck, size))
        searches: dict[str, Callable[[Landscape, int], Found]] = {
            name: lambda ground, seed, name=name: directed(ground, name, seed) for name in POLICIES
        }
        for name, run in {**searches, "without-a-way-out": stubborn}.items():
            found = [run(ground, ground.seed) for ground in grounds]
            bench.add(*rows(kind, name, found, luck, LIMIT))


if __name__ == "__main__":
    main()
