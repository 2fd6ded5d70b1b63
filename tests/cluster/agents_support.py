"""Agents that ask a model, in a cluster: everything of Sartor is real but what measures.

The operator, the model proxies, the git service and the pods of planners and implementers are the real ones, on a
`sartor-runner` that has the taint of agents' nodes. Judge, evaluator and servers are on a node that a script plays, so that
a whole run takes seconds. The models are `agents_provider.py` in the cluster's network.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from operator_support import ROOT, Kubelet, OperatorProcess, apply, get, items, wait_for
from runner_support import RunnerProcess
from scripted_kubelet import NODE_NAME

from sartor_agents.cache import cache_folder
from sartor_agents.checkpoints import SyntheticSource, resolve
from sartor_devcluster import DevCluster

AGENTS_NODE, ADDRESS = "agents-node", "10.240.7.1"
HERE = Path(__file__).parent
TAINT = {"key": "sartor.dev/agents", "operator": "Exists"}
FOLDER = ROOT / "operator" / "manifests" / "agents"
FIRST_PORT = 21_700


@dataclass
class Agents:
    """The cluster with Sartor in it. `key` is the key of the provider, which nobody but the proxies may hold."""

    cluster: DevCluster
    folder: Path
    operator: OperatorProcess
    repository: str
    key: str = "sk-scripted-0123456789abcdef"
    providers: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict[str, "subprocess.Popen[str]"])

    def provider(self, character: str) -> str:
        """Its address; it is started when it is asked for first."""
        if character in self.providers:
            return f"http://127.0.0.1:{FIRST_PORT + list(self.providers).index(character)}/v1"
        port = FIRST_PORT + len(self.providers)
        command = [sys.executable, str(HERE / "agents_provider.py"), character, str(port), str(self.folder)]
        process = subprocess.Popen(self.cluster.enter(command), stdout=subprocess.PIPE, text=True)
        self.providers[character] = process
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return f"http://127.0.0.1:{port}/v1"

    def told(self, character: str) -> dict[str, Any]:
        """End a model; what it saw."""
        process = self.providers[character]
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        return json.loads((self.folder / f"{character}.json").read_text())

    def api(self) -> str:
        """The API server's address in the cluster's network."""
        (server,) = re.findall(r'server"?: *"?(https://[^\s",]+)', self.cluster.inner_kubeconfig.read_text())
        return server

    def begin(
        self,
        character: str,
        *,
        backend: str = "openai",
        number: int = 0,
        limits: Any = None,
        tokens: str = "400k",
        sandbox: Any = None,
        **profile: Any,
    ) -> str:
        """A namespace with a profile and a synthesis whose model is `character`; its name. `number`: one of several."""
        namespace = f"team-{character}-{backend}" + (f"-{number}" if number else "")
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "sartor.dev/agents": "enforced"}
        url = self.provider(character)
        apply(
            self.cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
        )
        apply(
            self.cluster,
            {
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm", "namespace": namespace},
                "stringData": {"apiKey": self.key},
            },
            {
                "apiVersion": "sartor.dev/v1alpha1", "kind": "AgentProfile",
                "metadata": {"name": "models", "namespace": namespace},
                "spec": {
                    "backend": backend, "model": "scripted-1",
                    "endpoints": [{"url": url, "secretRef": {"name": "llm"}}],
                    "prices": [{"model": "scripted-1", "input": "1", "output": "10"}],
                    "limits": {"tokensPerStep": "100k", "stepTimeout": "90s", "turnsPerStep": 60, **(limits or {})},
                    "sandbox": sandbox or {"memory": "2Gi"},
                    "roles": [{"role": role, "maximumOutputTokens": 2000} for role in ("planner", "implementer")],
                    "modelProxy": {
                        "nodeSelector": {"kubernetes.io/hostname": AGENTS_NODE}, "tolerations": [TAINT],
                    },
                    **profile,
                },
            },
            {
                "apiVersion": "sartor.dev/v1alpha1", "kind": "ServingSynthesis",
                "metadata": {"name": "editor", "namespace": namespace},
                "spec": {
                    "model": {"source": {"synthetic": {"kind": "chain", "size": "tiny"}}},
                    "workload": {"scenario": "chat"}, "hardware": {"targetRef": {"name": "split"}},
                    "agents": {"profileRef": {"name": "models"}, "skills": False}, "measurement": {"preset": "quick"},
                    "budget": {"rounds": 1, "wallClock": "8h", "tokens": tokens},
                },
            },
        )  # fmt: skip
        return namespace

    def status(self, namespace: str) -> dict[str, Any]:
        found = get(self.cluster, "servingsyntheses.sartor.dev", "editor", "-n", namespace)
        return (found or {}).get("status") or {}

    def ended(self, namespace: str, seconds: float = 240.0) -> dict[str, Any]:
        """The status of the synthesis once it stays as it is."""
        over = ("Serving", "NoGain", "Failed")
        return wait_for(
            f"the end of {namespace}: {self.status(namespace)}",
            lambda: status if (status := self.status(namespace)).get("phase") in over else None,
            seconds,
            every=0.3,
        )

    def records(self, namespace: str) -> list[dict[str, Any]]:
        """The run's records, in order."""
        found = items(self.cluster, "configmaps", namespace, "-l", "sartor.dev/part=record")
        every = [json.loads(one["data"]["record.json"])["record"] for one in found]
        return sorted(every, key=lambda record: record["sequence"])


