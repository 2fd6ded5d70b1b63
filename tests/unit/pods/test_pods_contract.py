"""What a pod is given: what is missing or wrong is a sentence, and an exit code that is no result."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_nvml import Device, FakeNvml
from pods_world import PodWorld, pod_world

from sartor_agents.checkpoints import SyntheticSource, resolve
from sartor_agents.measurement.accelerators import NoAccelerators, Nvml
from sartor_agents.pods import __main__ as pods
from sartor_agents.pods import contract
from sartor_agents.pods.contract import ContractError
from sartor_agents.pods.model import fetch
from sartor_agents.pods.tools import Tools, serving_hardware
from sartor_agents.run.hardware import fingerprint, pod_hardware
from sartor_api.search.records import BaselineRecord, StepKind
from sartor_api.search.wire import LONGEST_REPORT


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodWorld]:
    with pod_world(tmp_path, monkeypatch) as made:
        yield made


@pytest.mark.parametrize("name", ["STEP_FILE", "SPEC_FILE", "WORK", "MODEL", "REPOSITORY", "TOKEN_FILE"])
def test_a_variable_that_is_missing_is_named(world: PodWorld, name: str) -> None:
    variable = f"SARTOR_{name}"
    begin = world.begin(StepKind.BASELINE)
    assert world.run(begin, **{variable: None}) == 2
    assert world.said(begin).startswith(f"{variable} is not set")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("step.json", "", "is no StepBegin: content: "),
        ("step.json", "{ not json", "is no StepBegin: content: "),
        ("step.json", '{"id": "000/baseline/1/1"}', "is no StepBegin: sequence: Field required"),
        ("step.json", "\x00\xff", "is no StepBegin"),
        ("spec.json", "[]", "is no RunSpec"),
        ("seed", "00" * 32, "another seed than the one that was committed to"),
        ("seed", "\udcff".encode(errors="surrogateescape").decode("latin-1"), "another seed"),
    ],
)
def test_a_file_that_is_malformed_is_named(world: PodWorld, name: str, content: str, words: str) -> None:
    begin = world.begin(StepKind.BASELINE)
    values = world.environment(begin, "tuner")
    spoilt = Path(values["SARTOR_STEP_FILE"]).with_name(f"spoilt-{name}")
    spoilt.write_text(content)
    variable = {"step.json": "SARTOR_STEP_FILE", "spec.json": "SARTOR_SPEC_FILE", "seed": "SARTOR_SEED_FILE"}[name]
    assert world.run(begin, **{variable: str(spoilt)}) == 2
    assert words in world.said(begin) and str(spoilt) in world.said(begin)
    assert "Traceback" not in world.said(begin)


def test_a_file_that_is_not_there_is_named(world: PodWorld) -> None:
    begin = world.begin(StepKind.BASELINE)
    assert world.run(begin, SARTOR_STEP_FILE=str(world.root / "nowhere")) == 2
    assert "nowhere cannot be read: No such file" in world.said(begin)


def test_another_role_s_step_is_not_carried_out(world: PodWorld) -> None:
    begin = world.begin(StepKind.BASELINE)
    assert world.run(begin, "judge") == 2
    assert "is none of a judge" in world.said(begin, "judge")


def test_a_role_that_looks_needs_something_to_look_at(world: PodWorld) -> None:
    begin = world.begin(StepKind.JUDGE, commit="1" * 40, content_hash="2" * 64)
    assert world.run(begin, SARTOR_CANDIDATE_URL=None) == 2
    assert "SARTOR_CANDIDATE_URL is not set" in world.said(begin)
    assert world.run(begin, SARTOR_SEED_FILE=None) == 2
    assert "SARTOR_SEED_FILE is not set" in world.said(begin)


def test_a_scenario_that_makes_no_sense_is_a_sentence(world: PodWorld) -> None:
    world.spec = world.spec.model_copy(update={"parameters": {"concurrencies": [0]}})
    begin = world.begin(StepKind.BASELINE)
    assert world.run(begin) == 2
    assert "spec.workload.parameters.concurrencies" in world.said(begin)


def test_a_report_fits_into_a_termination_message(world: PodWorld) -> None:
    world.engine.grid = tuple(f"setting {number} " + "x" * 700 for number in range(8))
    begin = world.begin(StepKind.BASELINE)
    report = world.done(begin)
    assert isinstance(report.result, BaselineRecord) and report.result.chosen == world.engine.grid[0]
    assert len(world.said(begin).encode()) <= LONGEST_REPORT
    stored = json.loads(world.stored(report.commit, "steps/000-baseline-1-1/record.json", sealed=True))
    assert len(stored["result"]["grid"]) == 8


def test_an_unknown_role_is_told_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert pods.main(["cook"], Tools(say=lambda _: None)) == 2
    assert "planner" in capsys.readouterr().err


def test_a_defect_is_a_sentence_too(world: PodWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(pods, "work", broken)
    begin = world.begin(StepKind.BASELINE)
    assert world.run(begin) == 1
    assert world.said(begin) == "defect in role tuner: ZeroDivisionError: no"


def test_the_planner_plans_for_the_machine_that_serves() -> None:
    from run_fakes import HARDWARE, run_spec

    record = BaselineRecord(engine="vllm", version="1", fingerprint={"cpu": "Epyc", "cores": 64, "memory_bytes": 7})
    told = serving_hardware(run_spec(), record, HARDWARE)
    assert (told.cpu_model, told.cores, told.memory_bytes) == ("Epyc", 64, 7)
    assert serving_hardware(run_spec(), None, HARDWARE) == HARDWARE
    assert fingerprint(told)["cores"] == 64
    assert serving_hardware(run_spec(), record.model_copy(update={"fingerprint": {}}), HARDWARE) == HARDWARE


def test_the_planner_knows_the_device_on_which_the_baseline_was_measured() -> None:
    """The planner's own pod has none."""
    from run_fakes import HARDWARE, run_spec

    there = pod_hardware(lambda: Nvml(FakeNvml(Device(total=140 << 30))))
    record = BaselineRecord(engine="vllm", version="1", fingerprint=fingerprint(there))
    told = serving_hardware(run_spec().model_copy(update={"platform": "cuda"}), record, HARDWARE)
    assert (told.platform, told.accelerators, told.capability) == ("cuda", ("NVIDIA H200",), "9.0")
    assert (told.accelerator_bytes, told.driver) == (140 << 30, "580.95.05")
    assert "accelerators" not in fingerprint(pod_hardware(NoAccelerators))


