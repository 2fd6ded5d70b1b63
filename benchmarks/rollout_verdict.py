"""Whether verdicts keep their promises, and how much traffic they take: simulated canaries of `support.canaries`.

30 requests a second over both arms, a probe that sends one more a second to each, a look every 10 s, and four guardrails:
errors, whole answers at p99 (both from the gateway), TTFT at p99 and gaps between tokens at p99 (both from the probe).
*Unsteady* is this project's machine: two speeds that flip, drift, stalls; *steady* has drift and rarer stalls only.

- `aa`, `aa_steady`: both arms the same engine, default steps (5 %, 25 % and 50 %, held for 10, 20 and 30 minutes) that
  follow one another whatever is known, so that each is exposed to false alarms. For comparison the same canaries with
  textbook tests that peek, and with the operator's tests but without the correction for dispersion.
- `p99`: all times 10 % longer, a bound of 10 %: where a test is weakest. Guardrails and steps as by default, and never a
  rollback, so that only passes count.
- `p99_hardest`: the same made as hard as can be: one guardrail at a time, one step at half of the traffic that is held for a
  minute only. A single wrong pass within two hours promotes.
- `errors_default`: errors one point more, half of them alone and half in bursts; guardrails and steps as by default, and
  never a rollback, so that only passes count.
- `errors`: the same with a bound of one point, where a test is weakest, and never a rollback. Those that come alone are made
  as hard as `p99_hardest`; bursts need the default holds (bursts that are rarer than a step is long cannot be seen in it).
- `limits`: A/A with worse noise than was ever measured here.
- `decisions`: requests and time until several effects are decided, at half of the traffic.
- `onsets`: time from a regression's start in the middle of a step.

    python -m benchmarks.rollout_verdict [PIECE ...] [--canaries 2000] [--effects 20] [--processes 2]

Writes `benchmarks/results/rollout_verdict_PIECE.json`, a file for each piece.
"""

import argparse
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.pool import Pool

import numpy as np
from scipy import stats

from benchmarks.support.canaries import BOUNDS, End, Rules, canary, naive
from benchmarks.support.canary_traffic import STEADY, UNSTEADY, Rollout, Step
from benchmarks.support.record import Bench, Row, describe
from sartor_operator.rollout.verdict.bounds import INDEPENDENT, Bound, ShareRegression
from sartor_operator.rollout.verdict.figures import Pair

STRIDE = 100
"""Canaries between two writes of the results."""
LIMIT = 0.01
"""The share of wrong verdicts that is promised."""
POINT = ShareRegression(0.01)
HALF = (Step(0.50, 60.0),)
"""One step at half of the traffic."""
AA, HARDEST = Rules(advance=True), Rules(broken=None, errors=POINT)


def independent(bound: Bound, pair: Pair, nats: float) -> bool:
    """The operator's test as if requests were independent."""
    return bound.broken(pair, INDEPENDENT, nats) >= nats


@dataclass(frozen=True)
class Run:
    """How canaries are run: how many for a promise, how many for an effect, in which processes."""

    pool: Pool
    canaries: int
    effects: int

    def ends(self, kinds: Sequence[tuple[Rollout, Rules]], count: int, first: int = 0) -> list[End]:
        """Canaries from number `first` to `count`; several kinds take turns."""
        return self.pool.map(partial(one, tuple(kinds)), range(first, count), chunksize=4)


def one(kinds: Sequence[tuple[Rollout, Rules]], seed: int) -> End:
    """Canary number `seed`."""
    rollout, rules = kinds[seed % len(kinds)]
    return canary(rollout, rules, np.random.default_rng([20_26, seed]))


