"""Whether the gates' statistics keep their promises: simulated measurements with this machine's noise (`support.noise`).

Noise is what `gates_noise` recorded of two loads; *flips* adds the two modes of the memory's speed, 1.5 apart, 30 s each on
average; *bursts* adds stolen time, 2 s of half the speed every 20 s. The stopping rule is the evaluator's own.

- `aa`: both arms alike: how often one measurement clears the minimum effect, and how often a search takes the best of 20
  rounds to a confirmation that holds.
- `power`: a true gain of 5 % within the default budget, in a confirmation and through a round and its confirmation.
- `coverage`: how often the interval at which a measurement stopped holds the true ratio; also where the ratio differs
  between the modes.
- `quick`: the quick preset on a true 2x and 3x.
- `before`: the same questions to what the evaluator did until now: Student's t on 4–12 pairs of 10 s windows.
- `intervals`: at equal total time, which interval and which length of window.

    python -m benchmarks.gates_statistics [PIECE ...] [--runs 2000] [--state DIR] [--processes 2]

With `--state`, finished parts of a piece are kept in that folder, and a run that was stopped goes on there, unless the
method or the noise has changed since. Each piece writes `benchmarks/results/gates_statistics_PIECE.json`.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.support import noise
from benchmarks.support import trials as trials_of
from benchmarks.support.noise import Noise, Plan, pairs, recorded
from benchmarks.support.record import Bench, Row
from benchmarks.support.trials import (
    Outcome,
    Setting,
    generator,
    sign_interval,
    t_interval,
    trials,
    trimmed_interval,
)
from sartor_agents.measurement import sequential, statistics
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.statistics import Interval, dependence, signed_rank_interval
from sartor_api.search.comparison import improves
from sartor_api.search.measured import Speedup

CHUNK = 50
ROUNDS = 20
"""Of a search, as a `ServingSynthesis` has by default."""
EFFECT, CONFIRMATIONS = 0.02, 2
"""The minimum effect and the candidates whose confirmation is tried, by default."""
FLOOR = 1 + EFFECT
DELIVERED = 1.2
"""The default minimum speed-up of an objective."""

CHAT, EDIT, BUSY = Noise("chat"), Noise("code-edit"), Noise("chat-busy")
FLIPS = replace(CHAT, mode_seconds=30.0)
NOISES = {
    "chat": CHAT,
    "code-edit": EDIT,
    "flips": FLIPS,
    "flips-bursts": replace(FLIPS, burst_every=20.0),
    "busy": BUSY,  # the same load while others used most of the machine
    "busy-flips": replace(BUSY, mode_seconds=30.0),
    "code-edit-flips-bursts": replace(EDIT, mode_seconds=30.0, burst_every=20.0),
}
PLANS = {"chat": Plan(2.0, 2.0), "chat-busy": Plan(2.0, 2.0), "code-edit": Plan(2.5, 0.5)}
"""Window and what lies before it: warm-up, drain, the slower arm's last requests."""
BEFORE_PLAN, BEFORE_QUICK_PLAN = Plan(10.0, 4.0), Plan(4.0, 3.0)

DEFAULT = MeasurementPolicy.thorough()
"""As a `ServingSynthesis` has by default."""
ROUND = MeasurementPolicy.thorough(comparisons=ROUNDS, minimum_speedup=FLOOR)
CONFIRM = MeasurementPolicy.thorough(comparisons=CONFIRMATIONS, minimum_speedup=FLOOR)
QUICK = MeasurementPolicy.quick(comparisons=CONFIRMATIONS, minimum_speedup=DELIVERED)
BEFORE = MeasurementPolicy(replicates_min=4, replicates_max=12, precision=0.05)
BEFORE_QUICK = MeasurementPolicy.quick(replicates_min=3, replicates_max=6, precision=0.1)


