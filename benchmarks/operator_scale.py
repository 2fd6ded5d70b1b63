"""The operator against a real API server: first role pod after `kubectl apply`, and a thousand syntheses at once.

Latency: syntheses are applied one after the other, each by a `kubectl apply` of its own; the clock starts when kubectl is
started and stops when a watch sees the first role pod bound to a node. Then all of them are applied once more, unchanged.
Scale: all syntheses are created, and nothing ever ends their first pod; then nothing happens for a while, then the operator
is killed and started again. Writes are counted in the API server's audit log by who asked for them (the bench's own node
and objects have another user agent). The process runs as it is installed; memory is its resident set.

    python -m benchmarks.operator_scale [--count 1000] [--latency 100] [--idle 300]
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))

from operator_support import (
    Ends,
    Kubelet,
    OperatorProcess,
    Outsider,
    apply,
    prepare,
    repository,
    synthesis,
    wait_for,
    writes_in,
)

from benchmarks.support.record import Bench, Row
from sartor_devcluster import DevCluster
from sartor_operator.connection import Connection
from sartor_operator.errors import AlreadyExistsError
from sartor_operator.kinds import JOB

P50_SECONDS, P99_SECONDS = 1.0, 3.0
RECONCILE_SECONDS = 2.0
MEMORY_MIB = 250.0
RESTART_SECONDS = 30.0


def exact(bar: str, unit: str, value: float, target: float | None, n: int, note: str) -> Row:
    """A figure that was counted or read once."""
    return Row(bar, unit, "lower", target, value, value, value, n, note)


def quantile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def latency(cluster: DevCluster, stacks: str, folder: Path, count: int, bench: Bench) -> None:
    namespace = "latency"
    cluster.kubectl("create", "namespace", namespace, check=True)
    process = OperatorProcess(cluster.kubeconfig, namespace, stacks, folder / "latency.log")
    seconds: list[float] = []
    with process, Kubelet(cluster.kubeconfig, namespace, script=lambda _b, _p: Ends(never=True)) as kubelet:
        wait_for("the operator leads", process.leading)
        for number in range(count):
            name = f"l{number}"
            begun = time.time()
            apply(cluster, synthesis(namespace, name))
            wait_for("a pod on a node", lambda n=name: n in kubelet.scheduled, 60, every=0.005)
            seconds.append(kubelet.scheduled[name] - begun)
        everything = [synthesis(namespace, f"l{number}") for number in range(count)]
        time.sleep(5)
        since = cluster.audit_log.stat().st_size
        said = apply(cluster, *everything)
        assert said.count("unchanged") == count, said
        time.sleep(10)
        written = [*writes_in(cluster.audit_log, since), *writes_in(cluster.audit_log, since, "kubectl")]
    again = exact(
        "cluster/operator/reapply-writes", "writes", len(written), 0, count, "of kubectl and the operator, 10 s"
    )
    note = "kubectl's own start included"
    draws = [statistics.median(seconds[i::5]) for i in range(5)]
    median = statistics.median(seconds)
    bench.add(
        Row("cluster/operator/first-pod-p50", "s", "lower", P50_SECONDS, median, min(draws), max(draws), count, note),
        exact("cluster/operator/first-pod-p99", "s", quantile(seconds, 0.99), P99_SECONDS, count, note),
        again,
    )
    cluster.kubectl("delete", "namespace", namespace, "--wait=false", check=True)


def buckets(process: OperatorProcess) -> dict[float, float]:
    """Looks by upper bound of their time, all kinds together."""
    found: dict[float, float] = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("sartor_reconcile_seconds_bucket{"):
                bound = float(line.partition('le="')[2].partition('"')[0])
                found[bound] = found.get(bound, 0.0) + float(line.rpartition(" ")[2])
    return found


def reconcile_p99(process: OperatorProcess) -> tuple[float, int]:
    """The bound of the bucket in which the 99th per cent lies (so at most that), and the number of looks."""
    counts = buckets(process)
    total = max(counts.values())
    return min(bound for bound, count in counts.items() if count >= 0.99 * total), int(total)


NOWHERE = {
    "apiVersion": "sartor.dev/v1alpha1",
    "kind": "HardwareTarget",
    "metadata": {"name": "nowhere"},
    "spec": {"platform": "cpu", "nodeSelector": {"sartor.dev/bench": "no-such-node"}},
}
"""Pods for it are never scheduled, so that nothing happens after the first Job."""


async def create_all(cluster: DevCluster, namespace: str, count: int) -> None:
    async with Outsider(Connection.load(str(cluster.kubeconfig))) as client:
        gate = asyncio.Semaphore(16)

        async def one(number: int) -> None:
            async with gate:
                try:
                    wanted = synthesis(namespace, f"s{number:04d}", hardware={"targetRef": {"name": "nowhere"}})
                    await client.create(wanted, "bench")
                except AlreadyExistsError:
                    return  # the answer of an earlier try was lost

        await asyncio.gather(*(one(number) for number in range(count)))


async def jobs(cluster: DevCluster, namespace: str) -> int:
    """How many Jobs there are; their bodies stay where they are."""
    async with Outsider(Connection.load(str(cluster.kubeconfig))) as client:
        page = await client._send("list", "GET", JOB.path(namespace), query={"limit": "1"})
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))


def steady(process: OperatorProcess, looks: int, seconds: float) -> None:
    """Every key was looked at, and none waits."""

    def look() -> bool:
        try:
            done = process.metric("sartor_reconcile_seconds_count")
            return process.leading() and done >= looks and process.metric("sartor_queue_depth") == 0
        except OSError:
            return False

    wait_for("steady", look, seconds, every=0.5)  # each look costs the operator a page of metrics


def settled(cluster: DevCluster, quiet: float = 20.0) -> None:
    """The operator wrote nothing for `quiet` seconds: what became of the first Jobs was seen and told."""
    for _ in range(30):
        since = cluster.audit_log.stat().st_size
        time.sleep(quiet)
        if not writes_in(cluster.audit_log, since):
            return
    raise AssertionError(f"the operator wrote something in every {quiet:.0f} s")


def scale(cluster: DevCluster, stacks: str, folder: Path, count: int, idle: float, bench: Bench) -> None:
    namespace = "scale"
    cluster.kubectl("create", "namespace", namespace, check=True)
    apply(cluster, NOWHERE)
    process = OperatorProcess(cluster.kubeconfig, namespace, stacks, folder / "scale.log", "--lease-seconds", "15")
    with process:
        wait_for("the operator leads", process.leading)
        begun = time.monotonic()
        asyncio.run(create_all(cluster, namespace, count))
        wait_for("all Jobs", lambda: asyncio.run(jobs(cluster, namespace)) >= count, 900, every=1.0)
        taken = time.monotonic() - begun
        time.sleep(10)
        p99, looks = reconcile_p99(process)
        bench.add(
            exact("cluster/operator/1000-first-jobs", "s", taken, None, count, "from the first create to the last Job"),
            exact("cluster/operator/reconcile-p99", "s", p99, RECONCILE_SECONDS, looks, "upper bound of the bucket"),
        )
        settled(cluster)
        since = cluster.audit_log.stat().st_size
        time.sleep(idle)
        written = writes_in(cluster.audit_log, since)
        bench.add(
            exact("cluster/operator/idle-writes", "writes", len(written), 0, 1, f"in {idle:.0f} s, by the audit log"),
            exact(
                "cluster/operator/memory", "MiB", process.resident_bytes() / 2**20, MEMORY_MIB, 1, "resident, steady"
            ),
        )
        process.kill()
        begun = time.monotonic()
        process.start()
        steady(process, 2 * count, 300)
        note = "after SIGKILL, the old lease of 15 s included"
        bench.add(exact("cluster/operator/restart", "s", time.monotonic() - begun, RESTART_SECONDS, 1, note))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="syntheses at once (default: %(default)s)")
    parser.add_argument("--latency", type=int, default=100, help="syntheses one after the other (default: %(default)s)")
    parser.add_argument(
        "--idle", type=float, default=300.0, help="seconds in which nothing happens (default: %(default)s)"
    )
    options = parser.parse_args()
    bench = Bench("operator_scale", "cluster")
    with tempfile.TemporaryDirectory() as name, repository() as stacks:
        folder = Path(name)
        with DevCluster.up("operator-scale", root=folder, lifeline=True, say=print) as cluster:
            prepare(cluster)
            if options.latency:
                latency(cluster, stacks, folder, options.latency, bench)
            if options.count:
                scale(cluster, stacks, folder, options.count, options.idle, bench)


if __name__ == "__main__":
    main()
