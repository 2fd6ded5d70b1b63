"""Rollouts at a real Gateway under load: what is lost, and how long traffic takes to leave an arm.

Contour, Envoy and the operator are real, and so is the load: 30 requests a second in open loop (Poisson), half of them
streams, at the Gateway. The engines are processes that answer at a known pace (`tests/cluster/rollout_engine.py`: 20 ms,
then 10 ms a token), since what is measured is the way there and back. Clients, the Gateway's log and both engines count the
requests, and must agree.

- *lost*: requests that failed, were cut, or reached an engine more or less than once, of all those of a whole rollout
  forward, in one that is taken back at each step and after the promotion, and in one forward while the operator is killed
  (SIGKILL) a second after it has begun to work, again and again.
- *gone*: from the write that takes the candidate's last endpoint away to the last request that the Gateway gave to that arm.
- *abort*: from the start of `kubectl patch` to the last request that came to the candidate.
- *regression*: from the moment at which the candidate fails 5 % of its requests, or takes 1.5 times as long, to its last
  request. It stands at 50 %; the regression begins `--onsets` seconds after the step. By construction nothing is decided on
  errors in the first minute of a step, on latencies in the first two.
- *hop*: a short request through the Gateway and straight to the engine, in turns over connections that stay open.

    python -m benchmarks.rollout_live [--only lost gone abort regression hop] [--gone 40] [--aborts 20] [--replicates 5]

All of it takes about two and a half hours, most of it for the regressions; `--only lost gone abort hop` takes 45 minutes. A
machine with other work to do gives other figures.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))

from gateway_support import gateway_cluster
from operator_support import wait_for
from rollout_gateway_parts import CANDIDATE
from rollout_gateway_support import ERRORS, HALF, Account, Live, live, prepared

from benchmarks.support.record import Bench, Row, median_row
from sartor_devcluster import DevCluster

PARTS = ("lost", "gone", "abort", "regression", "hop")
STEPS: list[dict[str, Any]] = [{"weight": weight, "hold": "5s"} for weight in (5, 25, 50)]
SLOW_STEPS: list[dict[str, Any]] = [{"weight": weight, "hold": "1h"} for weight in (5, 25, 50)]
SECONDS = 2.0
REGRESSIONS: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "errors-5": ({"fail": 0.05}, {"metric": "errorRate", "maximumRegression": "1%"}),
    "p99-x1.5": ({"slow": 1.5}, {"metric": "endToEndLatencyP99", "maximumRegression": "10%"}),
}
"""What the candidate does, and the guardrail that has to see it."""
DECIDED_SECONDS = 1200.0


def tail_row(bar: str, unit: str, values: list[float], share: float, target: float | None, note: str = "") -> Row:
    """A quantile with its percentile-bootstrap interval. Of fewer than 1 ÷ (1 − share) values it is their largest, and the
    interval says no more than they do."""
    data = np.asarray(values)
    drawn = np.quantile(np.random.default_rng(0).choice(data, (2000, len(data))), share, axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Row(bar, unit, "lower", target, float(np.quantile(data, share)), float(low), float(high), len(data), note)


# --- nothing is lost --------------------------------------------------------------------------------------------------


def lost_row(name: str, account: Account, note: str) -> Row:
    """Requests that were not answered whole, or not carried out exactly once."""
    counted = account.carried_out()
    lost = {one.id for one in account.lost} | {one for one in account.outcomes if counted[one] != 1}
    value = float(len(lost))
    told = f"{note}; {account.told()}"
    return Row(f"rollout/live/lost/{name}", "requests", "lower", 0.0, value, value, value, len(account.outcomes), told)


def forward(made: Live, bench: Bench, name: str, note: str) -> None:
    made.begin(STEPS, [ERRORS])
    made.come()
    made.reaches("Promoted", 3 * DECIDED_SECONDS)
    time.sleep(3.0)
    bench.add(lost_row(name, made.account(), note))


def back_at(made: Live, step: int, bench: Bench) -> None:
    """Aborted at a step; the steps before it are skipped by hand. One beyond the last: undone after the promotion."""
    made.begin(SLOW_STEPS, [ERRORS])
    made.come()
    made.at_step(1)
    if step > len(SLOW_STEPS):
        made.patch(promote=True)
        made.reaches("Promoted", 60)
        time.sleep(3.0)
        made.patch(promote=False, undo=True)
    else:
        for number in range(2, step + 1):
            made.patch(skipToStep=number)
            made.at_step(number)
        time.sleep(3.0)
        made.patch(abort=True, promote=False)
    made.reaches("RolledBack", 60)
    time.sleep(2.0)
    name = "undo" if step > len(SLOW_STEPS) else f"back-at-{SLOW_STEPS[step - 1]['weight']}"
    bench.add(lost_row(name, made.account(), "by spec.control"))


def lost(cluster: DevCluster, folder: Path, bench: Bench) -> None:
    with live(cluster, folder) as made:
        forward(made, bench, "forward", "steps of 5, 25 and 50 %")
    for step in range(1, len(SLOW_STEPS) + 2):
        with live(cluster, folder) as made:
            back_at(made, step, bench)
    with live(cluster, folder) as made:
        made.begin(STEPS, [ERRORS])
        made.come()
        made.kept.kill_after = 1.0
        made.reaches("Promoted", 6 * DECIDED_SECONDS)
        made.kept.kill_after = None
        time.sleep(3.0)
        note = f"{made.kept.kills} kills, one a second after the operator has begun to work"
        bench.add(lost_row("operator-killed", made.account(), note))


# --- how long it takes ------------------------------------------------------------------------------------------------


def gone(cluster: DevCluster, folder: Path, bench: Bench, count: int) -> None:
    with live(cluster, folder) as made:
        made.begin(HALF, [ERRORS])
        made.come()
        made.at_step(1)
        went: list[tuple[float, float]] = []
        for _ in range(count):
            time.sleep(3.0)
            at = made.endpoints(made.candidate, there=False)
            made.reaches("Frozen", 30)
            time.sleep(2.0)
            went.append((at, made.endpoints(made.candidate, there=True)))
            made.reaches("Progressing", 60)
            wait_for("its share again", lambda: made.shares()[CANDIDATE] == 50, 60)
        account = made.account()
    given = [(r.started, r.status) for r in account.records.values() if r.backend and r.backend.service == CANDIDATE]
    seconds, refused = [], 0
    for at, until in went:
        late = [status for started, status in given if started is not None and at < started < until]
        last = max((s for s, _ in given if s is not None and at < s < until), default=at)
        seconds.append(last - at)
        refused += sum(status == 503 for status in late)
    note = f"{refused} of {len(account.outcomes)} requests were answered 503 meanwhile: Contour offers no retries"
    bench.add(
        median_row("rollout/live/endpoint-gone/p50", "s", "lower", seconds, None, note),
        tail_row("rollout/live/endpoint-gone/p99", "s", seconds, 0.99, SECONDS, note),
    )
    others = [one for one in account.lost if account.records[one.id].status != 503]
    value = float(len(others))
    bar = "rollout/live/endpoint-gone/lost-otherwise"
    bench.add(Row(bar, "requests", "lower", 0.0, value, value, value, len(account.outcomes), "other than those 503"))


def abort(cluster: DevCluster, folder: Path, bench: Bench, count: int) -> None:
    seconds: list[float] = []
    for _ in range(count):
        with live(cluster, folder) as made:
            made.begin(HALF, [ERRORS])
            made.come()
            made.at_step(1)
            time.sleep(2.0)
            begun, _ = made.patch(abort=True, promote=False)
            made.reaches("RolledBack", 60)
            time.sleep(1.0)
            seconds.append(max(one.at for one in made.account().of_users(CANDIDATE)) - begun)
    note = "from kubectl's start, its own time included"
    bench.add(
        median_row("rollout/live/abort/p50", "s", "lower", seconds, None, note),
        tail_row("rollout/live/abort/p99", "s", seconds, 0.99, SECONDS, note),
    )


def regression(cluster: DevCluster, folder: Path, bench: Bench, onsets: list[float], replicates: int) -> None:
    for name, (behaviour, guardrail) in REGRESSIONS.items():
        for onset in onsets:
            seconds = [caught(cluster, folder, onset, behaviour, guardrail) for _ in range(replicates)]
            bar = f"rollout/live/regression/{name}/onset-{onset:g}s"
            note = f"at 50 % of 30 requests/s, {guardrail}, confidence 99 %"
            bench.add(median_row(f"{bar}/p50", "s", "lower", seconds, None, note))
            bench.add(tail_row(f"{bar}/p99", "s", seconds, 0.99, None, note))


def caught(
    cluster: DevCluster, folder: Path, onset: float, behaviour: dict[str, float], guardrail: dict[str, Any]
) -> float:
    """Seconds from the begin of a regression to the last request that its arm got."""
    analysis = {"minimumSamples": 100, "confidence": "99%", "sources": ["gatewayAccessLog"]}
    with live(cluster, folder) as made:
        made.begin(HALF, [guardrail], analysis=analysis)
        made.come()
        made.at_step(1)
        time.sleep(onset)
        planted = made.candidate.behave(**behaviour)
        made.reaches("RolledBack", DECIDED_SECONDS)
        time.sleep(1.0)
        return max(one.at for one in made.account().of_users(CANDIDATE)) - planted


# --- the hop ----------------------------------------------------------------------------------------------------------

ASK = """
import http.client, json, sys, time
plan = json.loads(sys.argv[1])
body = json.dumps({"prompt": "p", "max_tokens": 1})
headers = {"Content-Type": "application/json", "Host": plan["host"]}
ways = {name: http.client.HTTPConnection(*where) for name, where in plan["ways"].items()}
found = {name: [] for name in ways}
for number in range(plan["count"]):
    for name in list(ways)[:: 1 if number % 2 else -1]:
        begun = time.perf_counter()
        ways[name].request("POST", "/v1/completions", body, headers)
        answer = ways[name].getresponse()
        answer.read()
        assert answer.status == 200
        found[name].append(time.perf_counter() - begun)
