"""The runner as a node of a real cluster: what kubectl sees of it, and what survives what."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runner_support import Pods, RunnerProcess, pod_manifest, wait_for

from sartor_devcluster import DevCluster
from sartor_runner.host import containers

NAME, ADDRESS = "runner-2", "10.240.0.12"


@pytest.fixture(scope="module")
def runner(cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunnerProcess]:
    folder = tmp_path_factory.mktemp("runner")
    shared = folder / "shared"
    shared.mkdir()
    (shared / "file").write_text("from the host")
    changes = {
        "host_paths": {"readable": [str(shared)]},
        "node": {"sync_seconds": 2},
        "logs": {"bytes": 20000, "files": 3},
    }
    made = RunnerProcess(cluster, folder, NAME, ADDRESS, changes)
    try:
        yield made.start()
    finally:
        made.close()
        cluster.kubectl("delete", "node", NAME, "--ignore-not-found")


@pytest.fixture
def pods(cluster: DevCluster, runner: RunnerProcess) -> Iterator[Pods]:
    made = Pods(cluster, runner)
    try:
        yield made
    finally:
        made.remove()


def node_of(cluster: DevCluster) -> dict[str, Any]:
    return json.loads(cluster.kubectl("get", "node", NAME, "-o", "json", check=True).stdout)


def test_the_node_says_what_it_is(cluster: DevCluster, runner: RunnerProcess) -> None:
    node = node_of(cluster)
    assert node["metadata"]["labels"]["sartor.dev/platform"] == "metal"
    assert {"key": "sartor.dev/runner", "value": "true", "effect": "NoSchedule"} in node["spec"]["taints"]
    status = node["status"]
    assert status["capacity"]["sartor.dev/metal"] == status["allocatable"]["sartor.dev/metal"] == "1"
    assert {"type": "InternalIP", "address": ADDRESS} in status["addresses"]
    assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "True"
    assert status["nodeInfo"]["containerRuntimeVersion"].startswith("sartor-runner://")


def test_the_lease_is_renewed(cluster: DevCluster, runner: RunnerProcess) -> None:
    def renewed() -> str:
        path = "jsonpath={.spec.renewTime} {.spec.holderIdentity}"
        return cluster.kubectl("get", "lease", NAME, "-n", "kube-node-lease", "-o", path, check=True).stdout

    first = renewed()
    assert first.endswith(f" {NAME}")
    wait_for("a renewal", lambda: renewed() != first, 60)


def test_logs(cluster: DevCluster, pods: Pods) -> None:
    script = "for i in 1 2 3; do echo line $i; done; echo oops >&2; exec sleep 60"
    pods.create("logs", ["sh", "-c", script])
    pods.ready("logs")
    logs = lambda *more: cluster.kubectl("logs", "logs", *more, check=True).stdout  # noqa: E731
    wait_for("the log", lambda: logs() == "line 1\nline 2\nline 3\noops\n", 15)
    assert logs("--tail=2") == "line 3\noops\n"
    assert logs("--tail=0") == ""
    assert logs("--limit-bytes=6") == "line 1"
    stamped = logs("--timestamps", "--tail=1")
    assert stamped[:2] == "20" and stamped.endswith("Z oops\n")
    assert logs("--since=1h").count("\n") == 4
    time.sleep(1.2)
    assert logs("--since=1s") == ""


def test_logs_of_the_attempt_before(cluster: DevCluster, pods: Pods) -> None:
    volumes = {
        "volumes": [{"name": "d", "emptyDir": {}}],
        "container": {"volumeMounts": [{"name": "d", "mountPath": "/d"}]},
    }
    script = "test -e /d/x && { echo second; exec sleep 60; }; touch /d/x; echo first; exit 1"
    pods.create("previous", ["sh", "-c", script], **volumes)
    wait_for("the second attempt", lambda: cluster.kubectl("logs", "previous").stdout == "second\n", 30)
    assert cluster.kubectl("logs", "previous", "--previous", check=True).stdout == "first\n"


def test_logs_that_are_followed(cluster: DevCluster, pods: Pods) -> None:
    pods.create("follow", ["sh", "-c", "for i in 1 2 3 4; do echo $i; sleep 0.5; done"], restartPolicy="Never")
    wait_for("a start", lambda: cluster.kubectl("logs", "follow").returncode == 0, 20)
    assert cluster.kubectl("logs", "-f", "follow", check=True, timeout=20).stdout == "1\n2\n3\n4\n"


def test_long_logs_are_rotated_and_read_across(cluster: DevCluster, pods: Pods) -> None:
    pods.create("long", ["sh", "-c", "seq 1 2000; exec sleep 60"])
    pods.ready("long")
    wait_for("the end", lambda: cluster.kubectl("logs", "long", "--tail=1").stdout == "2000\n", 15)
    lines = cluster.kubectl("logs", "long", check=True).stdout.split()
    assert lines == [str(n) for n in range(2001 - len(lines), 2001)], "no line is lost between files"
    assert len(lines) < 2000, "and the oldest are gone"


def test_logs_of_what_did_not_start_say_why(cluster: DevCluster, pods: Pods) -> None:
    pods.create("never", ["true"], container={"image": "registry.invalid/none:1"})
    wait_for("the state", lambda: pods.get("never").get("status", {}).get("containerStatuses"), 20)
    said = cluster.kubectl("logs", "never").stderr
    assert "waiting to start" in said and "image" in said.lower()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("exec", "refused", "--", "id"), "this node runs no commands inside its pods"),
        (("attach", "refused"), "nothing can be attached"),
    ],
)
def test_what_is_refused_says_so(cluster: DevCluster, pods: Pods, command: tuple[str, ...], sentence: str) -> None:
    pods.create("refused", ["sleep", "60"])
    pods.ready("refused")
    done = cluster.kubectl(*command)
    assert done.returncode != 0
    assert sentence in done.stderr


def test_the_kubelet_api_lets_in_only_whom_the_cluster_allows(cluster: DevCluster, runner: RunnerProcess) -> None:
    token = cluster.kubectl("create", "token", "default", check=True).stdout.strip()
    fetch = (
        "import ssl,sys,urllib.request,urllib.error\n"
        "c=ssl._create_unverified_context()\n"
        f"r=urllib.request.Request('https://{ADDRESS}:10250/pods')\n"
        "if len(sys.argv)>1: r.add_header('Authorization','Bearer '+sys.argv[1])\n"
        "try: print(urllib.request.urlopen(r,context=c).status)\n"
        "except urllib.error.HTTPError as e: print(e.code)\n"
    )

    def status(*arguments: str) -> str:
        command = cluster.enter([sys.executable, "-c", fetch, *arguments])
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    assert status() == "401"
    assert status("nonsense") == "401"
    assert status(token) == "403"
    binding = ["create", "clusterrolebinding", "runner-test", "--clusterrole=system:kubelet-api-admin"]
    cluster.kubectl(*binding, "--serviceaccount=kube-system:default", check=True)
    try:
        allowed = cluster.kubectl("create", "token", "default", "-n", "kube-system", check=True).stdout.strip()
        assert status(allowed) == "200"
    finally:
        cluster.kubectl("delete", "clusterrolebinding", "runner-test")


def test_a_pod_sees_nothing_of_the_host_or_of_other_pods(
    cluster: DevCluster, pods: Pods, runner: RunnerProcess
) -> None:
    shared = runner.folder / "shared"
    secret = runner.state / "credentials" / "node-client.pem"
    assert secret.exists()
    script = "; ".join(
        [
            f"cat {secret} {runner.config} /proc/1/environ {shared}/file /etc/shadow 2>/dev/null",
            f"env; ls {runner.state} {runner.folder} /root /home 2>/dev/null",
            "cat /mnt/file; echo x > /mnt/file || echo kept",
        ]
    )
    pods.create(
        "curious",
        ["sh", "-c", script],
        restartPolicy="Never",
        container={"volumeMounts": [{"name": "shared", "mountPath": "/mnt", "readOnly": True}]},
        volumes=[{"name": "shared", "hostPath": {"path": str(shared), "type": "Directory"}}],
    )
    pods.phase("curious", "Succeeded")
    log = cluster.kubectl("logs", "curious", check=True).stdout
    assert "PRIVATE" not in log and "bootstrap" not in log
    assert "SECRET_OF_THE_HOST" not in log
    assert log.count("from the host") == 1, "at the mount, not at its path on the host"
    assert "kept" in log
    assert (shared / "file").read_text() == "from the host"


def test_processes_of_pods_are_nobody_on_the_host(cluster: DevCluster, pods: Pods) -> None:
    users = set[int]()
    for name in ("one", "two"):
        pods.create(name, ["sleep", "60"])
        pods.ready(name)
        pid = containers.pid(pods.folder(name))
        users.add(Path(f"/proc/{pid}").stat().st_uid)
    assert 0 not in users
    assert len(users) == 2, "and not the same one"


def test_a_service_account_token_opens_the_api(cluster: DevCluster, pods: Pods) -> None:
    script = """
