"""A whole runner with real processes against an API server in memory: from the pod to its logs, and what survives what."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from sartor_agents.run.servers import free_port
from sartor_runner.host import containers
from sartor_runner.host.directories import PodDirectory, pod_uids

from .fake_cluster import CORE, FakeCluster

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

SOURCE = Path(__file__).parents[3] / "runners" / "src"
PODS = f"{CORE}/namespaces/team/pods"


async def until(what: str, check: Callable[[], Any], seconds: float = 60.0) -> Any:
    try:
        async with asyncio.timeout(seconds):
            while not (found := check()):
                await asyncio.sleep(0.02)
            return found
    except TimeoutError:
        raise AssertionError(f"{what}: not within {seconds:g} s") from None


class Node:
    """The runner as a process."""

    def __init__(self, folder: Path, cluster: FakeCluster) -> None:
        self.state, self.log, self.cluster = folder / "state", folder / "log", cluster
        self._config = folder / "runner.toml"
        port = free_port()
        node = {"name": cluster.node, "platform": "cpu", "address": "127.0.0.1", "pod_addresses": "127.77.0.0/24"}
        content = {
            "directory": str(self.state),
            "node": node | {"sync_seconds": 1, "capacity": {"sartor.dev/metal": "1"}},
            "api": {"kubeconfig": str(folder / "kubeconfig")},
            "kubelet_api": {"port": port},
            "environments": {"python": {"images": ["test"], "python": sys.prefix}},
        }
        self._config.write_text(tomli_w.dumps(content), encoding="utf-8")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        before = self.log.read_bytes().count(b"is ready at") if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sartor_runner", "run", "--config", str(self._config)),
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(SOURCE)},
            )
        await until("the runner", lambda: self.log.read_bytes().count(b"is ready at") > before)

    async def stop(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    def attempts(self) -> list[Path]:
        return [folder for uid in pod_uids(self.state) for _, _, folder in PodDirectory(self.state, uid).attempts()]

    async def close(self) -> None:
        await self.stop(signal.SIGTERM)
        while living := [folder for folder in self.attempts() if containers.lives(folder)]:
            for folder in living:
                containers.kill(folder)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[FakeCluster, Node, Any]]:
    cluster = FakeCluster("node-1")
    async with cluster.serving(folder) as client:
        node = Node(folder, cluster)
        try:
            await node.start()
            await client.create(f"{CORE}/namespaces", {"metadata": {"name": "team"}})
            yield cluster, node, client
        finally:
            await node.close()


def manifest(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "test", "command": ["sh", "-c", script], **spec.pop("container", {})}
    return {"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec}}


def phase(cluster: FakeCluster, name: str, wanted: str) -> Callable[[], bool]:
    return lambda: ((cluster.pod("team", name) or {}).get("status") or {}).get("phase") == wanted


def ready(cluster: FakeCluster, name: str) -> Callable[[], bool]:
    def check() -> bool:
        status = (cluster.pod("team", name) or {}).get("status") or {}
        return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))

    return check


def test_a_pod_from_its_binding_to_its_log(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as (cluster, _, client):
            node = cluster.objects[f"{CORE}/nodes/node-1"]
            assert node["metadata"]["labels"]["sartor.dev/platform"] == "cpu"
            assert node["status"]["allocatable"]["sartor.dev/metal"] == "1"
            assert any("leases" in path for path in cluster.objects)
            script = (
                "cat /var/run/secrets/kubernetes.io/serviceaccount/token; echo; echo -n the end > /dev/termination-log"
            )
            await client.create(PODS, manifest("job", script, restartPolicy="Never"))
            await until("the end", phase(cluster, "job", "Succeeded"))
            status = cluster.pod("team", "job")["status"]
            assert status["containerStatuses"][0]["state"]["terminated"]["message"] == "the end"
            assert status["podIP"].startswith("127.77.0.") and status["hostIP"] == "127.0.0.1"
            assert await client.text(f"{PODS}/job/log") == "token for api\n"
            await client.delete(f"{PODS}/job", {"gracePeriodSeconds": 30})
            await until("the object's end", lambda: cluster.pod("team", "job") is None)

    asyncio.run(story())


def test_a_killed_runner_adopts_its_containers_and_writes_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as (cluster, node, client):
            probe = {"readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 10}}
            await client.create(PODS, manifest("kept", "while :; do sleep 0.1; done", container=probe))
            await client.create(PODS, manifest("ends", "sleep 8; exit 5", restartPolicy="Never"))
            await until("readiness", ready(cluster, "kept"))
            await until("the other", phase(cluster, "ends", "Running"))
            before = cluster.pod("team", "kept")
            (kept,) = [f for f in node.attempts() if before["metadata"]["uid"] in str(f)]
            (ends,) = [f for f in node.attempts() if f != kept]
            pid = containers.pid(kept)
            await node.stop(signal.SIGKILL)
            assert containers.lives(ends)
            await until("an end while nobody looks", lambda: not containers.lives(ends))
            cluster.writes.clear()
            await node.start()
            await until("what happened in between", phase(cluster, "ends", "Failed"))
            ended = cluster.pod("team", "ends")["status"]["containerStatuses"][0]["state"]["terminated"]
            assert (ended["exitCode"], ended["reason"]) == (5, "Error")
            await asyncio.sleep(1.2)
            assert containers.pid(kept) == pid
            assert cluster.pod("team", "kept") == before
            assert [path for _, path in cluster.writes if path.startswith(f"{PODS}/kept")] == []

    asyncio.run(story())


def test_pods_live_on_while_the_server_is_away(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as (cluster, node, client):
            await client.create(PODS, manifest("once", "sleep 5; exit 3"))
            await until("a start", phase(cluster, "once", "Running"))
            (first,) = node.attempts()
            cluster.down = True
            second = first.with_name("1")
            await until("a restart without a server", lambda: (second / "exit.json").exists())
            cluster.down = False

            def told() -> bool:
                state = cluster.pod("team", "once")["status"]["containerStatuses"][0]
                return (
                    state["restartCount"] == 1 and state["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
                )

            await until("what happened in between", told)

    asyncio.run(story())


def test_orphans_are_ended_and_forgotten(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as (cluster, node, client):
            await client.create(PODS, manifest("orphan", "sleep 600"))
            await until("a start", phase(cluster, "orphan", "Running"))
            (folder,) = node.attempts()
            await node.stop(signal.SIGKILL)
            await client.delete(f"{PODS}/orphan", {"gracePeriodSeconds": 0})
            assert containers.lives(folder)
            await node.start()
            assert not containers.lives(folder)
            assert pod_uids(node.state) == []

    asyncio.run(story())


def test_a_changed_config_map_reaches_the_volume(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as (cluster, _, client):
            maps = f"{CORE}/namespaces/team/configmaps"
            await client.create(maps, {"metadata": {"name": "c"}, "data": {"key": "old"}})
            mounts = {"volumeMounts": [{"name": "c", "mountPath": "/c"}]}
            volumes = [{"name": "c", "configMap": {"name": "c"}}]
            script = "cat /c/key; until grep -q new /c/key; do sleep 0.05; done; cat /c/key"
            await client.create(PODS, manifest("m", script, restartPolicy="Never", container=mounts, volumes=volumes))
            await until("a start", phase(cluster, "m", "Running"))
            await client.patch(f"{maps}/c", {"data": {"key": "new"}})
            await until("the change", phase(cluster, "m", "Succeeded"))
            assert await client.text(f"{PODS}/m/log") == "oldnew\n"

    asyncio.run(story())


def test_the_second_pod_that_wants_the_accelerator_is_turned_away(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as (cluster, _, client):
            limits = {"resources": {"limits": {"sartor.dev/metal": "1"}}}
            await client.create(PODS, manifest("first", "sleep 600", container=limits))
            await client.create(PODS, manifest("second", "sleep 600", container=limits))
            await until("the refusal", phase(cluster, "second", "Failed"))
            assert cluster.pod("team", "second")["status"]["reason"] == "OutOfsartor.dev/metal"
            await client.delete(f"{PODS}/first")
            await until("the first's end", lambda: cluster.pod("team", "first") is None)
            await client.create(PODS, manifest("third", "exit 0", restartPolicy="Never", container=limits))
            await until("room", phase(cluster, "third", "Succeeded"))

    asyncio.run(story())


def test_only_one_runner_works_in_a_directory(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path):
            command = [sys.executable, "-m", "sartor_runner", "run", "--config", str(tmp_path / "runner.toml")]
            environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
            second = await asyncio.to_thread(
                subprocess.run, command, env=environment, capture_output=True, text=True, check=False, timeout=20
            )
            assert second.returncode == 1
            assert "another sartor-runner works in" in second.stderr

    asyncio.run(story())


def test_a_signal_ends_a_runner_that_waits_for_its_first_certificate(tmp_path: Path) -> None:
    """Nobody listens where its bootstrap configuration points to: it tries again and again, until it is told to end."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (tmp_path / "bootstrap").write_text(
        f"""{{apiVersion: v1, kind: Config, current-context: c,
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{port}"}}}}],
users: [{{name: u, user: {{token: abcdef.0123456789abcdef}}}}],
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]}}""",
        encoding="utf-8",
    )
    content = {
        "directory": str(tmp_path / "state"),
        "node": {"name": "mac-1", "platform": "cpu", "address": "127.0.0.1"},
        "api": {"bootstrap_kubeconfig": str(tmp_path / "bootstrap")},
        "environments": {"python": {"images": ["test"], "python": sys.prefix}},
    }
    (tmp_path / "runner.toml").write_text(tomli_w.dumps(content), encoding="utf-8")

    async def story() -> int:
        log = tmp_path / "log"
        with log.open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sartor_runner", "run", "--config", str(tmp_path / "runner.toml")),
                stdout=said,
                stderr=said,
                env={**os.environ, "PYTHONPATH": str(SOURCE)},
            )
        try:
            await until("its first try", lambda: b"trying again" in log.read_bytes(), 60)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    assert asyncio.run(story()) == 0
