"""The demonstration with everything real but the size: roles, git service, node and delivery, on a tiny model.

The baseline is `transformers`, so that nothing has to be compiled for it; `make demo` does the same with vLLM.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sartor_demo.node import ROOT
from sartor_devcluster import DevCluster
from sartor_devcluster.layout import state_root

NAMESPACE, NAME = "team-b", "little"
MANIFEST = f"""
apiVersion: sartor.dev/v1alpha1
kind: ServingSynthesis
metadata: {{name: {NAME}, namespace: {NAMESPACE}}}
spec:
  model: {{source: {{synthetic: {{kind: chain, architecture: llama, size: tiny}}}}}}
  workload:
    scenario: code-edit
    parameters: {{fileTokens: 48, matchRates: [95]}}
    envelope: {{maxInputTokens: 512, maxOutputTokens: 256, maxConcurrency: 4}}
  hardware: {{targetRef: {{name: demo-cpu}}}}
  correctness: {{samples: 4}}
  baseline: {{engine: transformers, tuning: none}}
  measurement: {{preset: quick}}
  budget: {{rounds: 1, wallClock: 20m}}
"""

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1500)]


@dataclass(frozen=True)
class Shown:
    """What the demonstration printed, and the cluster that it left."""

    code: int
    text: str
    cluster: DevCluster

    def get(self, *what: str) -> Any:
        return json.loads(self.cluster.kubectl("-n", NAMESPACE, "get", *what, "-o", "json", check=True).stdout)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("demo")
    (folder / "synthesis.yaml").write_text(MANIFEST)
    values = {**os.environ, "SARTOR_STATE": str(folder / "state")}
    command = [sys.executable, "-m", "sartor_demo"]
    try:
        up = subprocess.run(
            [*command, "up", "--synthesis", str(folder / "synthesis.yaml"), "--minutes", "15"],
            capture_output=True, text=True, env=values, cwd=ROOT, check=False, timeout=1200,
        )  # fmt: skip
        cluster = DevCluster.find("demo", root=state_root(values))
        yield Shown(up.returncode, up.stdout + up.stderr, cluster)
    finally:
        down = subprocess.run([*command, "down"], capture_output=True, text=True, env=values, check=False, timeout=120)
        assert down.returncode == 0, down.stderr
        assert not list(Path(values["SARTOR_STATE"]).glob("devcluster/*/settings.json"))


def test_from_apply_to_two_ready_deployments(shown: Shown) -> None:
    assert shown.code == 0, shown.text
    assert re.search(r"confirmed over transformers \S+: \d+\.\d\d× \(", shown.text)
    ready = {
        one["metadata"]["labels"]["sartor.dev/role"]: one["status"].get("readyReplicas")
        for one in shown.get("deployments")["items"]
    }
    assert ready == {"serving-stack": 1, "serving-baseline": 1}


def test_every_role_had_a_job_of_its_own_that_succeeded(shown: Shown) -> None:
    jobs = shown.get("jobs")["items"]
    roles = Counter(job["metadata"]["labels"]["sartor.dev/role"] for job in jobs)
    once = Counter({"tuner": 1, "planner": 1, "implementer": 1, "judge": 1, "evaluator": 2})
    assert once <= roles
    # What a disturbed machine made invalid is measured again, in a job of its own.
    assert set(roles - once) <= {"tuner", "evaluator"}
    assert all(job["status"].get("succeeded") == 1 for job in jobs)


def test_what_serves_is_what_passed_the_gates(shown: Shown) -> None:
    best = shown.get("servingsyntheses.sartor.dev", NAME)["status"]["best"]
    (stack,) = [d for d in shown.get("deployments")["items"] if "stack" in d["metadata"]["labels"]["sartor.dev/role"]]
    told = stack["spec"]["template"]["metadata"]["annotations"]
    assert f"sha256:{told['sartor.dev/content-hash']}" == best["contentHash"]
    (candidate,) = shown.get("servingcandidates.sartor.dev")["items"]
    assert candidate["status"]["commit"] == best["commit"] == told["sartor.dev/commit"]


def test_the_readable_log_tells_the_life(shown: Shown) -> None:
    phases = ("Baseline", "Searching", "Confirming", "Delivering", "Serving")
    order = [shown.text.find(f"ServingSynthesis {NAME}: {phase}: ") for phase in phases]
    assert -1 not in order and order == sorted(order), shown.text
    assert "answers in" in shown.text and "Traceback" not in shown.text
