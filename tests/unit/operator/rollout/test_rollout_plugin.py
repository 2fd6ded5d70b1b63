"""`kubectl sartor`: each command is the patch that the documentation says."""

import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sartor_api.serving_rollout import RolloutControl
from sartor_operator.rollout.plugin import PATCHES, PluginError, documents, main, resume_patch, shown

PAGE = Path(__file__).parents[4] / "docs" / "rollouts" / "control.md"


def rollout(**status: Any) -> dict[str, Any]:
    steps = [{"mirror": 5}, {"pause": {}}, {"weight": 50}, {"pause": {}}]
    arms = {"baseline": {"service": "vllm"}, "candidate": {"service": "stack"}}
    return {
        "metadata": {"name": "editor", "namespace": "team-a"},
        "spec": {**arms, "policy": {"steps": steps}},
        "status": status,
    }


class Kubectl:
    """Records what it is told; answers `get` with a rollout."""

    def __init__(self, found: dict[str, Any] | None = None, code: int = 0) -> None:
        self.found = found or rollout()
        self.code = code
        self.told: list[list[str]] = []

    def __call__(self, command: Any) -> "subprocess.CompletedProcess[str]":
        self.told.append(list(command))
        text = json.dumps(self.found) if "get" in command else ""
        return subprocess.CompletedProcess(command, self.code, stdout=text, stderr="not found" if self.code else "")

    def patch(self) -> dict[str, Any]:
        return json.loads(self.told[-1][-1])["spec"]["control"]


@pytest.mark.parametrize("command", sorted(PATCHES))
def test_a_command_is_the_documented_patch(command: str) -> None:
    kubectl = Kubectl()
    assert main([command, "editor", "-n", "team-a", "--context", "c"], run=kubectl, out=io.StringIO()) == 0
    told = kubectl.told[-1]
    assert told[:5] == ["kubectl", "--context", "c", "--namespace", "team-a"] and "--type=merge" in told
    assert kubectl.patch() == PATCHES[command]
    text = json.dumps({"spec": {"control": PATCHES[command]}}, separators=(",", ":"))
    assert f"kubectl patch servingrollouts.sartor.dev NAME --type=merge -p '{text}'" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", sorted(PATCHES))
@pytest.mark.parametrize("before", sorted(PATCHES))
def test_no_command_leads_to_what_the_api_refuses(before: str, command: str) -> None:
    RolloutControl.model_validate({**PATCHES[before], **PATCHES[command]})


def test_every_patch_of_the_page_is_valid() -> None:
    patches = re.findall(r"-p '(\{.*?\})'$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(patches) == 6
    for text in patches:
        RolloutControl.model_validate(json.loads(text)["spec"]["control"])


@pytest.mark.parametrize(
    ("status", "patch"),
    [
        ({"phase": "Progressing", "step": 1}, {"pause": False}),
        ({"phase": "Frozen", "step": 2}, {"pause": False}),
        ({"phase": "Paused", "step": 2}, {"pause": False, "skipToStep": 3}),
        ({"phase": "Paused", "step": 4}, {"pause": False, "promote": True, "abort": False, "undo": False}),
    ],
)
def test_resume_goes_past_a_stop(status: Any, patch: Any) -> None:
    assert resume_patch(rollout(**status)) == patch


def test_resume_takes_back_a_pause_and_no_more() -> None:
    paused = rollout(phase="Paused", step=2)
    paused["spec"]["control"] = {"pause": True}
    assert resume_patch(paused) == {"pause": False}


def test_resume_says_what_decides_instead() -> None:
    with pytest.raises(PluginError, match="promote or abort"):
        resume_patch(rollout(phase="Paused", step=3, message="undecided"))


def test_status_shows_both_arms() -> None:
    arm = {"weight": 20, "wantedWeight": 50, "readyReplicas": 2, "samples": 400, "errors": 1, "handovers": 3}
    guard = {"metric": "errorRate", "outcome": "pass", "baseline": "0.001", "candidate": "0.002", "source": "log"}
    verdict = {"outcome": "pass", "at": "T", "guardrails": [guard]}
    frozen = {"type": "Frozen", "status": "True", "reason": "NoSamples", "lastTransitionTime": "T"}
    kubectl = Kubectl(rollout(phase="Frozen", step=3, message="m", candidate=arm, verdict=verdict, conditions=[frozen]))
    out = io.StringIO()
    assert main(["status", "editor"], run=kubectl, out=out) == 0
    text = out.getvalue()
    assert "team-a/editor: Frozen, step 3 of 4" in text and "Frozen since T: NoSamples" in text
    assert re.search(r"candidate +stack +20 +50 +2 +400 +1 +3", text) and re.search(
        r"errorRate +pass +0.001 +0.002", text
    )
    assert shown(rollout()).startswith("team-a/editor: Pending")


def test_a_refusal_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["abort", "editor"], run=Kubectl(code=1), out=io.StringIO()) == 1
    assert "not found" in capsys.readouterr().err


def test_a_dry_run_prints_and_sends_nothing() -> None:
    kubectl, out = Kubectl(), io.StringIO()
    assert main(["abort", "editor", "--dry-run"], run=kubectl, out=out) == 0
    assert kubectl.told == [] and "kubectl patch servingrollouts.sartor.dev editor" in out.getvalue()


def test_a_watch_is_read_document_by_document() -> None:
    text = "".join(json.dumps({"a": {"b": n}}, indent=4) + "\n" for n in range(3))
    assert [d["a"]["b"] for d in documents(io.StringIO(text))] == [0, 1, 2]
