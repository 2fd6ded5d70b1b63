"""What Sartor takes around a model's own time in a cluster, for each step of planner and implementer.

Whole runs on a real Kubernetes with a `sartor-runner` as the agents' node: operator, git service, model proxy and the pods
of planner and implementer are the real ones, judge, evaluator and servers are played (`tests/cluster/agents_support.py`).
The model is a script that answers at once, so the time from the end of one step to the end of the next is all Sartor's and
Kubernetes's: deciding, a Job and its pod of four containers, the conversation and its tools, what it left checked and
stored.

    python -m benchmarks.agents_overhead_cluster [--runs 6]
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

from benchmarks.support.record import ROOT, Bench, median_row

sys.path.insert(0, str(ROOT / "tests" / "cluster"))
sys.path.insert(0, str(ROOT / "tests" / "support"))
sys.path.insert(0, str(ROOT / "tests" / "provider"))
sys.path.insert(0, str(ROOT / "tests" / "unit" / "operator"))

from agents_support import agents_cluster

from sartor_devcluster import DevCluster

LIMIT = 5.0
ROLES = {"plan": "planner", "implement": "implementer"}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents_overhead_cluster", description=__doc__)
    parser.add_argument("--runs", type=int, default=6, help="runs of one round")
    options = parser.parse_args(arguments)
    record = Bench("agents_overhead_cluster")
    found: dict[str, list[float]] = {step: [] for step in ROLES}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        cluster = DevCluster.up("agents-overhead", lifeline=True)
        try:
            with agents_cluster(cluster, Path(folder)) as agents:
                for number in range(options.runs):
                    namespace = agents.begin("honest", number=number)
                    status = agents.ended(namespace)
                    assert status["phase"] == "Serving", f"run {number}: {status}"
                    records = agents.records(namespace)
                    for before, one in itertools.pairwise(records):
                        if one["step"] in found:
                            found[one["step"]].append(one["finished"] - before["finished"])
                    print(number, {step: round(values[-1], 2) for step, values in found.items()}, flush=True)
        finally:
            cluster.down()
    for step, values in found.items():
        note = f"a step of the {ROLES[step]} from the end of the one before, with a model that answers at once"
        record.add(median_row(f"agents/overhead-cluster/openai/{ROLES[step]}", "s", "lower", values, LIMIT, note))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