import json, os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
body = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()
request = urllib.request.Request(url + "/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
request.add_header("Authorization", "Bearer " + open(folder + "/token").read())
request.add_header("Content-Type", "application/json")
context = ssl.create_default_context(cafile=folder + "/ca.crt")
print(json.load(urllib.request.urlopen(request, context=context))["status"]["userInfo"]["username"])
"""
    pods.create("token", ["python3", "-c", script], restartPolicy="Never")
    pods.phase("token", "Succeeded")
    assert cluster.kubectl("logs", "token", check=True).stdout == "system:serviceaccount:default:default\n"


def test_a_changed_config_map_reaches_the_volume(cluster: DevCluster, pods: Pods) -> None:
    cluster.kubectl("create", "configmap", "changing", "--from-literal=key=old", check=True)
    try:
        script = "cat /c/key; until grep -q new /c/key; do sleep 0.1; done; cat /c/key"
        pods.create(
            "changes",
            ["sh", "-c", script],
            restartPolicy="Never",
            container={"volumeMounts": [{"name": "c", "mountPath": "/c"}]},
            volumes=[{"name": "c", "configMap": {"name": "changing"}}],
        )
        pods.phase("changes", "Running")
        cluster.kubectl("patch", "configmap", "changing", "-p", '{"data":{"key":"new"}}', check=True)
        pods.phase("changes", "Succeeded", 20)
        assert cluster.kubectl("logs", "changes", check=True).stdout == "oldnew\n"
    finally:
        cluster.kubectl("delete", "configmap", "changing")


def test_a_killed_runner_finds_everything_again(cluster: DevCluster, pods: Pods, runner: RunnerProcess) -> None:
    ready = {"readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 10}}
    pods.create("kept", ["sh", "-c", "while :; do date +%s%N; sleep 0.2; done"], container=ready)
    pods.create("ends", ["sh", "-c", "sleep 20; exit 5"], restartPolicy="Never")
    before = pods.ready("kept")
    pods.phase("ends", "Running")
    pid, ends = containers.pid(pods.folder("kept")), pods.folder("ends")
    runner.kill()
    assert containers.lives(ends)
    wait_for("an end while nobody looks", lambda: not containers.lives(ends), 60)
    mark = cluster.audit_log.stat().st_size
    runner.start()
    after = pods.ready("kept")
    assert containers.pid(pods.folder("kept")) == pid
    assert after["status"] == before["status"], "no transition, no restart"
    ended = pods.phase("ends", "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (5, "Error")
    time.sleep(1)
    assert status_writes(cluster, mark, "kept") == 0, "what is as it was is not written"
    wait_for("the log goes on", lambda: cluster.kubectl("logs", "kept", "--since=1s").stdout, 30)


def status_writes(cluster: DevCluster, since: int, pod: str) -> int:
    """Writes of the runner to a pod, by the API server's audit log from this position on."""
    count = 0
    with cluster.audit_log.open("rb") as log:
        log.seek(since)
        for line in log:
            if not line.endswith(b"\n"):
                break  # it is being written
            event = json.loads(line)
            reference = event.get("objectRef") or {}
            mine = event["user"]["username"] == f"system:node:{NAME}" and reference.get("name") == pod
            count += mine and event["verb"] in ("patch", "update", "delete")
    return count


def test_a_pod_that_went_while_the_runner_was_dead_is_cleaned_up(
    cluster: DevCluster, pods: Pods, runner: RunnerProcess
) -> None:
    pods.create("orphan", ["sleep", "600"])
    pods.ready("orphan")
    folder = pods.folder("orphan")
    runner.kill()
    cluster.kubectl("delete", "pod", "orphan", "--force", "--grace-period=0", check=True)
    assert containers.lives(folder)
    runner.start()
    wait_for("the orphan's end", lambda: not containers.lives(folder) and not folder.exists(), 15)


def test_the_end_of_a_deployment(cluster: DevCluster, runner: RunnerProcess) -> None:
    """A rolling update: new pods come, old ones go, and nothing is left of them."""
    template = pod_manifest("web", ["sleep", "600"], node=NAME)
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}}
    body = {"metadata": {"labels": {"app": "web"}}, "spec": template["spec"]}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    for command in (["sleep", "600"], ["sleep", "601"]):
        body["spec"]["containers"][0]["command"] = command
        manifest = {**deployment, "spec": {**spec, "template": body}}
        cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest), check=True)
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s", check=True, timeout=70)
    cluster.kubectl("delete", "deployment", "web", check=True)
    left = lambda: cluster.kubectl("get", "pods", "-l", "app=web", "-o", "name").stdout  # noqa: E731
    wait_for("their end", lambda: not left(), 30)
    wait_for("their processes' end", lambda: not runner.running(), 15)


def test_a_node_that_shuts_down_says_so(cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    changes = {"node": {"shutdown": "stop", "shutdown_grace_seconds": 10}}
    other = RunnerProcess(cluster, tmp_path_factory.mktemp("other"), "runner-3", "10.240.0.13", changes)
    try:
        other.start()
        pods = Pods(cluster, other)
        pods.create("evening", ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"])
        pods.ready("evening")
        assert other.kill(signal.SIGTERM) == 0
        assert other.running() == []
        status = pods.get("evening")["status"]
        assert (status["phase"], status["reason"]) == ("Failed", "Terminated")
        node = json.loads(cluster.kubectl("get", "node", "runner-3", "-o", "json", check=True).stdout)
        ready = next(c for c in node["status"]["conditions"] if c["type"] == "Ready")
        assert (ready["status"], ready["message"]) == ("False", "node is shutting down")
    finally:
        other.close()
        cluster.kubectl("delete", "pod", "evening", "--force", "--grace-period=0")
        cluster.kubectl("delete", "node", "runner-3", "--ignore-not-found")
