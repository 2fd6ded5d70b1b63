"""What the load generator can take on this machine, and whether a window near that is refused.

A null server in another process answers every request at once; the client that every measurement uses keeps a number of
requests in flight against it. Server and client share the machine's cores. Each setting is measured in turns with the
others; a row is the median of the rounds with its bootstrap interval. The share of its core that the client used stands in
the note: a measurement's window above `MeasurementPolicy.maximum_generator_share` is void.

    python -m benchmarks.gates_generator --rounds 5 --seconds 2
"""

import argparse

from benchmarks.support.record import Bench, median_row
from sartor_agents.measurement.ceiling import CHUNKS, Ceiling, measure
from sartor_agents.measurement.policy import MeasurementPolicy

SETTINGS = [(1, False), (16, False), (64, False), (16, True)]
STREAMED = 20_000.0  # chunks/s: about six times what the fastest stack of these benchmarks writes at concurrency 16
REQUESTS = 500.0  # requests/s of 128 chunks each in one piece


def main() -> None:
    parser = argparse.ArgumentParser(description="The ceiling of the load generator.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per setting and round")
    arguments = parser.parse_args()
    seen: dict[tuple[int, bool], list[Ceiling]] = {setting: [] for setting in SETTINGS}
    for _ in range(arguments.rounds):
        for concurrency, lumped in SETTINGS:
            seen[concurrency, lumped].append(measure(concurrency=concurrency, seconds=arguments.seconds, lumped=lumped))
    bench = Bench("gates_generator")
    allowed = MeasurementPolicy().maximum_generator_share
    for (concurrency, lumped), results in seen.items():
        share = sorted(result.cpu_share for result in results)[len(results) // 2]
        verdict = "a window at this rate is refused" if share > allowed else "a window at this rate counts"
        note = f"the client used {share:.0%} of its core (at most {allowed:.0%} in a measurement): {verdict}"
        if lumped:
            bar, values = f"gates/generator/c{concurrency}/requests", [r.requests_per_second for r in results]
            note = f"answers of {CHUNKS} events in one piece; {note}"
            bench.add(median_row(bar, "requests/s", "higher", values, REQUESTS, note))
        else:
            bar, values = f"gates/generator/c{concurrency}/streamed", [r.chunks_per_second for r in results]
            note = f"{CHUNKS} events an answer, one write each; {note}"
            bench.add(median_row(bar, "chunks/s", "higher", values, STREAMED if concurrency > 1 else None, note))


if __name__ == "__main__":
    main()
