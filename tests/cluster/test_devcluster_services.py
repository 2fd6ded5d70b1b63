"""Services of a cluster of our own, as a process in its namespace sees them: kube-proxy's addresses, CoreDNS' names."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devcluster_support import (
    add_node,
    address_of,
    apply,
    ask,
    endpoints,
    get,
    need,
    resolve,
    servers,
    service,
    wait_for,
)

from sartor_devcluster import Cluster, DevCluster
from sartor_devcluster.proxy_node import STAND_IN


@pytest.fixture
def made(cluster: DevCluster) -> Iterator[list[str]]:
    """Names of Services (with EndpointSlices of the same names) that are removed at the end."""
    names: list[str] = []
    yield names
    for name in names:
        cluster.kubectl("delete", f"service/{name}", f"endpointslice/{name}", "--ignore-not-found", check=True)


def kube_proxy(cluster: DevCluster) -> Any:
    return next(c for c in cluster.status().components if c.name == "kube-proxy")


def told(cluster: DevCluster) -> list[str]:
    """The arguments that kube-proxy runs with now; none while it is started anew."""
    pid = kube_proxy(cluster).pid
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0") if pid else []
    except (FileNotFoundError, ProcessLookupError):
        return []


class TestAddresses:
    def test_a_cluster_ip_reaches_ready_endpoints_only_and_refuses_without_any(
        self, cluster: DevCluster, made: list[str]
    ) -> None:
        need(cluster, "kube-proxy")
        made.append("two")
        first, second = "10.244.8.1", "10.244.8.2"
        apply(cluster, service("two"), endpoints("two", {first: True, second: True}))
        url = f"http://{address_of(cluster, 'two')}"
        with servers(cluster, first, second):
            seen = wait_for("both", lambda: _both(cluster, url, first, second))
            assert {line.partition(" for ")[2] for line in seen} == {"10.240.0.1"}, "the node's address, as on any node"
            apply(cluster, endpoints("two", {first: True, second: False}))
            wait_for("the first alone", lambda: {ask(cluster, url).split()[0] for _ in range(6)} == {first})
            apply(cluster, endpoints("two", {first: False, second: False}))
            wait_for("a refusal", lambda: ask(cluster, url).startswith("ConnectionRefusedError"))
            assert ask(cluster, f"http://{first}:8080").startswith(first), "which is the Service's, not the servers'"

    def test_a_port_that_a_service_does_not_have_is_refused_at_once(self, cluster: DevCluster, made: list[str]) -> None:
        need(cluster, "kube-proxy")
        made.append("ports")
        apply(cluster, service("ports"), endpoints("ports", {"10.244.8.3": True}))
        url = f"http://{address_of(cluster, 'ports')}:81"
        wait_for("a refusal", lambda: ask(cluster, url).startswith("ConnectionRefusedError"))

    def test_an_address_of_no_service_is_nobodys(self, cluster: DevCluster) -> None:
        """The API server listens on every address of the namespace; one that is no Service's leads nowhere."""
        need(cluster, "kube-proxy")
        assert "timed out" in ask(cluster, "https://10.96.200.200:443", 1.0)

    def test_a_node_port_answers_at_a_nodes_address(self, cluster: DevCluster, made: list[str]) -> None:
        need(cluster, "kube-proxy")
        made.append("node-port")
        apply(cluster, service("node-port", type="NodePort"), endpoints("node-port", {"10.244.8.4": True}))
        port = get(cluster, "service", "node-port")["spec"]["ports"][0]["nodePort"]
        with servers(cluster, "10.244.8.4"):
            url = f"http://10.240.7.7:{port}"
            wait_for("an answer", lambda: ask(cluster, url).startswith("10.244.8.4"))

    def test_a_killed_kube_proxy_comes_back_and_its_rules_never_went(
        self, cluster: DevCluster, made: list[str]
    ) -> None:
        need(cluster, "kube-proxy")
        made.append("kept")
        first, second = "10.244.8.5", "10.244.8.6"
        apply(cluster, service("kept"), endpoints("kept", {first: True}))
        url = f"http://{address_of(cluster, 'kept')}"
        with servers(cluster, first, second):
            wait_for("the first", lambda: ask(cluster, url).startswith(first))
            cluster.stop_component("kube-proxy", kill=True)
            assert not cluster.status().ready
            assert ask(cluster, url).startswith(first)
            apply(cluster, endpoints("kept", {second: True}))
            cluster.start_component("kube-proxy")
            cluster.wait_ready()
            wait_for("the second", lambda: ask(cluster, url).startswith(second))

    def test_the_api_server_answers_at_its_service(self, cluster: DevCluster) -> None:
        command = [str(cluster.kubectl_path), f"--kubeconfig={cluster.inner_kubeconfig}", "--server=https://10.96.0.1"]
        done = subprocess.run(
            cluster.enter([*command, "get", "--raw", "/readyz"]), capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.stderr) == ("ok", "")


def _both(cluster: DevCluster, url: str, first: str, second: str) -> list[str] | None:
    seen = [ask(cluster, url) for _ in range(8)]
    return seen if {line.split()[0] for line in seen} == {first, second} else None


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """A cluster in which nobody else registers a Node."""
    root = tmp_path_factory.mktemp("clusters")
    with DevCluster.up("nodes", root=root, lifeline=True, without=["coredns"]) as running:
        yield running