def share(bar: str, ends: Sequence[End], hit: Callable[[End], bool], target: float | None, note: str) -> Row:
    """A share with its exact interval (Clopper & Pearson, Biometrika 26, 1934)."""
    hits, n = sum(hit(end) for end in ends), len(ends)
    low = float(stats.beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return Row(bar, "share", "lower", target, hits / n, low, high, n, f"{hits} of {n}: {note}")


def quantile(bar: str, unit: str, values: Sequence[float], level: float, note: str) -> Row:
    """A quantile with its distribution-free interval from order statistics."""
    ordered, n = sorted(values), len(values)
    ranks = stats.binom.ppf([0.025, 0.975], n, level)
    low, high = (ordered[int(min(max(rank, 0), n - 1))] for rank in ranks)
    return Row(bar, unit, "lower", None, float(np.quantile(ordered, level, method="higher")), low, high, n, note)


# --- promises --------------------------------------------------------------------------------------------------------


def promise(
    run: Run,
    bench: Bench,
    bar: str,
    kinds: Sequence[tuple[Rollout, Rules]],
    hit: Callable[[End], bool],
    note: Callable[[Sequence[End]], str],
) -> None:
    """One row, written again after every few canaries, so that a run that is stopped half-way keeps what it has."""
    before, ends = list(bench.rows), list[End]()
    while len(ends) < run.canaries:
        ends += run.ends(kinds, min(run.canaries, len(ends) + STRIDE), len(ends))
        row = share(bar, ends, hit, LIMIT, note(ends))
        bench.rows = [*before, row]
        bench.write()
        print(describe(row), flush=True)


def aa(run: Run, bench: Bench) -> None:
    same = Rollout(UNSTEADY, UNSTEADY)
    bar = "rollout/verdict/aa-rolled-back"
    promise(run, bench, bar, [(same, AA)], _rolled_back, lambda ends: f"unsteady machine{_bounds(ends)}")
    for name, rule in (("textbook-tests-that-peek", naive), ("without-dispersion", independent)):
        ends = run.ends([(same, replace(AA, broken=rule, screened=False))], max(1, run.canaries // 40))
        bench.add(share(f"{bar}/{name}", ends, _rolled_back, None, "how not to do it"))


def aa_steady(run: Run, bench: Bench) -> None:
    bar, same = "rollout/verdict/aa-rolled-back/steady", [(Rollout(STEADY, STEADY), AA)]
    promise(run, bench, bar, same, _rolled_back, lambda ends: f"steady machine{_bounds(ends)}")


def p99(run: Run, bench: Bench) -> None:
    note = "every time ×1.1, bound 10 %, default guardrails and steps, never rolled back"
    kinds = [(Rollout(UNSTEADY.slower(1.1), UNSTEADY), Rules(broken=None, guardrails=("errors", "ttft", "gaps")))]
    promise(run, bench, "rollout/verdict/p99-regression-promoted", kinds, _promoted, lambda _: note)


def p99_hardest(run: Run, bench: Bench) -> None:
    slow = Rollout(UNSTEADY.slower(1.1), UNSTEADY, steps=HALF)
    names = [name for name in BOUNDS if name != "errors"]
    note = (
        f"every time ×1.1, bound 10 %, one step and one guardrail each ({', '.join(names)} in turns), never rolled back"
    )
    kinds = [(slow, replace(HARDEST, guardrails=(name,))) for name in names]
    promise(run, bench, "rollout/verdict/p99-regression-promoted/hardest", kinds, _promoted, lambda _: note)


def errors(run: Run, bench: Bench) -> None:
    rules = replace(HARDEST, guardrails=("errors",))
    alone = Rollout(UNSTEADY.failing(0.01), UNSTEADY, steps=HALF)
    bursts = Rollout(UNSTEADY.failing(0.01, in_bursts=True), UNSTEADY)
    for name, rollout, steps in (("alone", alone, "one step"), ("in-bursts", bursts, "default steps")):
        note = f"1 point more, bound 1 point, {steps}, never rolled back"
        bar = f"rollout/verdict/error-rise-promoted/at-the-bound-{name}"
        promise(run, bench, bar, [(rollout, rules)], _promoted, lambda _, note=note: note)


def errors_default(run: Run, bench: Bench) -> None:
    alone, bursts = UNSTEADY.failing(0.01), UNSTEADY.failing(0.01, in_bursts=True)
    kinds = [(Rollout(engine, UNSTEADY), Rules(broken=None)) for engine in (alone, bursts)]

    def note(ends: Sequence[End]) -> str:
        return (
            f"1 point more, alone and in bursts by turns, default bounds and steps, never rolled back; {_endings(ends)}"
        )

    promise(run, bench, "rollout/verdict/error-rise-promoted", kinds, _promoted, note)


def limits(run: Run, bench: Bench) -> None:
    worse = {
        "speeds-flip-every-minute": replace(UNSTEADY, mode_seconds=60.0),
        "speeds-flip-every-three-minutes": replace(UNSTEADY, mode_seconds=180.0),
        "error-bursts-of-8s-every-5min": replace(UNSTEADY, bursts=1 / 300, burst_seconds=8.0, burst_share=0.7),
        "restarts-of-15s-every-20min": replace(UNSTEADY, bursts=1 / 1200, burst_seconds=15.0, burst_share=1.0),
        "restarts-of-60s-every-hour": replace(UNSTEADY, bursts=1 / 3600, burst_seconds=60.0, burst_share=1.0),
    }
    for name, engine in worse.items():
        ends = run.ends([(Rollout(engine, engine), AA)], max(1, run.canaries // 10))
        note = f"both arms the same, each with noise of its own{_bounds(ends)}"
        bench.add(share(f"rollout/verdict/aa-rolled-back/limits/{name}", ends, _rolled_back, None, note))


# --- traffic ---------------------------------------------------------------------------------------------------------


def decisions(run: Run, bench: Bench) -> None:
    """Requests of the candidate, and seconds, until a step at half of the traffic is decided."""
    for machine, usual in (("steady", STEADY), ("unsteady", UNSTEADY)):
        cases = {
            "all-fail": (usual.failing(1.0), "rolledBack"),
            "errors+5": (usual.failing(0.05), "rolledBack"),
            "errors+1": (usual.failing(0.01), "rolledBack"),
            "times-x2": (usual.slower(2.0), "rolledBack"),
            "times-x1.5": (usual.slower(1.5), "rolledBack"),
            "times-x1.25": (usual.slower(1.25), "rolledBack"),
            "times-x0.5": (usual.slower(0.5), "promoted"),
            "times-x0.7": (usual.slower(0.7), "promoted"),
            "same": (usual, "promoted"),
        }
        for name, (engine, wanted) in cases.items():
            rules = Rules(errors=POINT) if wanted == "promoted" else Rules()
            ends = run.ends([(Rollout(engine, usual, steps=HALF), rules)], run.effects)
            _decided(bench, f"rollout/verdict/until-decision/{name}/{machine}", ends, wanted)


def onsets(run: Run, bench: Bench) -> None:
    """From a regression's start in the middle of a step at half of the traffic."""
    begin = 900.0
    for machine, usual in (("steady", STEADY), ("unsteady", UNSTEADY)):
        for name, engine in (("errors+5", usual.failing(0.05)), ("times-x1.5", usual.slower(1.5))):
            step = Step(0.50, 7200.0)
            ends = run.ends([(Rollout(engine, usual, steps=(step,), onset=begin), Rules())], run.effects)
            early = sum(_rolled_back(end) and end.seconds <= begin for end in ends)
            late = [replace(end, seconds=end.seconds - begin) for end in ends if end.seconds > begin]
            note = f"; begins after 900 s; {early} before it began"
            _decided(bench, f"rollout/verdict/from-onset/{name}/{machine}", late, "rolledBack", note, requests=False)


def _decided(
    bench: Bench, bar: str, ends: Sequence[End], wanted: str, extra: str = "", *, requests: bool = True
) -> None:
    decided = [end for end in ends if end.ending == wanted]
    note = f"{_endings(ends)}{extra}"
    if 2 * len(decided) <= len(ends):
        bench.add(share(f"{bar}/undecided", ends, lambda end: end.ending != wanted, None, f"{note}; no median"))
        return
    columns = [("requests", [float(end.requests) for end in ends])] if requests else []
    for unit, known in [*columns, ("s", [end.seconds for end in ends])]:
        longest = max(known)  # whatever ended otherwise had not been decided by then
        values = [v if end.ending == wanted else longest for v, end in zip(known, ends, strict=True)]
        bench.add(quantile(f"{bar}/{unit}/p50", unit, values, 0.5, note))
        if len(decided) >= 0.99 * len(ends):
            bench.add(quantile(f"{bar}/{unit}/p99", unit, values, 0.99, note))


def _endings(ends: Sequence[End]) -> str:
    return ", ".join(f"{count} {ending}" for ending, count in sorted(Counter(end.ending for end in ends).items()))


def _bounds(ends: Sequence[End]) -> str:
    found = Counter(end.bound for end in ends if end.bound)
    return "".join(f", {count} by {bound}" for bound, count in sorted(found.items()))


def _rolled_back(end: End) -> bool:
    return end.ending == "rolledBack"


def _promoted(end: End) -> bool:
    return end.ending == "promoted"


PIECES: dict[str, Callable[[Run, Bench], None]] = {
    piece.__name__: piece
    for piece in (aa, aa_steady, p99, p99_hardest, errors_default, errors, limits, decisions, onsets)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", choices=tuple(PIECES), help=f"of {', '.join(PIECES)}")
    parser.add_argument("--canaries", type=int, default=2000, help="for each promise (default: %(default)s)")
    parser.add_argument("--effects", type=int, default=20, help="for each effect (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once (default: %(default)s)")
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for piece in options.pieces or PIECES:
            PIECES[piece](Run(pool, options.canaries, options.effects), Bench("rollout_verdict", piece))


if __name__ == "__main__":
    main()