def _environments() -> dict[str, dict[str, Any]]:
    """Also makes the checkpoint that the pods are shown: on a new machine nobody else has."""
    cache = cache_folder()
    checkpoint = resolve(SyntheticSource("chain", "llama", "tiny", 0, "bfloat16"))
    sources = [str(ROOT / part) for part in ("crds/src", "agents/src", "skills", "requirements")]
    codex = [str(place) for place in cache.glob("codex-*") if place.is_dir()]
    return {
        "agents": {
            "images": ["sartor-agent:*", "sartor-evaluator:*"],
            "python": sys.prefix,
            "binds": [*sources, str(checkpoint.parent), *codex],
            "environment": {"SARTOR_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        }
    }


@contextlib.contextmanager
def _repository(cluster: DevCluster, folder: Path) -> Iterator[tuple[str, Path]]:
    """The git service in the cluster's network; its address, and the token by which the operator reads."""
    account = {"name": "reader", "namespace": "sartor-system"}
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply(
        cluster,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "sartor-system", "labels": restricted}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
    )
    token = folder / "reader-token"
    asked = ("-n", "sartor-system", "create", "token", "reader", "--audience", "sartor-repository", "--duration", "2h")
    token.write_text(cluster.kubectl(*asked, check=True).stdout.strip())
    admin = cluster.kubeconfig_for("repository", ["system:masters"], inside=True)
    command = [
        sys.executable, "-m", "sartor_repository", "serve", "--root", str(folder / "volume"), "--host", "127.0.0.1",
        "--port", "0", "--kubeconfig", str(admin), "--reader", "system:serviceaccount:sartor-system:reader",
    ]  # fmt: skip
    process = subprocess.Popen(cluster.enter(command), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://{process.stdout.readline().removeprefix('listening on ').strip()}", token
    finally:
        process.terminate()
        process.wait(20)


class InsideOperator(OperatorProcess):
    """The operator in the cluster's network: it reads stacks from the git service there."""

    def __init__(self, cluster: DevCluster, repository: str, token: Path, log: Path) -> None:
        kubeconfig = cluster.kubeconfig_for("sartor-operator", ["system:masters"], inside=True)
        super().__init__(kubeconfig, None, repository, log, "--repository-token", str(token), "--lease-name", "agents")
        self.command = cluster.enter(self.command)

    def memory(self) -> int:
        """Resident bytes of the operator itself, which `enter` is the parent of."""
        assert self.process is not None
        newest = self.process.pid
        while children := Path(f"/proc/{newest}/task/{newest}/children").read_text().split():
            newest = int(children[0])
        return int(Path(f"/proc/{newest}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def agents_cluster(cluster: DevCluster, folder: Path) -> Iterator[Agents]:
    cluster.define(ROOT / "crds" / "manifests")
    changes = {"node": {"cluster_dns": list(cluster.cluster_dns()), "taints": ["sartor.dev/agents:NoSchedule"]}}
    runner = RunnerProcess(cluster, folder / "runner", AGENTS_NODE, ADDRESS, changes, environments=_environments())
    kubelet = Kubelet(cluster.kubeconfig_for("kubelets", ["system:masters"]), None, alone=True)
    with contextlib.ExitStack() as stack:
        url, token = stack.enter_context(_repository(cluster, folder))
        # It stays: an API server that saw a policy go and come again may never find its settings ("no params found").
        cluster.kubectl("apply", "-k", str(FOLDER), check=True)
        stack.enter_context(kubelet)
        stack.callback(runner.close)
        runner.start()
        apply(
            cluster,
            {
                "apiVersion": "sartor.dev/v1alpha1", "kind": "HardwareTarget", "metadata": {"name": "split"},
                "spec": {
                    "platform": "cpu", "nodeSelector": {"kubernetes.io/hostname": NODE_NAME},
                    "agentNodeSelector": {"kubernetes.io/hostname": AGENTS_NODE}
                },
            },
        )  # fmt: skip
        operator = stack.enter_context(InsideOperator(cluster, url, token, folder / "operator.log"))
        made = Agents(cluster, folder, operator, url)
        try:
            yield made
        finally:
            for process in made.providers.values():
                if process.poll() is None:
                    process.kill()
                    process.wait(10)
            found = json.loads(cluster.kubectl("get", "namespaces", "-o", "json", check=True).stdout)["items"]
            names = [one["metadata"]["name"] for one in found if one["metadata"]["name"].startswith("team-")]
            if names:
                cluster.kubectl("delete", "namespace", *names, "--wait=false")
            cluster.kubectl("delete", "hardwaretarget", "split", "--ignore-not-found")


@pytest.fixture(scope="module")
def agents(cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    with agents_cluster(cluster, tmp_path_factory.mktemp("agents")) as made:
        yield made
