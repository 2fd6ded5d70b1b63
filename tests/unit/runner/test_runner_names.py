"""What a pod has in `/etc`: its resolver by dnsPolicy and dnsConfig, its hosts file. The specification is the kubelet."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_runner.config import NodeTable
from sartor_runner.core import dns
from sartor_runner.core.dns import ClusterDns, Resolver
from sartor_runner.core.files import pod_files
from sartor_runner.core.pod import Pod, parse

from .simulation import pod

HOST = Resolver(("192.0.2.53", "192.0.2.54"), ("corp.example",), ("rotate",))
CLUSTER = ClusterDns(("10.96.0.10",), "cluster.local")
NAMES = ("team-a.svc.cluster.local", "svc.cluster.local", "cluster.local")


def made(**spec: Any) -> Pod:
    raw = pod(**spec)
    return parse({**raw, "metadata": {**raw["metadata"], "namespace": "team-a", "name": "web-0"}})


def of(cluster: ClusterDns | None = CLUSTER, **spec: Any) -> Resolver:
    found, sentences = dns.resolver(made(**spec), HOST, cluster)
    assert sentences == ()
    return found


@pytest.mark.parametrize(
    ("text", "resolver"),
    [
        ("", Resolver()),
        ("nameserver 1.1.1.1\nnameserver ::1 # two\n", Resolver(("1.1.1.1", "::1"))),
        ("search a.example b.example.\n search c.example. .\n", Resolver(searches=("c.example",))),
        ("options ndots:2 rotate\noptions ndots:3", Resolver(options=("ndots:3", "rotate"))),
        ("# nameserver 9.9.9.9\n; search x\nsortlist 1.1.1.1\nnameserver\n\n", Resolver()),
        ("search\n", Resolver()),
    ],
)
def test_a_hosts_file_is_read_as_the_kubelet_reads_it(text: str, resolver: Resolver) -> None:
    assert dns.parse(text) == resolver


def test_the_file_has_containerds_order_and_no_empty_lines() -> None:
    assert HOST.text() == "search corp.example\nnameserver 192.0.2.53\nnameserver 192.0.2.54\noptions rotate\n"
    assert Resolver(servers=("192.0.2.1",)).text() == "nameserver 192.0.2.1\n"
    assert Resolver().text() == ""


WORDS = st.lists(st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,2}", fullmatch=True), max_size=5, unique=True).map(tuple)


@given(servers=WORDS, searches=WORDS, options=WORDS)
def test_what_is_written_is_read_again(
    servers: tuple[str, ...], searches: tuple[str, ...], options: tuple[str, ...]
) -> None:
    resolver = Resolver(servers, searches, options)
    assert dns.parse(resolver.text()) == resolver


class TestPolicies:
    CLUSTERS = Resolver(("10.96.0.10",), (*NAMES, "corp.example"), ("ndots:5",))

    @pytest.mark.parametrize("spec", [{}, {"dnsPolicy": "ClusterFirst"}, {"dnsPolicy": None}])
    def test_by_default_the_clusters_names_come_before_the_hosts(self, spec: dict[str, Any]) -> None:
        assert of(**spec) == self.CLUSTERS

    def test_a_pod_in_the_hosts_network_must_say_that_it_wants_them(self) -> None:
        assert of(hostNetwork=True) == HOST
        assert of(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet") == self.CLUSTERS

    def test_default_is_the_hosts(self) -> None:
        assert of(dnsPolicy="Default") == HOST

    def test_without_a_cluster_dns_every_pod_has_the_hosts(self) -> None:
        for policy in ("ClusterFirst", "ClusterFirstWithHostNet", "Default"):
            assert of(None, dnsPolicy=policy) == HOST

    def test_none_has_what_it_says_and_nothing_else(self) -> None:
        config = {"nameservers": ["192.0.2.1"], "searches": ["a.example"], "options": [{"name": "ndots", "value": "1"}]}
        expected = Resolver(("192.0.2.1",), ("a.example",), ("ndots:1",))
        assert of(dnsPolicy="None", dnsConfig=config) == expected

    def test_config_adds_and_replaces(self) -> None:
        config = {
            "nameservers": ["192.0.2.1", "10.96.0.10"],
            "searches": ["cluster.local", "a.example"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}, {"name": "x", "value": ""}],
        }
        assert of(dnsConfig=config) == Resolver(
            ("10.96.0.10", "192.0.2.1"), (*NAMES, "corp.example", "a.example"), ("ndots:2", "edns0", "x")
        )

    def test_another_domain(self) -> None:
        found = of(ClusterDns(("10.0.0.2", "10.0.0.3"), "k8s.example"))
        assert found.servers == ("10.0.0.2", "10.0.0.3")
        assert found.searches[:3] == ("team-a.svc.k8s.example", "svc.k8s.example", "k8s.example")


class TestLimits:
    def test_a_fourth_server_is_left_out_and_said(self) -> None:
        config = {"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]}
        found, sentences = dns.resolver(made(dnsConfig=config), HOST, CLUSTER)
        assert found.servers == ("10.96.0.10", "192.0.2.1", "192.0.2.2")
        assert sentences == (
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
            "10.96.0.10 192.0.2.1 192.0.2.2",
        )

    @pytest.mark.parametrize(
        ("searches", "kept"),
        [
            ([f"d{number}.example" for number in range(40)], 32 - 4),
            (["a" * 253, "b" * 254, "c.example"], 2),
            (["a" * 250 + str(number) for number in range(9)], 7),
        ],
    )
    def test_search_lists(self, searches: list[str], kept: int) -> None:
        found, sentences = dns.resolver(made(dnsConfig={"searches": searches}), HOST, CLUSTER)
        own = found.searches[4:]
        assert (found.searches[:4], len(own)) == ((*NAMES, "corp.example"), kept)
        assert len(" ".join(found.searches)) <= 2048
        assert sentences == (
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + " ".join(found.searches),
        )


class TestHosts:
    def hosts(self, address: str = "10.244.0.9", **spec: Any) -> str:
        return pod_files(made(**spec), {}, address, HOST, "127.0.0.1 host.example\n", "k8s.example")["hosts"]

    def test_a_pods_own_name(self) -> None:
        lines = self.hosts().splitlines()
        assert lines[0] == "# Kubernetes-managed hosts file."
        assert lines[1:3] == ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
        assert lines[-1] == "10.244.0.9\tweb-0"

    def test_with_a_subdomain_and_aliases(self) -> None:
        aliases = [{"ip": "192.0.2.7", "hostnames": ["a.example", "b.example"]}]
        text = self.hosts(hostname="one", subdomain="two", hostAliases=aliases)
        assert text.endswith(
            "10.244.0.9\tone.two.team-a.svc.k8s.example\tone\n\n# Entries added by HostAliases.\n"
            "192.0.2.7\ta.example\tb.example\n"
        )

    def test_in_the_hosts_network_it_is_the_hosts(self) -> None:
        text = self.hosts(hostNetwork=True, hostAliases=[{"ip": "192.0.2.7", "hostnames": ["a.example"]}])
        assert text == (
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 host.example\n"
            "\n# Entries added by HostAliases.\n192.0.2.7\ta.example\n"
        )


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"cluster_dns": ["10.96.0.10", "fd00::10"], "cluster_domain": "k8s.example"}, True),
        ({"cluster_dns": ["dns.example"]}, False),
        ({"cluster_domain": "-x"}, False),
        ({"cluster_domain": "a b"}, False),
        ({"resolv_conf": "etc/resolv.conf"}, False),
    ],
)
def test_configuration(values: dict[str, Any], right: bool, tmp_path: Path) -> None:
    table = {"name": "n", "platform": "cpu", **values}
    if right:
        assert NodeTable.model_validate(table).cluster_domain == "k8s.example"
    else:
        with pytest.raises(ValueError, match=next(iter(values))):
            NodeTable.model_validate(table)
