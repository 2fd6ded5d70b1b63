"""`make demo` and `make demo-rollback` with everything real but the size: a tiny model, and transformers as the baseline.

From `kubectl apply` to all traffic on the stack; and, with a stack that gets slow at half of the traffic, to the baseline,
with users at the Gateway all the time. `make demo` does the same with vLLM.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sartor_demo.node import ROOT
from sartor_devcluster import DevCluster, NotRunningError
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
    envelope: {{maxInputTokens: 512, maxOutputTokens: 256, maxConcurrency: 16}}
  hardware: {{targetRef: {{name: demo-cpu}}}}
  objective:
    guardrails:
      - {{metric: errorRate, maximumRegression: "10%"}}
      - {{metric: endToEndLatencyP50, maximumRegression: "30%"}}
  correctness: {{samples: 4}}
  baseline: {{engine: transformers, tuning: none}}
  measurement: {{preset: quick}}
  budget: {{rounds: 1, wallClock: 20m}}
  rollout:
    parentRefs: [{{name: inference, namespace: gateways}}]
    hostnames: [little.example.com]
    steps: [{{weight: 50, hold: 10s}}]
    analysis: {{minimumSamples: 60, confidence: "95%", inconclusiveAfter: 15m, sources: [gatewayAccessLog]}}
    drainTimeout: 10s
"""

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(2400)]


@dataclass(frozen=True)
class Shown:
    """What the demonstration printed, and the cluster that it left."""

    rollback: bool
    code: int
    lines: list[str]
    cluster: DevCluster

    @property
    def last(self) -> dict[str, Any]:
        return json.loads(self.lines[-1])

    def get(self, *what: str) -> list[dict[str, Any]]:
        text = self.cluster.kubectl("-n", NAMESPACE, "get", *what, "-o", "json", check=True).stdout
        return json.loads(text)["items"]


@pytest.fixture(scope="module", params=[False, True], ids=["promoted", "rolled back"])
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("demo")
    (folder / "synthesis.yaml").write_text(MANIFEST)
    values = {**os.environ, "SARTOR_STATE": str(folder / "state")}
    command = [sys.executable, "-m", "sartor_demo"]
    options = ["--json", "--rate", "2", *(["--rollback"] if request.param else [])]  # transformers manages that
    try:
        up = subprocess.run(
            [*command, "up", "--synthesis", str(folder / "synthesis.yaml"), "--minutes", "20", *options],
            capture_output=True, text=True, env=values, cwd=ROOT, check=False, timeout=1500,
        )  # fmt: skip
        print(up.stdout + up.stderr)
        try:
            cluster = DevCluster.find("demo", root=state_root(values))
        except NotRunningError:
            assert "is required, but" in up.stderr, up.stderr
            pytest.skip(up.stderr.strip().splitlines()[-1])  # this machine cannot have a Gateway, in a sentence
        yield Shown(bool(request.param), up.returncode, up.stdout.splitlines(), cluster)
    finally:
        down = subprocess.run([*command, "down"], capture_output=True, text=True, env=values, check=False, timeout=120)
        assert down.returncode == 0, down.stderr
        assert not list(Path(values["SARTOR_STATE"]).glob("devcluster/*/settings.json"))


def test_it_ends_as_it_should_and_no_request_is_lost(shown: Shown) -> None:
    found = shown.last
    assert found["outcome"] == ("RolledBack" if shown.rollback else "Promoted"), found
    assert shown.code == 0
    assert (found["failed"], found["cut"], found["duplicated"]) == (0, 0, 0)
    assert found["answered"] == found["requests"] > 100
    counted = f"requests: {found['requests']} sent, {found['requests']} answered, 0 failed, 0 cut, 0 duplicated"
    assert shown.lines[-2] == counted


def test_both_arms_answered_users_and_the_log_tells_which(shown: Shown) -> None:
    arms = shown.last["arms"]
    assert sum(arm["requests"] for arm in arms.values()) == shown.last["requests"]
    assert min(arm["requests"] for arm in arms.values()) >= 60


def test_the_rollout_went_the_way_that_its_steps_say(shown: Shown) -> None:
    (rollout,) = shown.get("servingrollouts.sartor.dev")
    status = rollout["status"]
    weights = (status["baseline"]["weight"], status["candidate"]["weight"])
    assert weights == ((100, 0) if shown.rollback else (0, 100))
    told = [event["reason"] for event in shown.get("events") if event["involvedObject"]["kind"] == "ServingRollout"]
    assert told.count("StepStarted") == 1 and ("RolledBack" in told) == shown.rollback
    assert any("PLANTED" in line for line in shown.lines) == shown.rollback
    if shown.rollback:
        (worst,) = (g for g in status["verdict"]["guardrails"] if g["outcome"] == "fail")
        assert worst["metric"] == "endToEndLatencyP50"
    (synthesis,) = shown.get("servingsyntheses.sartor.dev")
    assert synthesis["status"]["phase"] == ("RolledBack" if shown.rollback else "Serving")


def test_the_board_is_in_the_log_with_the_weights_as_they_were(shown: Shown) -> None:
    boards = [line for line in shown.lines if " | baseline " in line]
    assert any("baseline 100 %" in line for line in boards) and any("candidate 50 %" in line for line in boards)
    assert not any("Traceback" in line for line in shown.lines)
