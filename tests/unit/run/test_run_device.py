"""The steps of a run on a device: who sees it, what is up when, what each role is asked. Roles, stacks, engine: fakes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import Device as Fake
from fake_nvml import FakeNvml
from run_fakes import LocalRun, run_spec

from sartor_agents.measurement.accelerators import Nvml
from sartor_agents.run import arms
from sartor_agents.run.device import Device
from sartor_agents.run.device_share import Needs, shares
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.placement import Placement
from sartor_agents.run.repository import RunRepository
from sartor_api.search.records import FailureClass, Outcome

GIB = 1 << 30
H200 = Device("GPU-b", "NVIDIA H200", 140 * GIB, "580", "9.0", 1)
PLACE = Placement(H200, shares(140 * GIB, Needs(15 * GIB, GIB, 32_000)), 0, 1)


class Opened:
    """What was asked of NVML, and the device that answers."""

    def __init__(self) -> None:
        self.only: list[str | None] = []
        self.device = Fake("GPU-b")

    def __call__(self, *, only: str | None = None) -> Nvml:
        self.only.append(only)
        return Nvml(FakeNvml(self.device), only)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    made = Opened()
    monkeypatch.setattr(arms, "open_accelerators", made)
    return made


def on(place: Placement | None, root: Path, **behaviours: str) -> LocalRun:
    run = LocalRun(root, behaviours, spec=run_spec(str(root / "model"), rounds=1), placement=place)
    assert run.driver().drive().outcome is Outcome.CONFIRMED
    return run


def asked(root: Path, role: str) -> dict[str, Any]:
    return json.loads((RunLayout(root / "run").exchange / f"{role}" / "request.json").read_text())


def log(root: Path, name: str) -> str:
    return (RunLayout(root / "run").logs / f"{name}.log").read_text()


def test_servers_and_references_see_the_device_and_nobody_else_does(tmp_path: Path, opened: Opened) -> None:
    on(PLACE, tmp_path)
    for name in ("001-judge-1-1-candidate", "001-evaluate-1-1-candidate"):
        assert "started: serve sees 'GPU-b' True" in log(tmp_path, name)
    for role in ("001-judge-1-1-judge", "001-evaluate-1-1-evaluator", "001-implement-1-1-implementer"):
        assert "sees 'GPU-b'" in log(tmp_path, role)
    assert "sees ''" in log(tmp_path, "001-plan-1-1-planner")
    judged, measured = asked(tmp_path, "001-judge-1-1-judge"), asked(tmp_path, "001-evaluate-1-1-evaluator")
    tuned = asked(tmp_path, "000-baseline-1-1-evaluator")
    assert judged["reference"] == measured["reference"] == "cuda" and judged["baseline"] is not None
    assert measured["device"] == tuned["device"] == "GPU-b"
    assert opened.only == ["GPU-b"] * 3, "a candidate's share is looked at on its device alone"


def test_on_a_processor_nobody_sees_a_device(tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the machine has one, whose use would be no figure of the processor's."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    on(None, tmp_path)
    assert "started: serve sees ''" in log(tmp_path, "001-judge-1-1-candidate")
    for role in ("001-judge-1-1-judge", "001-evaluate-1-1-evaluator", "001-plan-1-1-planner"):
        assert "sees ''" in log(tmp_path, role)
    judged, measured = asked(tmp_path, "001-judge-1-1-judge"), asked(tmp_path, "001-evaluate-1-1-evaluator")
    assert (judged["reference"], measured["reference"], measured["device"]) == ("cpu", "cpu", None)
    assert opened.only == []


def test_where_the_reference_has_no_room_beside_both_the_baseline_makes_way_for_it(
    tmp_path: Path, opened: Opened
) -> None:
    narrow = replace(PLACE, shares=shares(140 * GIB, Needs(59 * GIB, 6 * GIB, 32_000)))
    assert narrow.shares.judged_alone and narrow.shares.evaluator == "cpu"
    on(narrow, tmp_path)
    judged, measured = asked(tmp_path, "001-judge-1-1-judge"), asked(tmp_path, "001-evaluate-1-1-evaluator")
    assert judged["baseline"] is None and judged["reference"] == "cuda"
    assert "started: serve sees 'GPU-b' False" in log(tmp_path, "001-judge-1-1-candidate")
    assert measured["baseline"] is not None and measured["reference"] == "cpu"
    assert "started: serve sees 'GPU-b' True" in log(tmp_path, "001-evaluate-1-1-candidate")
    assert "sees ''" in log(tmp_path, "001-evaluate-1-1-evaluator")
    assert measured["baseline"]["pid"] != asked(tmp_path, "000-baseline-1-1-evaluator")["candidate"]["pid"]


def test_a_candidate_that_takes_the_baseline_s_share_costs_its_attempt(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sartor_agents.run.placement.tree_pids", lambda _: frozenset({7}))
    opened.device = Fake("GPU-b", pids=[7], used={7: 139 * GIB})
    run = LocalRun(tmp_path, spec=run_spec(str(tmp_path / "model"), rounds=1), placement=PLACE)
    assert run.driver().drive().outcome is not Outcome.CONFIRMED
    records = RunRepository(RunLayout(tmp_path / "run").repository).load().records
    failure = next(record.failure for record in records if record.failure is not None)
    assert failure.reason == "CandidateDeviceMemoryExceeded" and failure.failure_class is FailureClass.CANDIDATE
    assert "139.0 GiB of NVIDIA H200" in failure.message


def test_a_device_that_is_gone_is_no_candidate_s_fault(tmp_path: Path, opened: Opened) -> None:
    opened.device = Fake("GPU-other")
    run = LocalRun(tmp_path, spec=run_spec(str(tmp_path / "model"), rounds=1), placement=PLACE)
    assert run.driver().drive().reason == "InfrastructureUnavailable"
    records = RunRepository(RunLayout(tmp_path / "run").repository).load().records
    failures = [record.failure for record in records if record.failure is not None]
    assert {(one.reason, one.failure_class) for one in failures} == {("DeviceGone", FailureClass.INFRASTRUCTURE)}
    assert "GPU-b" in failures[0].message
