"""The escape battery as a figure, and what a sandbox costs a command.

`escapes` counts attempts of `tests/sandbox/attempts.py` that got through inside the sandbox, `controls` the share that got
through outside of it or with the protection removed: an attempt that cannot succeed anywhere would prove nothing.
`command-overhead` is the time of `true` in the sandbox, from the call to the result, changes to the worktree taken over.

    python -m benchmarks.agents_sandbox [--rounds 30]
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.support.record import ROOT, Bench, Row, median_row

sys.path.insert(0, str(ROOT / "tests" / "sandbox"))

import battery

OVERHEAD_SECONDS = 0.5


def escapes(folder: Path) -> tuple[int, int, int]:
    """Attempts, those that got through inside, those whose control got through."""
    inside = controls = 0
    with battery.plant(folder) as planted:
        os.environ["SECRET"] = planted.facts["canary"]
        names = [name for name in battery.OUTSIDE if os.geteuid() == 0 or name not in battery.NEEDS_ROOT]
        for name in (*names, *battery.SYSTEM_CALLS):
            inside += battery.inside(planted.sandbox, name, planted.facts).escaped
            if name in battery.SYSTEM_CALLS:
                with battery.without(*battery.SYSTEM_CALLS[name]):
                    controls += battery.inside(planted.sandbox, name, planted.facts).escaped
            else:
                controls += battery.outside(name, planted.facts, pass_fds=(planted.secret,)).escaped
    network = battery.network_attempts(battery.NETWORK)
    inside += sum(text.startswith("ESCAPED") for text, _ in network.values())
    controls += sum(text.startswith("ESCAPED") for _, text in network.values())
    return len(names) + len(battery.SYSTEM_CALLS) + len(network), inside, controls


def overhead(folder: Path, rounds: int) -> list[float]:
    """Seconds of each `true`, the first one (which compiles the filter) left out."""
    seconds: list[float] = []
    with battery.plant(folder) as planted:
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            assert planted.sandbox.run(("true",)).code == 0
            seconds.append(time.perf_counter() - begin)
    return seconds[1:]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents_sandbox", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="commands whose overhead is measured")
    options = parser.parse_args(arguments)
    record = Bench("agents_sandbox")
    with tempfile.TemporaryDirectory() as folder:
        for part in ("escapes", "overhead"):
            (Path(folder) / part).mkdir()
        number, inside, controls = escapes(Path(folder) / "escapes")
        note = "every attempt of tests/sandbox/attempts.py, run inside"
        record.add(Row("agents/sandbox/escapes", "attempts", "lower", 0, inside, inside, inside, number, note))
        share, note = controls / number, "the same attempts where the protection is missing"
        record.add(Row("agents/sandbox/controls", "share", "higher", 1.0, share, share, share, number, note))
        values = overhead(Path(folder) / "overhead", options.rounds)
        note = "`true` with its workspace made and its changes taken over"
        record.add(median_row("agents/sandbox/command-overhead", "s", "lower", values, OVERHEAD_SECONDS, note))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
