"""The walls around agents' pods as manifests: what the NetworkPolicies let through, by the rules of the API.

Whether packets are stopped is the network plugin's business, and is not tested here; what they say is.
"""

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import sartor_operator

FOLDER = Path(sartor_operator.__file__).parents[2] / "manifests" / "agents"
Labels = dict[str, str]

SYSTEM, TEAM = {"kubernetes.io/metadata.name": "sartor-system"}, {"kubernetes.io/metadata.name": "team-a"}
KUBE_SYSTEM = {"kubernetes.io/metadata.name": "kube-system"}


def policies() -> list[dict[str, Any]]:
    return [d["spec"] for d in YAML(typ="safe").load_all(FOLDER / "namespaced" / "network-policy.yaml")]


def matches(selector: dict[str, Any], labels: Labels) -> bool:
    """A label selector (matchLabels, and matchExpressions with In)."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    wanted = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )


def allowed(
    direction: str, pod: Labels, *, namespace: Labels, peer: Labels, port: object, protocol: str = "TCP"
) -> bool:
    """Whether traffic of a team's `pod` to (or from) a peer passes: by no policy everything does, else what one allows."""
    selecting = [one for one in policies() if matches(one["podSelector"], pod) and direction in one["policyTypes"]]
    if not selecting:
        return True
    end = {"Egress": "to", "Ingress": "from"}[direction]
    return any(
        any(
            matches(to.get("namespaceSelector", {"matchLabels": TEAM}), namespace) and matches(to["podSelector"], peer)
            for to in rule[end]
            if "podSelector" in to
        )
        and any(one["port"] == port and one["protocol"] == protocol for one in rule["ports"])
        for policy in selecting
        for rule in policy.get(direction.lower(), [])
    )


@pytest.mark.parametrize("role", ["planner", "implementer"])
@pytest.mark.parametrize(
    ("what", "passes"),
    [
        ({"namespace": TEAM, "peer": {"sartor.dev/role": "model-proxy"}, "port": "http"}, True),
        ({"namespace": SYSTEM, "peer": {"app.kubernetes.io/name": "sartor-repository"}, "port": "http"}, True),
        ({"namespace": KUBE_SYSTEM, "peer": {"k8s-app": "kube-dns"}, "port": 53, "protocol": "UDP"}, True),
        ({"namespace": TEAM, "peer": {"sartor.dev/role": "model-proxy"}, "port": "admin"}, False),
        ({"namespace": SYSTEM, "peer": {"sartor.dev/role": "model-proxy"}, "port": "http"}, False),
        ({"namespace": SYSTEM, "peer": {"app.kubernetes.io/name": "sartor-operator"}, "port": "http"}, False),
        ({"namespace": TEAM, "peer": {"sartor.dev/role": "candidate"}, "port": 8000}, False),
        ({"namespace": KUBE_SYSTEM, "peer": {"component": "kube-apiserver"}, "port": 443}, False),
        ({"namespace": {}, "peer": {}, "port": 80}, False),  # the internet, or the metadata address: no pod at all
        ({"namespace": KUBE_SYSTEM, "peer": {"k8s-app": "kube-dns"}, "port": 9153}, False),
    ],
)  # fmt: skip
def test_an_agent_reaches_the_proxy_the_repository_and_names(role: str, what: dict[str, Any], passes: bool) -> None:
    assert allowed("Egress", {"sartor.dev/role": role}, **what) is passes


@pytest.mark.parametrize("role", ["planner", "implementer"])
def test_nobody_reaches_an_agent(role: str) -> None:
    for peer in ({"sartor.dev/role": "judge"}, {"app.kubernetes.io/name": "sartor-operator"}, {}):
        assert not allowed("Ingress", {"sartor.dev/role": role}, namespace=TEAM, peer=peer, port=8000)


PROXY = {"sartor.dev/role": "model-proxy"}


@pytest.mark.parametrize(
    ("peer", "passes"),
    [
        ({"sartor.dev/role": "planner"}, True),
        ({"sartor.dev/role": "implementer"}, True),
        ({"sartor.dev/role": "candidate"}, False),
        ({"sartor.dev/role": "baseline"}, False),
        ({}, False),
    ],
)
def test_the_model_proxy_is_reached_by_those_who_may_ask_a_model(peer: Labels, passes: bool) -> None:
    assert allowed("Ingress", PROXY, namespace=TEAM, peer=peer, port="http") is passes
    assert not allowed("Ingress", PROXY, namespace=SYSTEM, peer=peer, port="http")


def test_the_operator_alone_reads_the_proxys_books_from_elsewhere() -> None:
    operator = {"app.kubernetes.io/name": "sartor-operator"}
    assert allowed("Ingress", PROXY, namespace=SYSTEM, peer=operator, port="http")
    assert not allowed("Ingress", PROXY, namespace=TEAM, peer=operator, port="http"), "a label alone is nobody's proof"


@pytest.mark.parametrize(
    ("address", "passes"),
    [("203.0.113.7", True), ("2001:db8::1", True), ("169.254.169.254", False), ("fe80::a9fe:a9fe", False),
     ("fd00:ec2::254", False)],
)  # fmt: skip
def test_the_model_proxy_reaches_the_world_and_no_metadata_address(address: str, passes: bool) -> None:
    target = ipaddress.ip_address(address)
    (policy,) = [one for one in policies() if matches(one["podSelector"], PROXY)]
    blocks = [to["ipBlock"] for rule in policy["egress"] for to in rule["to"]]
    inside = [b for b in blocks if target in ipaddress.ip_network(b["cidr"])]
    assert inside and all("ports" not in rule for rule in policy["egress"])
    assert any(not any(target in ipaddress.ip_network(out) for out in b["except"]) for b in inside) is passes


def test_other_pods_are_left_alone() -> None:
    assert allowed("Egress", {"sartor.dev/role": "judge"}, namespace={}, peer={}, port=443)


def test_every_manifest_is_applied() -> None:
    for folder in (FOLDER, FOLDER / "namespaced"):
        wanted = YAML(typ="safe").load(folder / "kustomization.yaml")["resources"]
        assert sorted(wanted) == sorted(p.name for p in folder.glob("*.yaml") if p.name != "kustomization.yaml")
