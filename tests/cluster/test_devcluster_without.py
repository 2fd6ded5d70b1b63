"""A cluster without kube-proxy or CoreDNS comes up all the same, and says why it has none."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from devcluster_support import address_of, apply, ask, get, inside, need, resolve, service, wait_for

from sartor_devcluster import DevCluster, DevclusterError, StartError
from sartor_devcluster.namespace import NEEDED_TOOLS
from sartor_devcluster.proxy_node import STAND_IN

READY = """
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[1])
print(urllib.request.urlopen("https://10.96.0.1/readyz", timeout=5, context=context).read().decode())
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "clusters"
    for settings in (tmp_path / "clusters").glob("*/settings.json"):
        DevCluster.find(settings.parent.name, root=tmp_path / "clusters").down()


def test_without_nft_and_without_a_coredns(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sartor_devcluster.binaries.addons.ADMINISTRATORS", ())
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in NEEDED_TOOLS:
        (programs / tool).symlink_to(shutil.which(tool) or "")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr("sartor_devcluster.binaries.coredns.OFFICIAL", "http://127.0.0.1:9")
    monkeypatch.setattr("sartor_devcluster.binaries.addons.cache_folder", lambda _: tmp_path / "cache")
    said: list[str] = []
    with DevCluster.up("bare", root=root, lifeline=True, say=said.append) as cluster:
        wait_for("the cluster is ready", lambda: cluster.status().ready)
        status = cluster.status()
        assert status.absent("kube-proxy") == "nft is missing; install the package nftables"
        assert "Go is not installed" in str(status.absent("coredns"))
        assert (
            "without kube-proxy, addresses of Services lead nowhere: nft is missing; install the package nftables"
            in said
        )
        assert [s for s in said if s.startswith("without coredns, names of Services are not resolved: no CoreDNS:")]
        assert cluster.cluster_dns() == ()
        refused = ask(cluster, "http://10.96.0.99")
        assert "unreachable" in refused.lower(), refused
        assert "ok" in inside(cluster, READY, str(cluster.layout.pki / "ca.crt")), "the API server's still is"


def test_what_is_required_must_be_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sartor_devcluster.binaries.addons.OLDEST_NFT", (99, 0, 0))
    with pytest.raises(StartError, match=r"kube-proxy is required, but .*(needs 99.0.0 or newer|nft is missing)"):
        DevCluster.up("strict", root=root, require=["kube-proxy"], without=["coredns"])
    assert not (root / "strict").exists()


def test_one_that_keeps_ending_is_given_up(cluster: DevCluster, root: Path) -> None:
    need(cluster, "kube-proxy")
    with DevCluster.up(
        "failing",
        root=root,
        lifeline=True,
        without=["coredns"],
        extra_arguments={"kube-proxy": ["--no-such-flag"]},
    ) as failing:
        wait_for("the cluster is ready", lambda: failing.status().ready)
        reason = failing.status().absent("kube-proxy")
        assert reason is not None
        assert reason.startswith("it ended 3 times at its start (exit code 1): ")
        assert "unknown flag: --no-such-flag" in reason
        assert "ok" in inside(failing, READY, str(failing.layout.pki / "ca.crt"))
        with pytest.raises(DevclusterError, match="this cluster has no kube-proxy: it ended 3 times"):
            failing.start_component("kube-proxy")


def test_they_are_there_again_when_the_cluster_goes_on_with_its_data(cluster: DevCluster, root: Path) -> None:
    need(cluster, "kube-proxy", "coredns")
    bare = DevCluster.up("later", root=root, lifeline=True, without=["kube-proxy", "coredns"])
    assert {c.name: c.reason for c in bare.status().components if c.phase == "absent"} == {
        "kube-proxy": "left out on request",
        "coredns": "left out on request",
    }
    apply(bare, service("kept"))
    with pytest.raises(StartError, match="is running with other settings"):
        DevCluster.up("later", root=root)
    bare.down(keep=True)
    whole = DevCluster.up("later", root=root, lifeline=True, require=["kube-proxy", "coredns"])
    assert resolve(whole, "kept.default.svc.cluster.local") == f"0 {address_of(whole, 'kept')}"


def test_the_stand_in_of_a_supervisor_that_was_killed_is_removed(root: Path, cluster: DevCluster) -> None:
    need(cluster, "kube-proxy")
    first = DevCluster.up("killed", root=root, lifeline=True, without=["coredns"])
    try:
        stand_in = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": STAND_IN},
            "spec": {"unschedulable": True},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.240.0.1"}]},
        }
        first.stop_component("kube-proxy", kill=True)
        first.kubectl("create", "-f", "-", input=json.dumps(stand_in), check=True)
        os.kill(first.status().supervisor_pid or 0, signal.SIGKILL)
        wait_for("its end", lambda: not first.status().running)
        again = DevCluster.up("killed", root=root, lifeline=True, without=["coredns"], ready_seconds=90)
        wait_for("no stand-in", lambda: get(again, "node", STAND_IN) is None)
    finally:
        DevCluster.find("killed", root=root).down()
