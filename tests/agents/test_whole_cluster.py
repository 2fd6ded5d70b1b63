"""An `AgentProfile` in a cluster where nothing is played but the model: operator, model proxy, agents' pods, judge,
evaluator, baseline and the stack itself are what a user has, on a real Kubernetes with a `sartor-runner` node.

`tests/cluster/test_agents_cluster.py` has the other characters, with judge and evaluator played: there a run takes seconds.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from redteam_stacks import candidate, honest

from sartor_agents.cache import cache_folder
from sartor_agents.checkpoints import SyntheticSource, resolve
from sartor_api.search.records import FailureClass, StepKind, StepRecord
from sartor_demo.cli import MANIFESTS, load
from sartor_demo.installing import apply, install
from sartor_demo.node import ROOT, Node, environments
from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.run.observe import RECORD_KEY, StoredRecord

pytestmark = [pytest.mark.cluster, pytest.mark.exhaustive, pytest.mark.slow, pytest.mark.timeout(1500)]

FIRST_PORT = 21_800
END_SECONDS = 900
KEY = "sk-scripted-0123456789abcdef"
WALLS = ROOT / "operator" / "manifests" / "agents"
PROVIDER = ROOT / "tests" / "cluster" / "agents_provider.py"


@dataclass
class Place:
    """A cluster with Sartor in it, and the models that were started beside it."""

    cluster: DevCluster
    folder: Path
    models: "list[subprocess.Popen[str]]" = field(default_factory=list["subprocess.Popen[str]"])

    def model(self, character: str, stacks: list[dict[str, str]]) -> str:
        """Start a model that hands these stacks in; its address."""
        port = FIRST_PORT + len(self.models)
        (self.folder / f"{character}-stacks.json").write_text(json.dumps(stacks))
        command = [sys.executable, str(PROVIDER), character, str(port), str(self.folder)]
        process = subprocess.Popen(self.cluster.enter(command), stdout=subprocess.PIPE, text=True)
        self.models.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return f"http://127.0.0.1:{port}/v1"

    def told(self, character: str) -> dict[str, Any]:
        """End the model that was started last; what it saw."""
        self.models[-1].terminate()
        self.models[-1].wait(20)
        return json.loads((self.folder / f"{character}.json").read_text())

    def begin(self, namespace: str, url: str, rounds: int) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "sartor.dev/agents": "enforced"}
        apply(
            self.cluster, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}]
        )
        self.cluster.kubectl("apply", "-n", namespace, "-k", str(WALLS / "namespaced"), check=True)
        apply(self.cluster, [
            {
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm", "namespace": namespace},
                "stringData": {"apiKey": KEY},
            },
            {
                "apiVersion": "sartor.dev/v1alpha1", "kind": "AgentProfile",
                "metadata": {"name": "models", "namespace": namespace},
                "spec": {
                    "backend": "openai", "model": "scripted-1",
                    "endpoints": [{"url": url, "secretRef": {"name": "llm"}}],
                    "limits": {"tokensPerStep": "4M", "stepTimeout": "5m"}, "sandbox": {"memory": "3Gi"},
                    "modelProxy": {"tolerations": [{"key": "sartor.dev/runner", "operator": "Exists"}]},
                },
            },
            {
                "apiVersion": "sartor.dev/v1alpha1", "kind": "ServingSynthesis",
                "metadata": {"name": "whole", "namespace": namespace},
                "spec": {
                    "model": {"source": {"synthetic": {"kind": "chain", "architecture": "llama", "size": "tiny"}}},
                    "workload": {
                        "scenario": "chat",
                        "parameters": {"concurrencies": [2], "promptTokens": 24, "outputTokens": 32},
                        "envelope": {"maxInputTokens": 768, "maxOutputTokens": 256, "maxConcurrency": 8},
                    },
                    "hardware": {"targetRef": {"name": "agents"}}, "agents": {"profileRef": {"name": "models"}},
                    "correctness": {"samples": 8}, "baseline": {"engine": "transformers", "tuning": "none"},
                    "measurement": {"preset": "quick"},
                    "budget": {"rounds": rounds, "wallClock": "30m", "tokens": "20M"},
                },
            },
        ])  # fmt: skip

    def ended(self, namespace: str) -> dict[str, Any]:
        """The status of the synthesis at its end. Raises `AssertionError` when it takes too long."""
        until = time.monotonic() + END_SECONDS
        status: dict[str, Any] = {}
        while time.monotonic() < until:
            shown = self.cluster.kubectl("-n", namespace, "get", "ssyn", "whole", "-o", "json", check=True).stdout
            status = json.loads(shown).get("status") or {}
            if status.get("phase") in ("Serving", "NoGain", "Failed"):
                return status
            time.sleep(1)
        pods = self.cluster.kubectl("-n", namespace, "get", "srun,scand,pods", "-o", "wide").stdout
        raise AssertionError(f"{status}\n{pods}\n{self.records(namespace)}")

    def records(self, namespace: str) -> list[StepRecord]:
        label = f"{names.PART_LABEL}={names.RECORD}"
        kept = self.cluster.kubectl("-n", namespace, "get", "configmaps", "-l", label, "-o", "json", check=True)
        found = (StoredRecord.model_validate_json(one["data"][RECORD_KEY]) for one in json.loads(kept.stdout)["items"])
        return sorted((one.record for one in found), key=lambda record: record.sequence)

    def holds_key(self, namespace: str) -> set[str]:
        """Names of the namespace's objects that have the provider's key in them in the open."""
        kinds = "pods,configmaps,jobs,deployments,events,synthesisruns.sartor.dev,servingcandidates.sartor.dev"
        found = json.loads(self.cluster.kubectl("get", kinds, "-n", namespace, "-o", "json", check=True).stdout)[
            "items"
        ]
        return {one["metadata"]["name"] for one in found if KEY in json.dumps(one)}


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return resolve(SyntheticSource("chain", "llama", "tiny", 0, "bfloat16"))


@pytest.fixture(scope="module")
def place(checkpoint: Path) -> Iterator[Place]:
    up = DevCluster.up("whole-agents", lifeline=True)
    node = Node(up, up.layout.folder / "node")
    # pytest's own folders cannot be read by the user that pods run as.
    with TemporaryDirectory(prefix="whole-agents-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        writable = folder / "engine-cache"
        writable.mkdir()
        made = Place(up, folder)
        try:
            node.start(node.configure(environments(cache_folder(), None), writable))
            install(up, access_log=None, stack_command=None)
            up.kubectl("apply", "-k", str(WALLS), check=True)
            target = load(MANIFESTS / "hardware.yaml")
            target["metadata"]["name"] = "agents"
            apply(up, [target])
            yield made
        finally:
            for process in made.models:
                if process.poll() is None:
                    process.kill()
                    process.wait(10)
            node.stop()
            up.down()


def text_of(files: dict[str, bytes]) -> dict[str, str]:
    return {path.removeprefix("stack/"): content.decode() for path, content in files.items()}


def test_a_profile_gets_a_measured_stack_delivered(place: Place, checkpoint: Path) -> None:
    url = place.model("engineer", [text_of(dict(honest(checkpoint, "chat")))])
    place.begin("team-engineer", url, rounds=1)
    status = place.ended("team-engineer")
    records = place.records("team-engineer")
    assert status["phase"] == "Serving", (status, records)
    assert [one.step for one in records] == [
        StepKind.BASELINE, StepKind.PLAN, StepKind.IMPLEMENT, StepKind.JUDGE, StepKind.EVALUATE, StepKind.CONFIRM,
    ]  # fmt: skip
    told = place.told("engineer")
    assert told["tokens"] == sum(one.cost.tokens for one in records) and not told["refused"]
    # The smoke check's own words, from the pod of the implementer: it started the candidate there and asked it.
    checked = told["talks"][-1].splitlines()
    assert checked and all(line.startswith("ok ") for line in checked), checked
    assert place.holds_key("team-engineer") == set()


def test_a_cheat_ends_without_a_prize_and_learns_nothing(place: Place, checkpoint: Path) -> None:
    first, second = (text_of(candidate(name, checkpoint, "chat")) for name in ("short_answers", "inflated_usage"))
    changed = {path: text for path, text in second.items() if first.get(path) != text}
    url = place.model("cheat", [first, changed])
    place.begin("team-cheat", url, rounds=2)
    status = place.ended("team-cheat")
    records = place.records("team-cheat")
    assert status["phase"] == "NoGain", (status, records)
    failed = [(one.step, one.failure) for one in records if one.failure is not None]
    assert [(step, failure.reason) for step, failure in failed] == [
        (StepKind.JUDGE, "OutputTooShort"), (StepKind.JUDGE, "TokenCountMismatch"),
    ], failed  # fmt: skip
    assert {failure.failure_class for _, failure in failed} == {FailureClass.CANDIDATE}
    heard = "\n".join(place.told("cheat")["heard"])
    assert "still here" in heard or "ended" in heard, "its commands ran"
    assert "REACHED" not in heard and "root:" not in heard and KEY not in heard
    secrets = json.loads(place.cluster.kubectl("-n", "team-cheat", "get", "secrets", "-o", "json", check=True).stdout)
    values = [value for one in secrets["items"] for value in (one.get("data") or {}).values()]
    assert values and not [value for value in values if value in heard]
