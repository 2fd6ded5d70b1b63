"""The runner without its API server: a cluster of these tests' own, whose parts are stopped.

The scheduler and the controllers ask a server that was away again after up to a minute (client-go's reflectors: 0.8 s,
doubled to 30 s, with as much again at random). What waits for them therefore comes before the first test that stops the
server, and the pods that come after it name their node.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from runner_support import Pods, RunnerProcess, pod_manifest, wait_for

from sartor_devcluster import DevCluster
from sartor_runner.host import containers

NAME = "runner-4"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DevCluster, RunnerProcess]]:
    with DevCluster.up("runner-faults", root=tmp_path_factory.mktemp("faults"), lifeline=True) as cluster:
        runner = RunnerProcess(cluster, tmp_path_factory.mktemp("runner"), NAME, "10.240.0.14", {})
        try:
            yield cluster, runner.start()
        finally:
            runner.close()


def test_a_deleted_node_is_registered_again(own: tuple[DevCluster, RunnerProcess]) -> None:
    cluster, runner = own
    cluster.kubectl("delete", "node", NAME, check=True)
    time.sleep(0.5)

    def ready() -> bool:
        path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        return cluster.kubectl("get", "node", NAME, "-o", path).stdout == "True"

    wait_for("the node", ready, 30)
    wait_for("its range", lambda: pod_range(cluster), 30)
    time.sleep(5)  # the runner reads it as soon as it is there
    pods = Pods(cluster, runner)
    pods.create("after", ["sleep", "600"])
    address = pods.ready("after")["status"]["podIP"]
    pods.remove()
    assert ip_address(address) in ip_network(pod_range(cluster)), "the old range may be another node's now"


def test_pods_live_restart_and_are_probed_while_the_server_is_away(own: tuple[DevCluster, RunnerProcess]) -> None:
    cluster, runner = own
    pods = Pods(cluster, runner)
    probe = {"livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 10}}
    pods.create("steady", ["sleep", "600"], container=probe)
    pods.create("once", ["sh", "-c", "sleep 15; exit 3"])
    pods.ready("steady")
    pods.ready("once")
    steady, once = pods.folder("steady"), pods.folder("once", 1)
    pid = containers.pid(steady)
    cluster.stop_component("kube-apiserver", kill=True)
    try:
        wait_for("a restart without a server", lambda: containers.pid(once), 90)
    finally:
        cluster.start_component("kube-apiserver")
    cluster.wait_ready()

    def told() -> bool:
        statuses = pods.get("once").get("status", {}).get("containerStatuses") or [{}]
        return statuses[0].get("restartCount", 0) >= 1

    wait_for("what happened in between", told, 60)
    assert containers.pid(steady) == pid
    assert pods.get("steady")["status"]["containerStatuses"][0]["restartCount"] == 0
    pods.remove()
    wait_for("their end", lambda: not runner.running(), 30)


def test_a_watch_that_broke_off_misses_nothing(own: tuple[DevCluster, RunnerProcess]) -> None:
    cluster, runner = own
    for number in range(3):
        manifest = pod_manifest(f"after-{number}", ["sleep", "600"], node=NAME, nodeName=NAME)

        def applied(manifest: dict[str, object] = manifest) -> bool:
            return cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest)).returncode == 0

        os.kill(runner.pid, signal.SIGSTOP)  # it cannot ask again before the pod is there
        try:
            cluster.restart("kube-apiserver", kill=True)
            wait_for("the server takes a pod", applied, 30)
        finally:
            os.kill(runner.pid, signal.SIGCONT)
    pods = Pods(cluster, runner)
    for number in range(3):
        pods.ready(f"after-{number}", 40)
    cluster.kubectl("delete", "pods", "--all", "--grace-period=1", check=True, timeout=60)
    wait_for("their end", lambda: not runner.running(), 30)


def pod_range(cluster: DevCluster) -> str:
    return cluster.kubectl("get", "node", NAME, "-o", "jsonpath={.spec.podCIDR}").stdout