print(json.dumps(found))
"""


def hop(cluster: DevCluster, folder: Path, bench: Bench, count: int = 4000) -> None:
    with live(cluster, folder) as made:
        made.begin(HALF, [ERRORS])
        made.come(1.0).end()
        made.at_step(1)
        for engine in (made.baseline, made.candidate):
            engine.behave(slow=0.0)
        gateway = cluster.gateway_address()
        assert gateway is not None
        ways = {"gateway": list(gateway), "direct": [made.baseline.address, 8000]}
        plan = {"host": made.host, "ways": ways, "count": count}
        command = cluster.enter([sys.executable, "-c", ASK, json.dumps(plan)])
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = {name: np.asarray(values[100:]) for name, values in json.loads(done.stdout).items()}
    parts = np.array_split(1e6 * (found["gateway"] - found["direct"]), 20)
    note = "through Envoy less straight to the engine, one after the other; Sartor has no part of its own on the way"
    bench.add(
        median_row("rollout/live/hop/p50", "us", "lower", [float(np.median(part)) for part in parts], None, note),
        tail_row(
            "rollout/live/hop/p99", "us", list(1e6 * found["gateway"]), 0.99, None, "all of it, not the difference"
        ),
        tail_row(
            "rollout/live/hop/direct-p99", "us", list(1e6 * found["direct"]), 0.99, None, "the same without Envoy"
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--gone", type=int, default=40, help="endpoints that go away (about 30 s each)")
    parser.add_argument("--aborts", type=int, default=20, help="about 40 s each")
    parser.add_argument("--replicates", type=int, default=5, help="of each regression and onset (two to five minutes)")
    parser.add_argument("--onsets", nargs="+", type=float, default=[0.0, 150.0], metavar="SECONDS")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, gateway_cluster(Path(folder)) as running:
        cluster, work = prepared(running), Path(folder)
        parts: dict[str, Callable[[Bench], None]] = {
            "lost": lambda bench: lost(cluster, work, bench),
            "gone": lambda bench: gone(cluster, work, bench, given.gone),
            "abort": lambda bench: abort(cluster, work, bench, given.aborts),
            "regression": lambda bench: regression(cluster, work, bench, given.onsets, given.replicates),
            "hop": lambda bench: hop(cluster, work, bench),
        }
        for part in given.only:
            parts[part](Bench("rollout_live", part))


if __name__ == "__main__":
    main()