class TestItsNode:
    """On which Node kube-proxy believes to be: seen by what it is told, and by a Service that stays on its Node."""

    def test_it_follows_the_nodes_and_leaves_no_stand_in(self, alone: DevCluster) -> None:
        need(alone, "kube-proxy")
        wait_for("no stand-in", lambda: get(alone, "node", STAND_IN) is None, 60)
        here, there = "10.244.8.7", "10.244.8.8"
        apply(alone, service("local", internalTrafficPolicy="Local"))
        apply(alone, endpoints("local", {here: True}, node="proxied-1"))
        other = endpoints("local", {there: True}, node="proxied-2")
        other["metadata"]["name"] = "local-2"
        apply(alone, other)
        url = f"http://{address_of(alone, 'local')}"
        with servers(alone, here, there):
            try:
                add_node(alone, "proxied-1", "10.240.1.21")
                wait_for("its Node", lambda: "--hostname-override=proxied-1" in told(alone))
                add_node(alone, "proxied-2", "10.240.1.22")
                alone.wait_ready()
                wait_for("the endpoint here", lambda: ask(alone, url).startswith(here))
                assert {ask(alone, url).split()[0] for _ in range(6)} == {here}
                restarts = kube_proxy(alone).restarts
                alone.kubectl("delete", "node", "proxied-1", check=True)
                wait_for("the next Node", lambda: "--hostname-override=proxied-2" in told(alone))
                alone.wait_ready()
                wait_for("the endpoint there", lambda: ask(alone, url).startswith(there))
                assert kube_proxy(alone).restarts == restarts, "it moved, it did not fail"
            finally:
                alone.kubectl("delete", "node", "proxied-1", "proxied-2", "--ignore-not-found", check=True)

    def test_started_without_any_node_it_is_ready_soon(self, alone: DevCluster) -> None:
        """And not only after the 30 s for which kube-proxy waits for its Node."""
        need(alone, "kube-proxy")
        alone.restart("kube-proxy", ready_seconds=29)
        wait_for("the stand-in's end", lambda: get(alone, "node", STAND_IN) is None)
        assert f"--hostname-override={STAND_IN}" in told(alone)


class TestNames:
    def test_names_of_services_and_their_endpoints(self, cluster: DevCluster, made: list[str]) -> None:
        need(cluster, "coredns", "kube-proxy")
        made += ["named", "headless"]
        apply(cluster, service("named"), endpoints("named", {"10.244.8.9": True}))
        apply(cluster, service("headless", clusterIP="None"))
        apply(cluster, endpoints("headless", {"10.244.8.10": True, "10.244.8.11": False, "10.244.8.12": True}))
        full = "named.default.svc.cluster.local"
        wait_for("the name", lambda: resolve(cluster, full) == f"0 {address_of(cluster, 'named')}")
        ready = "0 10.244.8.10 10.244.8.12"
        wait_for("ready endpoints", lambda: resolve(cluster, "headless.default.svc.cluster.local") == ready)
        apply(cluster, endpoints("headless", {"10.244.8.10": True, "10.244.8.11": True, "10.244.8.12": False}))
        ready = "0 10.244.8.10 10.244.8.11"
        wait_for("new endpoints", lambda: resolve(cluster, "headless.default.svc.cluster.local") == ready, 60)

    def test_what_is_not_the_clusters_is_not_there(self, cluster: DevCluster) -> None:
        need(cluster, "coredns", "kube-proxy")
        assert resolve(cluster, "none.default.svc.cluster.local") == "3"
        assert resolve(cluster, "www.example.com") == "3", "and is not waited for: nothing outside can be reached"

    def test_the_service_is_as_on_any_cluster(self, cluster: DevCluster) -> None:
        need(cluster, "coredns", "kube-proxy")
        assert cluster.cluster_dns() == ("10.96.0.10",)
        known = get(cluster, "service", "kube-dns", "-n", "kube-system")["spec"]
        assert known["clusterIP"] == "10.96.0.10"
        assert {(p["port"], p["protocol"]) for p in known["ports"]} == {(53, "UDP"), (53, "TCP")}
        assert resolve(cluster, "kube-dns.kube-system.svc.cluster.local") == "0 10.96.0.10"
        assert resolve(cluster, "kubernetes.default.svc.cluster.local") == "0 10.96.0.1"

    def test_a_killed_coredns_comes_back_with_what_happened_meanwhile(
        self, cluster: DevCluster, made: list[str]
    ) -> None:
        need(cluster, "coredns", "kube-proxy")
        cluster.stop_component("coredns", kill=True)
        made.append("meanwhile")
        apply(cluster, service("meanwhile"))
        cluster.start_component("coredns")
        cluster.wait_ready()
        assert resolve(cluster, "meanwhile.default.svc.cluster.local") == f"0 {address_of(cluster, 'meanwhile')}"

    def test_its_identity_may_read_what_names_are_made_of_and_nothing_else(self, cluster: DevCluster) -> None:
        own = Cluster(cluster.kubeconfig_for("system:sartor:coredns"), cluster.kubectl_path)
        answers = {
            what: own.kubectl("auth", "can-i", *what.split(), "-A").stdout.strip()
            for what in ("list services", "watch endpointslices", "list secrets", "list pods", "create services")
        }
        if cluster.status().absent("coredns") is not None:
            assert set(answers.values()) == {"no"}, "no rights for who is not there"
        else:
            assert answers == {
                "list services": "yes",
                "watch endpointslices": "yes",
                "list secrets": "no",
                "list pods": "no",
                "create services": "no",
            }
