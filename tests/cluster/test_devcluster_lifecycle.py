"""Starting, ending, being killed: a cluster leaves nothing behind and loses nothing that was written."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from devcluster_support import apply, configmap, get, in_network, network_of, wait_for

from sartor_devcluster import DevCluster, NotRunningError, StartError
from sartor_devcluster.environment import scrubbed
from sartor_devcluster.state import ProcessId, read_state


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder for clusters; whatever a failed test has left in it is ended."""
    yield tmp_path / "clusters"
    for settings in (tmp_path / "clusters").glob("*/settings.json"):
        DevCluster.find(settings.parent.name, root=tmp_path / "clusters").down()


def supervisor_of(cluster: DevCluster) -> int:
    state = read_state(cluster.layout.state)
    assert state is not None
    return state.supervisor.pid


def component_pid(cluster: DevCluster, name: str) -> int:
    pid = next(c.pid for c in cluster.status().components if c.name == name)
    assert pid is not None
    return pid


def empty(network: str) -> bool:
    return not in_network(network)


def test_up_twice_is_one_cluster_and_down_twice_is_fine(
    root: Path, record_property: Callable[[str, object], None]
) -> None:
    begun = time.monotonic()
    cluster = DevCluster.up("one", root=root, lifeline=True)
    record_property("ready_seconds", round(time.monotonic() - begun, 2))
    again = DevCluster.up("one", root=root, lifeline=True)
    assert supervisor_of(again) == supervisor_of(cluster)
    with pytest.raises(
        StartError, match="cluster one is running with other settings; `sartor-devcluster down --name one`"
    ):
        DevCluster.up("one", root=root, extra_arguments={"kube-apiserver": ["--v=4"]})
    network = network_of(supervisor_of(cluster))
    assert len(in_network(network)) >= 1 + 1 + 5, "supervisor, process 1, components"
    cluster.down()
    assert in_network(network) == set()
    assert not cluster.layout.folder.exists()
    again.down()
    with pytest.raises(NotRunningError, match="no cluster one; start it with"):
        DevCluster.find("one", root=root)


def test_two_clusters_at_once_know_nothing_of_each_other(root: Path) -> None:
    """One of them in a user namespace, as an ordinary user has it."""
    first = DevCluster.up("first", root=root, lifeline=True)
    second = DevCluster.up("second", root=root, lifeline=True, user_namespace=True)
    apply(first, configmap("here"))
    assert get(first, "configmap", "here") is not None
    assert get(second, "configmap", "here") is None
    assert first.status().port != second.status().port
    first.down()
    wait_for("the other one is ready", lambda: second.status().ready)
    inside = second.enter(
        [str(second.kubectl_path), f"--kubeconfig={second.inner_kubeconfig}", "get", "--raw", "/readyz"]
    )
    assert subprocess.run(inside, capture_output=True, text=True, check=False).stdout == "ok"


def test_sigkill_of_the_supervisor_leaves_no_process_and_loses_no_data(root: Path) -> None:
    cluster = DevCluster.up("killed", root=root, lifeline=True)
    apply(cluster, configmap("kept"))
    port, network = cluster.status().port, network_of(supervisor_of(cluster))
    os.kill(supervisor_of(cluster), signal.SIGKILL)
    wait_for("no process left", lambda: empty(network))
    assert not cluster.status().running
    cluster = DevCluster.up("killed", root=root, lifeline=True)
    assert get(cluster, "configmap", "kept") is not None
    assert cluster.status().port == port, "kubeconfigs that were handed out stay valid"


def test_sigkill_of_process_1_ends_the_supervisor(root: Path) -> None:
    cluster = DevCluster.up("killed", root=root, lifeline=True)
    state = read_state(cluster.layout.state)
    assert state is not None
    network = network_of(state.supervisor.pid)
    os.kill(state.init.pid, signal.SIGKILL)
    wait_for("no process left", lambda: empty(network))
    assert "and everything with it" in cluster.layout.supervisor_log.read_text()
    cluster.down()


@pytest.mark.parametrize("component", ["etcd", "kube-apiserver", "kube-controller-manager", "kubelet-serving-approver"])
def test_a_killed_component_comes_back(component: str, root: Path, cluster: DevCluster) -> None:
    """In the shared cluster: whoever uses it notices a pause at most."""
    apply(cluster, configmap("before"))
    before = next(c.restarts for c in cluster.status().components if c.name == component)
    os.kill(component_pid(cluster, component), signal.SIGKILL)

    def back() -> bool:
        status = cluster.status()
        return status.ready and any(c.name == component and c.restarts == before + 1 for c in status.components)

    wait_for(f"{component} again", back)
    assert get(cluster, "configmap", "before") is not None
    assert f"{component} ended (killed by SIGKILL); starting it again in" in cluster.layout.supervisor_log.read_text()
    cluster.kubectl("delete", "configmap", "before", check=True)


