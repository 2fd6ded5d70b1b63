"""The installation: what it grants is what the operator does, and no more."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import sartor_operator
from sartor_operator.cli import options_of, parser
from sartor_operator.kinds import BY_NAME, CHILDREN, EVENT, LEASE, NODE, WHOLE, Kind

FOLDER = Path(sartor_operator.__file__).parents[2] / "manifests"
MONITORING = {"prometheus-rules.yaml", "pod-monitor.yaml"}
"""Applied where the Prometheus operator is: other clusters do not know their kinds."""


def documents() -> list[dict[str, Any]]:
    yaml = YAML(typ="safe")
    wanted = yaml.load(FOLDER / "kustomization.yaml")["resources"]
    there = {f.name for f in FOLDER.glob("*.yaml")} - {"kustomization.yaml"} - MONITORING
    assert sorted(wanted) == sorted(there)
    return [document for name in wanted for document in yaml.load_all(FOLDER / name)]


def verbs(kind: Kind, subresource: str = "") -> set[str]:
    rules = next(d for d in documents() if d["kind"] == "ClusterRole")["rules"]
    name = kind.plural + (f"/{subresource}" if subresource else "")
    return {v for r in rules if kind.group in r["apiGroups"] and name in r["resources"] for v in r["verbs"]}


@pytest.mark.parametrize("kind", [*WHOLE, *CHILDREN], ids=lambda k: k.kind)
def test_everything_that_is_watched_may_be_read(kind: Kind) -> None:
    assert {"get", "list", "watch"} <= verbs(kind)


def test_what_is_written_may_be_written() -> None:
    expected = {
        "SynthesisRun": {"create", "delete"},
        "ServingCandidate": {"create", "patch"},
        "Job": {"create", "patch", "delete"},
        "Pod": {"create", "delete"},
        "ConfigMap": {"create"},
        "Secret": {"create", "delete"},
        "Deployment": {"create", "patch", "delete"},
        "Service": {"create", "patch", "delete"},
        "ServingRollout": {"create", "patch", "delete"},
        "HTTPRoute": {"create", "patch"},
        "ServiceAccount": {"create", "patch"},
        "NetworkPolicy": {"create", "patch"},
    }
    for name, needed in expected.items():
        assert needed <= verbs(BY_NAME[name]), name
    assert verbs(EVENT) == {"create"}
    for name in ("ServingSynthesis", "SynthesisRun", "ServingCandidate", "HardwareTarget", "AgentProfile"):
        assert "patch" in verbs(BY_NAME[name], "status")


def test_a_users_intent_is_never_written() -> None:
    for name in ("ServingSynthesis", "HardwareTarget", "AgentProfile"):
        assert verbs(BY_NAME[name]) == {"get", "list", "watch"}


def test_nodes_are_read_only_and_nothing_is_granted_that_is_not_watched() -> None:
    assert verbs(NODE) == {"get", "list", "watch"} and verbs(NODE, "status") == set()
    known = {kind.plural for kind in BY_NAME.values() if kind is not LEASE}
    rules = next(d for d in documents() if d["kind"] == "ClusterRole")["rules"]
    granted = {name.partition("/")[0] for rule in rules for name in rule["resources"]}
    assert granted == known


def test_nothing_is_granted_by_wildcard_or_escalation() -> None:
    for document in documents():
        for rule in document.get("rules", ()):
            assert "*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            assert "rbac.authorization.k8s.io" not in rule["apiGroups"]


def test_the_deployment_starts_with_options_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = next(d for d in documents() if d["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    config = tmp_path / "config"
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],"
        " clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u, user: {token: secret}}]}"
    )
    monkeypatch.setenv("POD_NAME", "sartor-operator-0")
    options = options_of(parser().parse_args([*container["command"][1:], "--kubeconfig", str(config)]))
    assert options.namespace is None and options.metrics_port == 9090 and options.identity == "sartor-operator-0"
    assert options.connection.server == "http://127.0.0.1:1"
    assert options.connection.authorization() == "Bearer secret"
    token = next(v for v in container["volumeMounts"] if v["name"] == "repository")
    assert str(options.token_file).startswith(token["mountPath"])
