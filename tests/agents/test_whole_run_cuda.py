"""`sartor run` on a target of platform `cuda`, whole, on a machine without one: NVML is stood for (`device_world`), and the
recipe's decoder is told to compute on the processor with its reference kernels. All else is real: choosing the device, plan,
composed stack in its sandbox, judge, evaluator, confirmation, delivery, resuming.
"""

import functools
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import device_world
import pytest
from typer.testing import CliRunner

from sartor_agents.baselines import find_engine
from sartor_agents.baselines.transformers_engine import TransformersEngine
from sartor_agents.checkpoints import make
from sartor_agents.cli.main import app
from sartor_agents.measurement import accelerators
from sartor_agents.run import device, local, session
from sartor_agents.run.engines import ServerSpec, Setting
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.repository import RunRepository
from sartor_agents.tools import device_rates
from sartor_api.search.records import BaselineRecord, Judgement, Measurement, RunSpec, StepKind
from sartor_api.search.snapshot import snapshot
from sartor_skills.library import library_root

MANIFEST = """
apiVersion: sartor.dev/v1alpha1
kind: HardwareTarget
metadata: {name: h200}
spec:
  platform: cuda
  accelerator: {resource: nvidia.com/gpu, count: 1, product: NVIDIA-H200}
---
apiVersion: sartor.dev/v1alpha1
kind: ServingSynthesis
metadata: {name: whole}
spec:
  model: {source: {persistentVolumeClaim: {claimName: checkpoint}}}
  workload:
    scenario: code-edit
    parameters: {fileTokens: 24, matchRates: [95], withoutPrediction: false}
    envelope: {maxInputTokens: 768, maxOutputTokens: 128, maxConcurrency: 4}
  hardware: {targetRef: {name: h200}}
  correctness: {samples: 4}
  baseline: {engine: vllm, tuning: none}
  measurement:
    {preset: quick, window: 1s, minimumReplicates: 3, maximumReplicates: 3, confidence: "60%"}
  budget: {rounds: 1, wallClock: 30m, acceleratorHours: "1"}
"""
CALM: Mapping[str, Any] = {
    "maximum_contention": 1.0, "maximum_contention_difference": 1.0, "maximum_generator_lag": 1000.0,
    "maximum_generator_share": 1000.0, "maximum_idle_cores": 64.0, "maximum_idle_baseline_cores": 64.0,
}  # fmt: skip
ON_PROCESSOR = '[spec]\nDEVICE = "cpu"\nMAX_SEQUENCES = 16\n'


@dataclass(frozen=True)
class Slow(TransformersEngine):
    """On the processor and with pauses; all else is the engine that was found."""

    def server(self, setting: Setting, port: int) -> ServerSpec:
        spec = super().server(setting, port)
        return replace(spec, command=(sys.executable, device_world.__file__, *spec.command[2:]))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The device, a library whose CUDA recipe computes on the processor, and a checkpoint beside the manifest."""
    stand_in = device_world.library()
    for module in (session, local):
        monkeypatch.setattr(
            module, "open_accelerators", functools.partial(accelerators.open_accelerators, lambda: stand_in)
        )
    dev = tmp_path / "dev"
    dev.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (dev / name).touch()
    monkeypatch.setattr(device, "DEV", dev)
    skills = tmp_path / "skills"
    shutil.copytree(library_root(), skills, ignore=shutil.ignore_patterns("__pycache__", "src", "*.egg-info"))
    recipe = skills / "cuda-decoder" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[spec]\n", ON_PROCESSOR, 1))
    monkeypatch.setattr(session, "library_root", lambda: skills)
    monkeypatch.setattr(session, "LocalSteps", functools.partial(local.LocalSteps, command=device_world.role_command))
    monkeypatch.setattr(session, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr("sartor_agents.baselines.find.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("SARTOR_VLLM", raising=False)

    def calm(*arguments: Any, **named: Any) -> RunSpec:
        spec = snapshot(*arguments, **named)
        overrides: Mapping[str, Any] = spec.measurement["overrides"]  # type: ignore[assignment]
        return spec.model_copy(update={"measurement": {**spec.measurement, "overrides": {**overrides, **CALM}}})

    def engine(*arguments: Any) -> TransformersEngine:
        found = find_engine(*arguments)
        assert isinstance(found, TransformersEngine) and found.device == "cuda"
        return Slow(**{**vars(found), "device": "cpu"})

    monkeypatch.setattr(session, "snapshot", calm)
    monkeypatch.setattr("sartor_agents.cli.run.find_engine", engine)
    rates = {"name": "NVIDIA H200", "read_bytes_per_second": 4.2e12, "bfloat16_flops": 7.5e14}
    monkeypatch.setattr(device_rates.rates, "__defaults__", (lambda uuid: {**rates, "uuid": uuid},))
    make("chain", "llama", "tiny", 0, tmp_path / "checkpoint")
    (tmp_path / "synthesis.yaml").write_text(MANIFEST)
    return tmp_path


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(2400)
def test_a_whole_run_on_a_device(machine: Path) -> None:
    layout = RunLayout(machine / "run")
    arguments = ["run", "-f", str(machine / "synthesis.yaml"), "--dir", str(layout.root), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output[-4000:]
    last = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")][-1]
    assert last["outcome"] == "confirmed"
    repository = RunRepository(layout.repository)
    state = repository.load().state(0.0)
    assert state.spec.platform == "cuda" and state.spec.accelerators == 1
    assert state.ledger.spent.accelerator_seconds > 0
    recorded = json.loads(repository.read_text("device.json") or "")
    assert (recorded["uuid"], recorded["minor"], recorded["capability"]) == (device_world.UUID, 1, "9.0")
    results: dict[StepKind, Any] = {record.step: record.result for record in state.records}
    assert [record.failure for record in state.records if record.failure is not None] == []
    baseline, judged = results[StepKind.BASELINE], results[StepKind.JUDGE]
    assert isinstance(baseline, BaselineRecord) and isinstance(judged, Judgement)
    assert baseline.engine == "transformers" and "--platform cuda" in (baseline.fallback_reason or "")
    assert baseline.fingerprint["accelerators"] == ["NVIDIA H200"] and baseline.fingerprint["capability"] == "9.0"
    assert judged.reference == "cuda"
    plan = state.rounds[0].plan
    assert plan is not None and {use.name for use in plan.recipes} == {"serving-core", "cuda-decoder"}
    for step in (StepKind.EVALUATE, StepKind.CONFIRM):
        measured = results[step]
        assert isinstance(measured, Measurement) and measured.fingerprint["reference"] == "cuda"
        seen: Any = measured.fingerprint["accelerators"]
        assert [one["uuid"] for one in seen] == [device_world.UUID], "the other device is nobody's business"
    log = "".join(path.read_text() for path in layout.logs.glob("*-judge.log"))
    assert "reference on cuda" in log
    page = layout.report.read_text()
    assert "NVIDIA H200 (140.0 GiB, compute capability 9.0" in page
    spec = (layout.stack / "spec.py").read_text()
    assert "DECODER" in spec and '"cuda"' in spec and "KV_PAGES" in spec
    again = CliRunner().invoke(app, ["run", "--resume", "--dir", str(layout.root)])
    assert again.exit_code == 0, again.output[-2000:]