def test_the_step_s_time_runs_from_the_pod_s_beginning(world: PodWorld) -> None:
    begin = world.begin(StepKind.BASELINE, deadline_seconds=100.0)
    values = world.environment(begin, "tuner")
    file = Path(values["SARTOR_STEP_FILE"])
    os.utime(file, (5000.0, 5000.0))
    assert contract.read("tuner", values, now=10.0, wall=5030.0).deadline == 80.0
    assert contract.read("tuner", values, now=10.0, wall=4000.0).deadline == 110.0
    late = contract.read("tuner", values, now=time.monotonic(), wall=5200.0)
    assert late.seconds() == 1.0


# --- the model --------------------------------------------------------------------------------------------------------


def test_a_synthetic_model_s_configuration_is_put_into_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, said = tmp_path / "model", tmp_path / "said"
    target.mkdir()
    source = {"synthetic": {"kind": "random", "size": "tiny"}}
    for name, value in {
        "SARTOR_MODEL": str(target),
        "SARTOR_MODEL_SOURCE": json.dumps(source),
        "SARTOR_MODEL_PART": "configuration",
        "TERMINATION_LOG": str(said),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", "/nonexistent")  # `main` sets it; this puts it back afterwards
    assert pods.main(["fetch-model"]) == 0, said.read_text()
    names = {path.name for path in target.iterdir()}
    assert "config.json" in names and not [name for name in names if name.endswith(".safetensors")]
    monkeypatch.setenv("SARTOR_MODEL_PART", "all")
    assert pods.main(["fetch-model"]) == 0, said.read_text()
    assert (target / "model.safetensors").is_file() and not (target / ".fetch").exists()


def test_a_checkpoint_that_the_image_holds_is_copied_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, said, cache = tmp_path / "model", tmp_path / "said", tmp_path / "cache"
    target.mkdir()
    held = resolve(SyntheticSource("random", "llama", "tiny", 0, "bfloat16"), cache=cache)
    (held / "mark").write_text("of the image")
    source = {"synthetic": {"kind": "random", "architecture": "llama", "size": "tiny"}}
    for name, value in {
        "SARTOR_MODEL": str(target),
        "SARTOR_MODEL_SOURCE": json.dumps(source),
        "SARTOR_CACHE": str(cache),
        "TERMINATION_LOG": str(said),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", "/nonexistent")  # `main` sets it; this puts it back afterwards
    assert pods.main(["fetch-model"]) == 0, said.read_text()
    assert (target / "mark").read_text() == "of the image"
    assert (held / "model.safetensors").read_bytes() == (target / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("much", "there"), [("all", True), ("served", False)])
def test_what_serves_does_not_get_the_answers_of_a_made_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, much: str, there: bool
) -> None:
    target, cache = tmp_path / "model", tmp_path / "cache"
    target.mkdir()
    resolve(SyntheticSource("chain", "llama", "tiny", 0, "bfloat16"), cache=cache)
    monkeypatch.setenv("SARTOR_CACHE", str(cache))
    source = {"synthetic": {"kind": "chain", "architecture": "llama", "size": "tiny"}}
    fetch({"SARTOR_MODEL": str(target), "SARTOR_MODEL_SOURCE": json.dumps(source), "SARTOR_MODEL_PART": much})
    assert (target / "chain.json").exists() is there
    assert (target / "model.safetensors").is_file()


def test_a_part_that_is_none_is_refused(tmp_path: Path) -> None:
    source = json.dumps({"synthetic": {"kind": "random", "size": "tiny"}})
    with pytest.raises(ContractError, match="'some' is none of all, served, configuration"):
        fetch({"SARTOR_MODEL": str(tmp_path), "SARTOR_MODEL_SOURCE": source, "SARTOR_MODEL_PART": "some"})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "is not set"),
        ("{}", "is no source of a model"),
        ('{"oci": {"image": "r.example.com/m@sha256:' + "0" * 64 + '"}}', "cannot be fetched yet"),
    ],
)
def test_a_model_that_cannot_be_fetched_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    for name, value in {"SARTOR_MODEL": str(tmp_path), "SARTOR_MODEL_SOURCE": source}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "said"))
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    assert pods.main(["fetch-model"]) == 2
    assert words in (tmp_path / "said").read_text()


# --- as a process -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pod_that_is_ended_says_so_and_takes_its_processes_with_it(world: PodWorld) -> None:
    """SIGTERM to a real tuner whose engine (the fall-back) waits to be ready."""
    begin = world.begin(StepKind.BASELINE)
    values = world.environment(begin, "tuner")
    process = subprocess.Popen(
        [sys.executable, "-m", "sartor_agents.pods", "tuner"],
        env={**values, "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "SARTOR_CACHE": str(world.root / "cache")},
        stderr=subprocess.PIPE,
    )
    try:
        log = world.work(begin) / "logs/baseline.log"
        deadline = time.monotonic() + 30
        while not log.exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    finally:
        process.kill()
    assert "ended from outside" in world.said(begin)
