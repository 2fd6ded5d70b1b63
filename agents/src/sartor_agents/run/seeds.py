"""Several runs of one manifest that differ in the search's seed alone: how much of a result is luck.

Each run lies in a folder of its own below the given one (`seed-0007`) and is a whole run: it can be looked at, resumed and
delivered by itself. `spread.json` beside them says what came of all of them.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sartor_agents.run import session
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.storage import write_atomic
from sartor_api.search.records import Finished, Outcome


@dataclass(frozen=True)
class Result:
    """How one run ended. `speedup` is the confirmed ratio with its interval, None without one."""

    seed: int
    outcome: str
    reason: str
    rounds: int
    best_round: int | None
    speedup: tuple[float, float, float] | None


@dataclass(frozen=True)
class Spread:
    """The results of all seeds. Ratios are confirmed speed-ups; a run without one counts as 1 (nothing is delivered)."""

    results: tuple[Result, ...]

    @property
    def ratios(self) -> list[float]:
        return sorted(1.0 if one.speedup is None else one.speedup[0] for one in self.results)

    @property
    def confirmed(self) -> int:
        return sum(one.speedup is not None for one in self.results)

    def __str__(self) -> str:
        ratios = self.ratios
        deviation = f", standard deviation {statistics.stdev(ratios):.2f}" if len(ratios) > 1 else ""
        return (
            f"{len(ratios)} seeds: {self.confirmed} confirmed; speed-up {statistics.median(ratios):.2f}x at the median, "
            f"{ratios[0]:.2f}x to {ratios[-1]:.2f}x{deviation}"
        )


def folders(directory: Path, first: int, number: int) -> dict[int, Path]:
    """The folder of each seed."""
    return {seed: directory / f"seed-{seed:04d}" for seed in range(first, first + number)}


def prepare(manifest: Path, directory: Path, options: session.Options, number: int) -> dict[int, Path]:
    """Make the runs that are not there yet; those that are must be of this manifest. Raises `RunError`."""
    synthesis, _ = session.read_synthesis(manifest)
    first = options.seed if options.seed is not None else synthesis.spec.search.seed
    found = folders(directory, first, number)
    for seed, folder in found.items():
        if RunLayout(folder.absolute()).repository.is_dir():
            session.check_same(manifest, session.open_run(folder)[1])
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        session.create(manifest, folder, options.with_seed(seed))
    return found


def carry_out(runs: dict[int, Path], directory: Path, drive: Callable[[Path], Finished]) -> Spread:
    """Each run to its end, one after the other (they share the machine); the spread is written after each."""
    results: list[Result] = []
    for seed, folder in runs.items():
        finished = drive(folder)
        results.append(_result(seed, folder, finished))
        _write(directory, results)
    return Spread(tuple(results))


def _result(seed: int, folder: Path, finished: Finished) -> Result:
    state = session.open_run(folder)[1].load().state(finished.at)
    ratio = finished.speedup if finished.outcome is Outcome.CONFIRMED else None
    interval = None if ratio is None else (ratio.value, ratio.low, ratio.high)
    return Result(
        seed, finished.outcome.value, finished.reason, len(state.closed_rounds), finished.best_round, interval
    )


def _write(directory: Path, results: Sequence[Result]) -> None:
    spread = Spread(tuple(results))
    content = {
        "seeds": len(results),
        "confirmed": spread.confirmed,
        "median": statistics.median(spread.ratios),
        "lowest": spread.ratios[0],
        "highest": spread.ratios[-1],
        "runs": [asdict(one) for one in results],
    }
    write_atomic(directory / "spread.json", (json.dumps(content, indent=1) + "\n").encode())
