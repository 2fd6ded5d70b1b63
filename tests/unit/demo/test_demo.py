"""The demonstration's own parts: what its node shows to whom, and how it reads what the cluster says."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_agents.baselines.environment import VllmEnvironment
from sartor_api.load import load_file
from sartor_demo.cli import MANIFESTS, POD_USER
from sartor_demo.follow import documents, event_line, moment, objects, over
from sartor_demo.node import ROOT, Node, environments
from sartor_runner.config import Config


class FakeCluster:
    bootstrap_kubeconfig = Path("/nowhere/bootstrap.kubeconfig")

    def cluster_dns(self) -> tuple[str, ...]:
        return ("10.96.0.10",)


def configuration(tmp_path: Path, vllm: VllmEnvironment | None) -> Config:
    node = Node(FakeCluster(), tmp_path)  # type: ignore[arg-type]
    path = node.configure(environments(tmp_path / "cache", vllm), tmp_path / "compiled")
    return Config.model_validate(tomllib.loads(path.read_text()))


def test_the_node_knows_every_image_that_is_installed(tmp_path: Path) -> None:
    found = configuration(tmp_path, VllmEnvironment(tmp_path / "vllm" / "bin" / "python", "1"))
    images = {image for table in found.environments.values() for image in table.images}
    which = ("stack", "baseline", "agent", "evaluator", "operator", "repository")
    assert images == {f"sartor-{name}:*" for name in which}
    assert found.sandbox.users() == 1 and found.sandbox.first_user() == POD_USER


def test_no_code_of_sartor_is_shown_to_a_stack(tmp_path: Path) -> None:
    stack = configuration(tmp_path, None).environments["stack"]
    assert stack.binds == () and stack.python == sys.prefix
    assert not Path(sys.prefix).is_relative_to(ROOT / "agents")
    # The virtual environment only points at the checkout; without its folders nothing can be imported.
    site = Path(sys.prefix) / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    assert not (site / "sartor_agents").exists() and not (site / "sartor_api").exists()


def test_the_baseline_has_vllm_first_and_sartor_behind_it(tmp_path: Path) -> None:
    table = configuration(tmp_path, VllmEnvironment(tmp_path / "vllm" / "bin" / "python", "1")).environments["baseline"]
    assert table.python == str(tmp_path / "vllm")
    assert table.environment["SARTOR_VLLM"] == str(tmp_path / "vllm")
    assert table.path[0] == f"{sys.prefix}/bin" and sys.prefix in table.binds


def event(kind: str, reporter: str, reason: str = "R") -> dict[str, Any]:
    about = {"kind": "SynthesisRun", "name": "editor-1"}
    return {"type": kind, "reason": reason, "message": "m", "involvedObject": about, "reportingComponent": reporter}


@pytest.mark.parametrize(
    ("kind", "reporter", "shown"),
    [
        ("Normal", "sartor-operator", True),
        ("Normal", "kubelet", False),
        ("Warning", "default-scheduler", True),
    ],
)
def test_the_log_has_what_sartor_says_and_every_warning(kind: str, reporter: str, shown: bool) -> None:
    line = event_line(event(kind, reporter))
    assert (line is not None) == shown
    assert line is None or (line.subject, line.word, line.text) == ("SynthesisRun editor-1", "R", "m")


def synthesis(phase: str, *, observed: int = 2, **conditions: str) -> dict[str, Any]:
    found = [{"type": kind, "status": status} for kind, status in conditions.items()]
    status = {"phase": phase, "observedGeneration": observed, "conditions": found}
    return {"metadata": {"generation": 2}, "status": status}


def test_warnings_that_belong_to_every_start_are_left_out() -> None:
    assert event_line(event("Warning", "sartor-runner", "Unhealthy")) is None
    assert event_line(event("Warning", "sartor-runner", "BackOff")) is not None


@pytest.mark.parametrize(
    "written", [{"lastTimestamp": "2026-01-01T00:00:10Z"}, {"eventTime": "2026-01-01T00:00:10.5Z"}]
)
def test_an_event_has_a_moment_whichever_way_it_is_written(written: dict[str, str]) -> None:
    assert moment({"metadata": {"creationTimestamp": "2025-01-01T00:00:00Z"}, **written}) // 1 == 1767225610


@pytest.mark.parametrize(
    ("given", "ended"),
    [
        (synthesis("Searching"), False),
        (synthesis("Serving", Ready="True"), True),
        (synthesis("Serving", Ready="False"), False),
        (synthesis("NoGain"), True),
        (synthesis("Pending", Stalled="True"), True),
        (synthesis("Serving", observed=1, Ready="True"), False),
        ({"metadata": {"generation": 1}}, False),
    ],
)
def test_it_ends_when_nothing_more_will_happen_by_itself(given: dict[str, Any], ended: bool) -> None:
    assert over(given) is ended


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3), max_size=4), st.data())
def test_documents_are_read_wherever_the_stream_is_cut(written: list[dict[str, str]], data: st.DataObject) -> None:
    text = "".join(json.dumps(one, indent=1) + "\n" for one in written)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert list(documents(iter(pieces))) == written


def test_the_examples_are_valid_and_belong_together() -> None:
    (hardware,) = load_file(MANIFESTS / "hardware.yaml")
    (wanted,) = load_file(MANIFESTS / "synthesis.yaml")
    assert wanted.spec.hardware.target_ref.name == hardware.name


def test_ending_what_is_not_there_is_no_problem(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sartor_demo", "down"], capture_output=True, text=True, check=False,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "there is no demonstration\n"), done.stderr


def test_a_watch_that_the_api_server_ends_is_no_object() -> None:
    ended = {"kind": "Status", "status": "Failure", "reason": "Expired", "message": "too old resource version: 4 (12)"}
    one = {"kind": "ServingSynthesis", "status": {"phase": "Baseline"}}
    assert objects(ended) == []
    assert objects(one) == [one]
    assert objects({"kind": "List", "items": [one, one]}) == [one, one]
