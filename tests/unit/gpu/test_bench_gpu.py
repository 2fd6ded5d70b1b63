"""`make bench-gpu` without a GPU: what is run when, what a second run has left to do, which figures follow from which
results.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu import __main__ as command
from benchmarks.gpu.plan import STEPS, Ledger, Status, Step, next_step, run_all
from benchmarks.gpu.report import ratio_row, roofline_table, rows, write

A, B, C = Step("a", 10), Step("b", 20, ("a",)), Step("c", 5, unless="b")


class World:
    """Steps that take as long as they say on a clock of their own, and end as `ends` says."""

    def __init__(self, folder: Path, ends: Mapping[str, Status] | None = None) -> None:
        self.folder, self.now, self.ends = folder, 0.0, ends or {}
        self.given: dict[str, float] = {}

    def run(self, step: Step, seconds: float) -> tuple[Status, Mapping[str, Any]]:
        self.given[step.name] = seconds
        self.now += step.seconds
        return self.ends.get(step.name, "done"), {"found": step.name}

    def all(self, seconds: float, steps: tuple[Step, ...] = (A, B, C)) -> list[str]:
        return run_all(steps, Ledger.open(self.folder), self.run, seconds=seconds, clock=lambda: self.now)


def test_everything_in_order_and_no_fallback_that_is_not_needed(tmp_path: Path) -> None:
    assert World(tmp_path).all(100) == ["a", "b"]


def test_a_fallback_runs_after_what_failed(tmp_path: Path) -> None:
    assert World(tmp_path, {"b": "failed"}).all(100) == ["a", "b", "c"]


def test_nothing_is_begun_that_would_not_end_in_time_and_nothing_outlives_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.all(25) == ["a"]
    assert world.given["a"] == 15  # half more than expected
    assert World(tmp_path / "other").all(12) == ["a"]
    world = World(tmp_path / "third")
    assert world.all(31) == ["a", "b"]
    assert world.given["b"] == 21  # what is left


def test_a_second_run_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    assert World(tmp_path, {"b": "timeout"}).all(30) == ["a", "b"]
    assert World(tmp_path).all(100) == ["b"]
    assert World(tmp_path).all(100) == []


def test_what_depends_on_a_failure_waits_for_the_next_run(tmp_path: Path) -> None:
    assert World(tmp_path, {"a": "failed"}).all(100) == ["a"]
    assert World(tmp_path).all(100) == ["a", "b"]


def test_a_result_that_was_cut_off_counts_as_not_there(tmp_path: Path) -> None:
    World(tmp_path).all(100)
    (tmp_path / "step-b.json").write_text('{"status": "do')
    assert World(tmp_path).all(100) == ["b"]


def test_the_real_plan_begins_with_proof_and_every_name_in_it_exists() -> None:
    names = [step.name for step in STEPS]
    assert len(set(names)) == len(names)
    assert names[:3] == ["device", "kernels-8b", "gate-1b"]
    for place, step in enumerate(STEPS):
        assert set(step.after) <= set(names[:place])
        assert step.unless is None or step.unless in names[:place]
    step = next_step(STEPS, Ledger(Path()), [], 10_000)
    assert step is not None and step.name == "device"


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_step_is_a_process_and_its_result_is_what_it_wrote(tmp_path: Path) -> None:
    wrote = python("import sys, pathlib; pathlib.Path(sys.argv[-1]).write_text('{\"x\": 1}')")
    assert command.run_step(A, 60, tmp_path, wrote) == ("done", {"x": 1})


def test_a_step_that_fails_keeps_what_it_said(tmp_path: Path) -> None:
    status, content = command.run_step(A, 60, tmp_path, python("print('why'); raise SystemExit(3)"))
    assert (status, content) == ("failed", {"message": "exit code 3", "log": ["why"]})


def test_a_step_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    text = (
        "import subprocess, sys, time\n"
        "made = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(child)!r}, 'w').write(str(made.pid))\n"
        "time.sleep(60)"
    )
    status, content = command.run_step(A, 3, tmp_path, python(text))
    assert status == "timeout" and "3 s" in content["message"]
    stat = Path(f"/proc/{child.read_text()}/stat")

    def gone() -> bool:
        try:
            return stat.read_text().split()[2] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    until = time.monotonic() + 10  # it was told to end; when it gets to it is the kernel's to say
    while not gone() and time.monotonic() < until:
        time.sleep(0.02)
    assert gone()


def test_without_a_gpu_a_step_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a device here")
    status, content = command.run_step(Step("device", 60), 60, tmp_path)
    assert status == "failed"
    assert any("sees no CUDA device" in line for line in content["log"])


DEVICE = {
    "status": "done", "name": "NVIDIA Example", "torch": "2.11", "cuda": "13.0", "read_bytes_per_second": 4e12,
    "copy_bytes_per_second": 3.5e12, "bfloat16_flops": 7e14,
}  # fmt: skip
WEIGHTS = 65_524_246_528
BOUND = (WEIGHTS - 2 * 151936 * 5120) / 4e12
OWN = {
    "status": "done", "weight_bytes": WEIGHTS, "plain": [1 / (1.1 * BOUND)] * 5,
    "edit": {"95": {"rates": [7 / BOUND] * 5}, "0": {"rates": [0.9 / BOUND] * 5}},
}  # fmt: skip
VLLM = {
    "status": "done", "version": "0.26.0", "plain": [1 / BOUND] * 5,
    "ngram": [{"rates": [2 / BOUND] * 5}, {"rates": [3 / BOUND] * 5}],
}  # fmt: skip


def figures(**results: Any) -> dict[str, Any]:
    return {row.bar: row for row in rows({name.replace("_", "-"): result for name, result in results.items()})}


def test_what_was_not_measured_has_no_figure() -> None:
    assert figures() == {}
    assert figures(device=DEVICE) == {}
    assert figures(device=DEVICE, own_32b_edit={**OWN, "status": "failed"}) == {}
    assert not any("vllm" in bar for bar in figures(device=DEVICE, own_32b_edit=OWN))


def test_a_step_is_held_against_the_bytes_that_it_must_read() -> None:
    row = figures(device=DEVICE, own_32b_edit=OWN)["cuda/decode/32b/c1/over-bound"]
    assert row.value == pytest.approx(1.1) and row.target == 1.15 and row.met


def test_code_edits_are_compared_with_the_best_that_the_baseline_can() -> None:
    found = figures(device=DEVICE, own_32b_edit=OWN, vllm_32b_edit=VLLM)
    assert found["cuda/code-edit/32b/match95/vs-vllm"].value == pytest.approx(7)
    assert found["cuda/code-edit/32b/match95/vs-vllm"].met
    assert found["cuda/code-edit/32b/match95/vs-vllm-ngram"].value == pytest.approx(7 / 3)
    assert found["cuda/code-edit/32b/match0/vs-vllm"].met is False  # 0.9 where 0.97 is asked
    assert "0.26.0" in found["cuda/code-edit/32b/match0/vs-vllm"].note
    other = figures(device=DEVICE, own_32b_edit=OWN, transformers_32b_edit={**VLLM, "ngram": ()})
    assert other["cuda/code-edit/32b/match95/vs-transformers"].target is None  # the bars are against vLLM


def test_chat_is_compared_at_the_concurrencies_that_both_have() -> None:
    own = {"status": "done", "chat": {str(c): {"output_tokens_per_second": 100.0 * c} for c in (1, 64, 128)}}
    other = {
        "status": "done",
        "version": "x",
        "chat": {str(c): {"output_tokens_per_second": 90.0 * c} for c in (1, 128)},
    }
    found = figures(own_8b_chat=own, vllm_8b_chat=other)
    assert (
        found["cuda/chat/8b/c128/vs-vllm"].met and found["cuda/chat/8b/c1/vs-vllm"].met is False
    )  # 1.11 of 1.10 and 1.15
    assert "cuda/chat/8b/c64/vs-vllm" not in found and "cuda/chat/8b/c64/tokens-per-second" in found


def test_a_wrong_token_is_a_figure_that_is_not_met() -> None:
    gate = {"agreed": 500, "ties": 3, "wrong_count": 0}
    found = figures(gate_1b={"status": "done", "alone": gate, "batched": gate, "drafted": {**gate, "wrong_count": 1}})
    assert found["cuda/gate/1b/alone/wrong-tokens"].met and found["cuda/gate/1b/drafted/wrong-tokens"].met is False


KERNEL = {"kernel": "attention", "rows": 64, "context": 2048, "drafts": 0, "splits": 1, "error": 1.5}


def test_the_best_block_size_of_a_kernel_is_its_figure() -> None:
    kernels = [
        {**KERNEL, "block_tokens": 32, "bytes_per_second": [2e12] * 3},
        {**KERNEL, "block_tokens": 128, "bytes_per_second": [3.4e12] * 3},
    ]
    results = {"device": DEVICE, "kernels-8b": {"status": "done", "kernels": kernels}}
    (row,) = rows(results)
    assert (row.bar, row.value) == ("cuda/kernel/attention/8b/rows64/of-bandwidth", pytest.approx(0.85))
    assert row.met and "block of 128" in row.note
    assert "| attention | 8b | 64 | 2048 | 32 | 2.00 | 0.50 | 1.5 |" in roofline_table(results)
    assert roofline_table({}) == "The device was not measured.\n"


def test_a_ratio_has_an_interval_over_both_sides() -> None:
    row = ratio_row("x", [2.0, 2.2, 1.8], [1.0, 1.1, 0.9], 1.5)
    assert row.value == 2.0 and row.low < 1.8 and row.high > 2.2 and row.met is True
    assert ratio_row("x", [2.0] * 3, [1.0] * 3, 2.1).met is False


def test_figures_are_recorded_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.report.RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    results = {"device": DEVICE, "own-32b-edit": OWN}
    write(results, tmp_path, seconds=1, command="c", record=False)
    assert not list((tmp_path / "results").iterdir())
    write(results, tmp_path, seconds=1, command="c", record=True)
    content = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert content == json.loads((tmp_path / "rows.json").read_text())
    assert content["bench"] == "gpu" and content["machine"]["accelerator"] == "NVIDIA Example"
    assert all(row["bar"].startswith("cuda/") for row in content["rows"])


GATE = """
import json, pathlib, sys
from benchmarks.gpu.models import write_config
from benchmarks.gpu.step import gate_step
folder = pathlib.Path(sys.argv[1])
json.dump(gate_step("tiny", write_config("tiny", folder), where="cpu"), (folder / "out.json").open("w"))
"""


def test_the_gate_itself_on_a_tiny_model_on_the_cpu(tmp_path: Path) -> None:
    """Chain weights made tensor by tensor, the engine with and without drafts, and `transformers` agree on every token."""
    root = Path(command.__file__).parents[2]
    subprocess.run([sys.executable, "-c", GATE, str(tmp_path)], cwd=root, check=True, timeout=300)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["requests"] == found["chain"] == found["drafted_equal"] == 8
    for how in ("alone", "batched", "drafted"):
        assert found[how]["wrong_count"] == 0
        assert found[how]["agreed"] + found[how]["ties"] == 8 * 64
    right, wrong = found["accepted"][0], found["accepted"][4]
    assert right > 50 and wrong < 10  # 100 % and 0 % of 64 tokens