def test_a_stopped_component_stays_away_until_it_is_started(cluster: DevCluster) -> None:
    cluster.stop_component("kube-apiserver")
    cluster.stop_component("kube-apiserver")
    status = cluster.status()
    assert not status.ready
    refused = cluster.kubectl("get", "ns", "--request-timeout=2s")
    cluster.start_component("kube-apiserver")  # before a failure of this test leaves all others without one
    assert [c.name for c in status.components if c.phase == "stopped"] == ["kube-apiserver"]
    assert refused.returncode != 0
    cluster.wait_ready()
    assert get(cluster, "ns", "default") is not None
    cluster.restart("kube-scheduler", kill=True)
    wait_for("it is ready again", lambda: cluster.status().ready)


def test_a_cluster_ends_with_the_process_that_holds_its_lifeline(root: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from sartor_devcluster import DevCluster
DevCluster.up("tied", root=Path(sys.argv[1]), lifeline=True)
print("up", flush=True)
time.sleep(600)
"""
    environment = scrubbed(os.environ, home=Path.home()) | {"SARTOR_CACHE": os.environ.get("SARTOR_CACHE", "")}
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(root)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "up\n"
    cluster = DevCluster.find("tied", root=root)
    network = network_of(supervisor_of(cluster))
    holder.kill()
    holder.wait()
    holder.stdout.close()
    wait_for("no process left", lambda: empty(network))
    assert "the process that started the cluster has ended" in cluster.layout.supervisor_log.read_text()


def test_a_supervisor_that_hangs_is_ended_too(root: Path) -> None:
    cluster = DevCluster.up("hangs", root=root, lifeline=True)
    pid = supervisor_of(cluster)
    network = network_of(pid)
    os.kill(pid, signal.SIGSTOP)
    cluster.down()
    assert in_network(network) == set()


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing(root: Path) -> None:
    with pytest.raises(StartError) as failed:
        DevCluster.up("broken", root=root, extra_arguments={"kube-apiserver": ["--no-such-flag"]}, ready_seconds=20)
    message = str(failed.value)
    assert "cluster broken was not ready after 20 s: kube-apiserver is " in message
    assert "unknown flag: --no-such-flag" in message
    state = read_state(root / "broken" / "state.json")
    assert state is not None
    assert not state.supervisor.alive()
    assert not state.init.alive()


def test_the_command_line_from_up_to_down(tmp_path: Path) -> None:
    cache = os.environ.get("SARTOR_CACHE") or str(Path.home() / ".cache" / "sartor")
    environment = scrubbed(os.environ, home=tmp_path) | {"SARTOR_STATE": str(tmp_path / "s"), "SARTOR_CACHE": cache}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sartor_devcluster", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)

    up = run("up", "--name", "demo")
    try:
        assert up.returncode == 0, up.stderr
        assert "cluster demo is ready after" in up.stderr
        path = run("kubeconfig", "--name", "demo").stdout.strip()
        assert up.stdout == f"export KUBECONFIG={path}\n"

        def ready() -> str | None:
            status = run("status", "--name", "demo")
            return status.stdout if status.returncode == 0 else None

        status = wait_for("status says so too", ready)
        assert status.startswith("cluster demo: ready, Kubernetes 1.")
        assert run("kubectl", "--name", "demo", "get", "ns", "default", "-o", "name").stdout == "namespace/default\n"
        assert "10.240.0.1/32" in run("exec", "--name", "demo", "--", "ip", "address", "show", "dev", "lo").stdout
        assert run("stop", "--name", "demo", "kube-scheduler", "--kill").returncode == 0
        assert run("status", "--name", "demo").returncode == 1
        assert "kube-scheduler" in run("logs", "--name", "demo").stdout
        assert run("start", "--name", "demo", "kube-scheduler").returncode == 0
        supervisor = ProcessId.of(int(status.splitlines()[0].rpartition(" ")[2]))
        assert supervisor is not None
        assert run("down", "--name", "demo").stderr.startswith("cluster demo ended in ")
        assert not supervisor.alive()
        assert run("down", "--name", "demo").stderr == "no cluster demo\n"
    finally:
        run("down", "--name", "demo")