@dataclass(frozen=True)
class Run:
    """How trials are run: how many, in which processes, and where finished chunks are kept."""

    pool: Pool
    runs: int
    state: Path | None

    def outcomes(self, name: str, work: "partial[list[Any]]") -> list[Any]:
        """The outcomes of `work(runs, seed name, chunk)` over all chunks, those of an earlier run read back."""
        file = self.state / f"{name.replace('/', '_')}-{_version(work)}.jsonl" if self.state is not None else None
        known: dict[int, list[Any]] = {}
        if file is not None and file.is_file():
            for line in file.read_text(encoding="utf-8").splitlines():
                one = json.loads(line)
                known[one["chunk"]] = one["outcomes"]
        chunks = range(math.ceil(self.runs / CHUNK))
        missing = [chunk for chunk in chunks if chunk not in known]
        for chunk, found in self.pool.imap_unordered(partial(_chunk, work, name), missing):
            known[chunk] = found
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({"chunk": chunk, "outcomes": found}) + "\n")
        return [one for chunk in chunks for one in known[chunk]][: self.runs]

    def measured(self, name: str, setting: Setting) -> list[Outcome]:
        return [Outcome(**one) for one in self.outcomes(name, partial(_measured, setting))]


def _version(work: "partial[list[Any]]") -> str:
    """Changes with anything that outcomes depend on: the method, the noise, the settings of the work."""
    digest = hashlib.sha256(repr(work.args).encode())
    for source in (sequential, statistics, noise, trials_of):
        assert source.__file__ is not None
        digest.update(Path(source.__file__).read_bytes())
    digest.update(noise.RECORDED.read_bytes())
    return digest.hexdigest()[:12]


def _chunk(work: "partial[list[Any]]", name: str, chunk: int) -> tuple[int, list[Any]]:
    return chunk, work(chunk, name)


def _measured(setting: Setting, chunk: int, name: str) -> list[Any]:
    return [asdict(one) for one in trials(setting, CHUNK, generator(name, chunk))]


# --- rows ------------------------------------------------------------------------------------------------------------


