"""The development cluster: seconds from `up` to ready, to its end, memory of the whole, and what the forwarder costs.

Each round starts a new cluster, kills it and starts it again with its data, then removes it. The binaries are there already,
and kube-proxy and CoreDNS are required. Ready means that every component is well and a pod can be created. The forwarder is
measured with one connection kept open that asks for `/readyz`, on the host (through the forwarder) and inside the namespace
(straight), in turns.

    python -m benchmarks.cluster_start [--rounds 5]
"""

import argparse
import http.client
import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.support.record import Bench, median_row
from sartor_devcluster import DevCluster, find_binaries
from sartor_devcluster.binaries import find_addons
from sartor_devcluster.kubeconfig import read_context
from sartor_devcluster.pki import Pki

READY_TARGET_SECONDS = 10.0
SERVICES = ("kube-proxy", "coredns")
REQUESTS, WARM_UP = 500, 50


def request_seconds(server: str, authority: Path) -> float:
    """Median seconds of a GET of `/readyz` over one TLS connection."""
    context = ssl.create_default_context(cafile=str(authority))
    host, _, port = server.removeprefix("https://").partition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
    seen: list[float] = []
    for _ in range(REQUESTS + WARM_UP):
        begun = time.perf_counter()
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        assert (answer.read(), answer.status) == (b"ok", 200)
        seen.append(time.perf_counter() - begun)
    connection.close()
    return statistics.median(seen[WARM_UP:])


def inside_seconds(cluster: DevCluster, server: str, authority: Path) -> float:
    """The same, from a process inside the cluster's namespace."""
    program = (
        "import sys; from benchmarks.cluster_start import *; print(request_seconds(sys.argv[1], Path(sys.argv[2])))"
    )
    command = cluster.enter([sys.executable, "-c", program, server, str(authority)])
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return float(done.stdout)


def tree_bytes(pid: int) -> int:
    """Proportional set size of a process and everything below it."""
    root = psutil.Process(pid)
    return sum(process.memory_full_info().pss for process in [root, *root.children(recursive=True)])


def bench(record: Bench, root: Path, rounds: int) -> None:
    found = find_binaries(say=print)
    find_addons(found, say=print)  # built now if they have to be
    new, again, ended, memory, overhead = [], [], [], [], []
    for number in range(rounds + 1):
        begun = time.monotonic()
        cluster = DevCluster.up("bench", root=root, lifeline=True, binaries=found, require=SERVICES)
        ready = time.monotonic() - begun
        supervisor = cluster.status().supervisor_pid
        assert supervisor is not None, "it is ready"
        used = tree_bytes(supervisor) / 2**30
        authority = Pki(cluster.layout.pki).certificate("ca")
        outside, inside = read_context(cluster.kubeconfig).server, read_context(cluster.inner_kubeconfig).server
        through = request_seconds(outside, authority)
        straight = inside_seconds(cluster, inside, authority)
        os.kill(supervisor, signal.SIGKILL)
        begun = time.monotonic()
        cluster = DevCluster.up("bench", root=root, lifeline=True, binaries=found, require=SERVICES)
        recovered = time.monotonic() - begun
        begun = time.monotonic()
        cluster.down()
        gone = time.monotonic() - begun
        figures = {
            "ready": ready,
            "again": recovered,
            "down": gone,
            "gib": used,
            "through": through,
            "straight": straight,
        }
        print(f"  {json.dumps({name: round(value, 5) for name, value in figures.items()})}", flush=True)
        if number:  # the first round fills the page cache
            new.append(ready)
            again.append(recovered)
            ended.append(gone)
            memory.append(used)
            overhead.append((through - straight) * 1e6)
    source = (
        f"Kubernetes {found.version} ({found.source}) with kube-proxy and CoreDNS, from `up` to all components well"
    )
    record.add(
        median_row("cluster/devcluster/ready", "s", "lower", new, READY_TARGET_SECONDS, f"{source}, a new cluster"),
        median_row(
            "cluster/devcluster/ready-after-kill", "s", "lower", again, READY_TARGET_SECONDS, f"{source}, with its data"
        ),
        median_row("cluster/devcluster/down", "s", "lower", ended, None, "everything ended and removed"),
        median_row("cluster/devcluster/memory", "GiB", "lower", memory, None, "proportional set size, idle, at ready"),
        median_row(
            "cluster/devcluster/forwarder", "us", "lower", overhead, None, "added to the median GET over one connection"
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sartor-bench-") as folder:
        bench(Bench("cluster_start", "devcluster"), Path(folder), options.rounds)


if __name__ == "__main__":
    main()