def share(bar: str, hits: Sequence[bool], better: str, target: float | None, note: str) -> Row:
    """A share with its exact interval (Clopper & Pearson, *Biometrika* 26, 1934)."""
    k, n = sum(hits), len(hits)
    low = float(stats.beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(stats.beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return Row(
        bar, "share", "lower" if better == "lower" else "higher", target, k / n, low, high, n, f"{k} of {n}: {note}"
    )


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def spent(outcomes: Sequence[Outcome]) -> str:
    """How long the measurements took, in words."""
    seconds = sorted(one.seconds for one in outcomes)
    late = seconds[math.ceil(0.9 * len(seconds)) - 1]
    width = _median(math.log(one.high / one.low) / 2 for one in outcomes)
    return f"{_median(seconds):.0f} s at the median, {late:.0f} s at 90 %, half-width {width:.1%}"


def noises(*names: str) -> list[str]:
    """Those of `names` (default: all) whose load was recorded; what is left out is printed."""
    known = [name for name in names or NOISES if NOISES[name].load in recorded()]
    for name in set(names or NOISES) - set(known):
        print(f"left out: {name}; record its load with python -m benchmarks.gates_noise", flush=True)
    return known


def setting(name: str, used: MeasurementPolicy, **changes: Any) -> Setting:
    return Setting(used, PLANS[NOISES[name].load], NOISES[name], **changes)


# --- pieces ----------------------------------------------------------------------------------------------------------


def aa(run: Run) -> Iterator[Row]:
    for name in noises():
        bar = f"gates/statistics/aa-called-a-win/single/{name}"
        found = run.measured(bar, setting(name, replace_floor(DEFAULT)))
        note = f"one measurement, default preset, low end above {FLOOR:g}; {spent(found)}"
        yield share(bar, [one.low >= FLOOR for one in found], "lower", 0.01, note)
    bar = "gates/statistics/aa-called-a-win/quick/flips-bursts"
    found = run.measured(bar, Setting(QUICK, PLANS["chat"], NOISES["flips-bursts"]))
    wins = [one.low >= FLOOR for one in found]
    yield share(bar, wins, "lower", 0.01, f"one confirmation, quick preset, low end above {FLOOR:g}; {spent(found)}")
    for name in ("chat", "flips"):
        bar = f"gates/statistics/aa-called-a-win/best-of-{ROUNDS}-confirmed/{name}"
        rounds = run.measured(f"{bar}/rounds", setting(name, ROUND))
        confirmations = run.measured(f"{bar}/confirmations", setting(name, CONFIRM))
        found = searches(rounds, confirmations, run.runs, generator(bar, 0))
        kept = sum(one[0] > 0 for one in found)
        note = (
            f"{ROUNDS} rounds, the best kept, at most {CONFIRMATIONS} confirmations, drawn from {len(rounds)} simulated "
            f"rounds and as many confirmations; {kept} searches kept something"
        )
        yield share(bar, [won for _, won in found], "lower", 0.01, note)


def replace_floor(used: MeasurementPolicy) -> MeasurementPolicy:
    """The policy with the minimum effect as what is to be cleared."""
    return used.model_copy(update={"minimum_speedup": FLOOR})


def searches(
    rounds: Sequence[Outcome], confirmations: Sequence[Outcome], number: int, rng: np.random.Generator
) -> list[tuple[int, bool]]:
    """Searches put together from measurements: how many candidates each kept, and whether a confirmation held."""
    found: list[tuple[int, bool]] = []
    for _ in range(number):
        kept: list[Speedup] = []
        for one in (rounds[at] for at in rng.choice(len(rounds), ROUNDS, replace=False)):
            speedup = _speedup(one)
            if improves(speedup, kept[-1] if kept else None, EFFECT):
                kept.append(speedup)
        tries = rng.choice(len(confirmations), min(len(kept), CONFIRMATIONS), replace=False)
        found.append((len(kept), any(confirmations[at].low >= FLOOR for at in tries)))
    return found


def _speedup(one: Outcome) -> Speedup:
    return Speedup(value=one.value, low=one.low, high=one.high, n=one.n)


def power(run: Run) -> Iterator[Row]:
    for name in noises():
        bar = f"gates/statistics/gain-of-5-found/confirmation/{name}"
        confirmed = run.measured(bar, setting(name, CONFIRM, ratio=1.05))
        holds = [one.low >= FLOOR for one in confirmed]
        target = None if NOISES[name].burst_every else 0.9  # bursts as heavy were not seen on this machine
        yield share(bar, holds, "higher", target, f"default preset, low end above {FLOOR:g}; {spent(confirmed)}")
        bar = f"gates/statistics/gain-of-5-found/round-and-confirmation/{name}"
        rounds = run.measured(bar, setting(name, ROUND, ratio=1.05))
        both = [improves(_speedup(a), None, EFFECT) and held for a, held in zip(rounds, holds, strict=True)]
        note = f"a round of {ROUNDS}, then the confirmation; round: {spent(rounds)}"
        yield share(bar, both, "higher", target, note)


def coverage(run: Run) -> Iterator[Row]:
    for name in noises():
        for ratio in (1.0, 1.05, 2.0):
            yield _covers(run, f"{name}/{ratio:g}x", setting(name, DEFAULT, ratio=ratio))
    for ratio in (1.05, 2.0):
        one = setting("flips-bursts", DEFAULT, ratio=ratio, feels=(1.0, 0.0))
        yield _covers(run, f"modes-felt-by-one-arm/{ratio:g}x", one)
    quick = Setting(MeasurementPolicy.quick(), PLANS["chat"], NOISES["flips-bursts"], 2.0)
    yield _covers(run, "quick/flips-bursts/2x", quick)


def _covers(run: Run, name: str, one: Setting) -> Row:
    bar = f"gates/statistics/interval-covers/{name}"
    found = run.measured(bar, one)
    return share(
        bar, [o.covers(one.truth) for o in found], "higher", 0.95, f"true ratio {one.truth:.3g}; {spent(found)}"
    )


def quick(run: Run) -> Iterator[Row]:
    for name in noises("flips", "flips-bursts", "code-edit-flips-bursts"):
        for ratio in (2.0, 3.0):
            bar = f"gates/statistics/quick-finds/{ratio:g}x/{name}"
            found = run.measured(bar, Setting(QUICK, PLANS[NOISES[name].load], NOISES[name], ratio))
            held = [one.low >= DELIVERED for one in found]
            yield share(bar, held, "higher", 0.9, f"confirmation's low end above {DELIVERED:g}; {spent(found)}")


def before(run: Run) -> Iterator[Row]:
    prefix = "gates/statistics/before"
    for name in ("chat", "flips-bursts"):
        for ratio, what in ((1.0, "aa-called-a-win"), (1.05, "gain-of-5-found")):
            bar = f"{prefix}/{what}/{name}"
            one = Setting(replace_floor(BEFORE), BEFORE_PLAN, NOISES[name], ratio, old=True)
            found = run.measured(bar, one)
            better = "lower" if ratio == 1 else "higher"
            yield share(bar, [o.low >= FLOOR for o in found], better, None, spent(found))
            bar = f"{prefix}/interval-covers/{name}/{ratio:g}x"
            yield share(bar, [o.covers(one.truth) for o in found], "higher", None, spent(found))
        for ratio in (2.0, 3.0):
            bar = f"{prefix}/quick-finds/{ratio:g}x/{name}"
            found = run.measured(bar, Setting(BEFORE_QUICK, BEFORE_QUICK_PLAN, NOISES[name], ratio, old=True))
            yield share(bar, [o.low >= DELIVERED for o in found], "higher", None, spent(found))


INTERVALS: dict[str, Callable[[Sequence[float], float], Interval]] = {
    "t": t_interval,
    "trimmed": trimmed_interval,
    "sign": sign_interval,
    "signed-rank": signed_rank_interval,
    "signed-rank-dependence": lambda logs, level: signed_rank_interval(logs, level, inflation=dependence(logs)),
}
LENGTHS = {"10 s windows": BEFORE_PLAN, "4 s windows": Plan(4.0, 2.0), "2 s windows": PLANS["chat"]}
EQUAL_SECONDS = 480.0


def intervals(run: Run) -> Iterator[Row]:
    for felt, feels in (("both-arms", (1.0, 1.0)), ("one-arm", (1.0, 0.0))):
        for length, plan in LENGTHS.items():
            name = f"gates/statistics/intervals/modes-felt-by-{felt}/{length.replace(' ', '-')}"
            one = Setting(DEFAULT, plan, NOISES["flips-bursts"], 1.05, feels)
            found = run.outcomes(name, partial(_fixed, one))
            for method in INTERVALS:
                ends = [each[method] for each in found]
                width = _median(math.log(high / low) / 2 for low, high in ends)
                bar, hits = f"{name}/{method}", [low <= one.truth <= high for low, high in ends]
                note = f"half-width {width:.1%} at the median; {EQUAL_SECONDS:.0f} s, one look, 95 %"
                yield share(bar, hits, "higher", None, note)


def _fixed(one: Setting, chunk: int, name: str) -> list[Any]:
    """Every kind of interval on the same pairs, as many as fit into the time."""
    number = int(EQUAL_SECONDS / one.plan.pair_seconds)
    effect = math.log(one.ratio)
    rows = pairs(one.noise, one.plan, number, CHUNK, generator(name, chunk), effect=effect, feels=one.feels)
    found = ({method: make(list(row), 0.95) for method, make in INTERVALS.items()} for row in rows)
    return [{method: (interval.low, interval.high) for method, interval in each.items()} for each in found]


PIECES: dict[str, Callable[[Run], Iterator[Row]]] = {
    one.__name__: one for one in (power, aa, coverage, quick, before, intervals)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"{', '.join(PIECES)}; default: all")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--state", type=Path, help="folder for finished parts")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if unknown := set(options.pieces) - set(PIECES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PIECES)}")
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        run = Run(pool, options.runs, options.state)
        for name in options.pieces or PIECES:
            bench = Bench("gates_statistics", name)
            for row in PIECES[name](run):
                bench.add(row)


if __name__ == "__main__":
    main()
