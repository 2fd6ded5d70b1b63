"""`make bench-gpu` without a GPU: what is run when, what a second run has left to do, which figures follow from which
results; and the whole path with a tiny model (`--device cpu`).
"""

import functools
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from benchmarks.gpu import __main__ as command
from benchmarks.gpu.choice import chosen, parameters, recorded, timed, unusable
from benchmarks.gpu.ground import open_reference
from benchmarks.gpu.models import MODELS, NoRoomError, checkpoint, folder_with_room
from benchmarks.gpu.plan import DRY_STEPS, STEPS, Ledger, OtherDeviceError, Status, Step, next_step, run_all
from benchmarks.gpu.remote import Opened
from benchmarks.gpu.report import roofline_table, rows, write
from benchmarks.gpu.step import STEPS as KINDS
from benchmarks.support.record import ROOT
from imports import Imports

from sartor_agents.checkpoints import ChainFacts
from sartor_agents.judge.reference import Reference
from sartor_agents.run.device_share import Needs, TooSmallError, shares
from sartor_skills.blocks import kernels_reference

A, B = Step("a", 10), Step("b", 20, ("a",))


class World:
    """Steps that take as long as they say on a clock of their own, and end as `ends` says."""

    def __init__(self, folder: Path, ends: Mapping[str, Status] | None = None) -> None:
        self.folder, self.now, self.ends = folder, 0.0, ends or {}
        self.given: dict[str, float] = {}

    def run(self, step: Step, seconds: float) -> tuple[Status, Mapping[str, Any]]:
        self.given[step.name] = seconds
        self.now += step.seconds
        return self.ends.get(step.name, "done"), {"found": step.name}

    def all(self, seconds: float, steps: tuple[Step, ...] = (A, B)) -> list[str]:
        return run_all(steps, Ledger.open(self.folder, "cuda"), self.run, seconds=seconds, clock=lambda: self.now)


def test_everything_in_order(tmp_path: Path) -> None:
    assert World(tmp_path).all(100) == ["a", "b"]


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
    assert names[:5] == ["device", "kernels-8b", "checkpoint-1b", "gate_edit-1b", "gate_chat-1b"]
    for steps in (STEPS, DRY_STEPS):
        before: set[str] = set()
        for step in steps:
            assert set(step.after) <= before
            before.add(step.name)
            kind, _, size = step.name.partition("-")
            assert kind in KINDS and (size in MODELS or kind == "device")
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
    "copy_bytes_per_second": 3.5e12, "bfloat16_flops": 7e14, "launch_seconds": 2e-6, "uuid": "GPU-1",
}  # fmt: skip
BOUND = MODELS["32b"].step_bytes / 4e12
DECODE = {
    "status": "done", "step_bytes": MODELS["32b"].step_bytes, "step_seconds": [1.1 * BOUND] * 5, "context": 2048,
    "alone_seconds": [1.2 * BOUND] * 5, "arithmetic": "bfloat16", "load_seconds": 30.0,
}  # fmt: skip
RATIO = {
    "bar": "cuda/code-edit/32b/c1/match95/vs-vllm", "unit": "ratio", "better": "higher", "target": 6.0, "value": 7.0,
    "low": 6.5, "high": 7.5, "n": 6, "note": "vllm 1",
}  # fmt: skip


def figures(**results: Any) -> dict[str, Any]:
    return {row.bar: row for row in rows({name.replace("_", "-"): result for name, result in results.items()})}


def test_what_was_not_measured_has_no_figure() -> None:
    assert figures() == {}
    assert figures(device=DEVICE) == {}
    assert figures(device=DEVICE, decode_32b={**DECODE, "status": "failed"}) == {}
    assert figures(edit_32b={"status": "timeout", "rows": [RATIO]}) == {}


def test_a_step_is_held_against_the_bytes_that_it_must_read() -> None:
    assert MODELS["32b"].step_bytes == pytest.approx(64e9, rel=0.02)
    row = figures(device=DEVICE, decode_32b=DECODE)["cuda/decode/32b/c1/over-bound"]
    assert row.value == pytest.approx(1.1) and row.target == 1.15 and row.met
    assert f"(else {1200 * BOUND:.2f} ms)" in row.note


def test_what_the_evaluator_said_is_the_figure() -> None:
    row = figures(edit_32b={"status": "done", "rows": [RATIO]})[RATIO["bar"]]
    assert (row.value, row.low, row.n, row.met) == (7.0, 6.5, 6, True)


KERNEL = {"kernel": "swiglu", "rows": 64, "context": 2048, "drafts": 0, "error": 1.5, "block_tokens": 64, "moved": 4e8}
ATTEND = {**KERNEL, "kernel": "attend"}
KERNELS = [
    {**KERNEL, "seconds": {"triton": [1.2e-4] * 3, "torch": [3e-4] * 3}},
    {**KERNEL, "rows": 1, "moved": 1e3, "seconds": {"triton": [2.2e-6] * 3, "torch": [9e-6] * 3}},
    {**KERNEL, "kernel": "choose", "error": 0.0, "seconds": {"triton": [2e-4] * 3, "torch": [1.1e-4] * 3}},
    {**ATTEND, "block_tokens": 32, "seconds": {"triton": [2e-4] * 3}},
    {**ATTEND, "block_tokens": 128, "seconds": {"triton": [1.25e-4] * 3}},
]


ATTENDED = {**ATTEND, "seconds": {"triton": [2e-4] * 3}}


def test_the_faster_kernel_is_kept_and_the_best_block() -> None:
    found = timed(KERNELS, DEVICE)
    assert chosen(found) == {"swiglu": "triton", "choose": "torch", "attend": "triton"}
    assert parameters(found) == {"TORCH_KERNELS": "choose", "ATTENTION_BLOCK": 128}


@pytest.mark.parametrize("error", [17.0, float("nan"), float("inf")])
def test_a_kernel_that_is_wrong_is_not_used_however_fast(error: float) -> None:
    fast = {"triton": [1e-5] * 3, "torch": [3e-4] * 3}
    found = timed(
        [{**KERNEL, "seconds": fast}, {**KERNEL, "rows": 1, "error": error, "seconds": fast}, ATTENDED], DEVICE
    )
    assert chosen(found) == {"swiglu": "torch", "attend": "triton"}
    assert unusable([{**KERNEL, "error": error, "seconds": fast}, ATTENDED]) == []
    (lost,) = unusable([{**ATTENDED, "error": error}])
    assert lost.startswith("attend (64 rows, context 2048, 0 drafts, block of 64) by ")
    kernels = [{**KERNEL, "error": error, "seconds": fast}, ATTENDED]
    row = figures(device=DEVICE, kernels_8b={"status": "done", "kernels": kernels})[
        "cuda/kernel/swiglu/8b/rows64/of-bound"
    ]
    assert "torch's kernel is kept" in row.note and "it is wrong and not used" in row.note


def test_of_tokens_the_rows_that_differ_are_counted() -> None:
    """Token ids lie far apart: as numbers, one row in which rounding decided would be hundreds of roundings."""
    seconds = {"triton": [1e-5] * 3}
    draws = [{**KERNEL, "kernel": "draw_top_p", "error": error, "seconds": seconds} for error in (0.0, 1.0, 2.0)]
    assert [one.right for one in timed(draws, DEVICE)] == [True, True, False]
    assert len(unusable(draws)) == 1


def test_a_kernel_is_held_against_the_longer_of_its_bytes_and_a_launch() -> None:
    found = figures(device=DEVICE, kernels_8b={"status": "done", "kernels": KERNELS})
    share = {bar: row.value for bar, row in found.items()}
    assert share["cuda/kernel/swiglu/8b/rows64/of-bound"] == pytest.approx(1e-4 / 1.2e-4)
    assert share["cuda/kernel/swiglu/8b/rows1/of-bound"] == pytest.approx(2e-6 / 2.2e-6)
    assert share["cuda/kernel/choose/8b/rows64/of-bound"] == pytest.approx(1e-4 / 1.1e-4)  # PyTorch's, which is kept
    assert share["cuda/kernel/attend/8b/rows64/of-bound"] == pytest.approx(0.8)  # with the better block
    assert "torch's kernel is kept" in found["cuda/kernel/choose/8b/rows64/of-bound"].note
    slow = [{**KERNEL, "seconds": {"triton": [2e-4] * 3, "torch": [3e-4] * 3}}, *KERNELS[3:]]
    (row, _) = rows({"device": DEVICE, "kernels-8b": {"status": "done", "kernels": slow}})
    assert row.value == pytest.approx(0.5) and row.met is False


def test_sampling_is_measured_with_rows_that_sample_and_with_rows_that_do_not() -> None:
    import torch
    from benchmarks.gpu.roofline import checks

    case = {"rows": 2, "context": 40, "drafts": 1, "splits": 2, "block_tokens": 64}
    found = {check.name: check for check in checks(MODELS["tiny"], torch.device("cpu"), **case)}
    assert found["draw_top_p"].moved == 2 * MODELS["tiny"].shape.vocab * 4
    assert found["draw_greedy"].moved < 100  # a launch is what bounds it
    for name in ("draw_greedy", "draw_top_p"):
        assert found[name].error() == 0
        assert found[name].run(kernels_reference, 0).tolist() == found[name].run(kernels_reference, 0).tolist()


def test_the_table_shows_both_kernels_with_their_shares() -> None:
    table = roofline_table({"device": DEVICE, "kernels-8b": {"status": "done", "kernels": KERNELS}})
    assert "| choose | 8b | 64 | 2048 | 64 | 200.0 | 0.50 | 110.0 | 0.91 | torch | 0.0 rows |" in table
    assert "| attend | 8b | 64 | 2048 | 32 | 200.0 | 0.50 | – | – |  | 1.5 roundings |" in table
    assert roofline_table({}) == "The device was not measured.\n"


def test_the_choice_is_recorded_with_its_machine_and_found_again(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, "cuda")
    assert recorded(tmp_path, "32b") == {}
    ledger.keep("device", "done", 1, {name: value for name, value in DEVICE.items() if name != "status"})
    ledger.keep("kernels-8b", "done", 1, {"kernels": KERNELS})
    write(ledger.results, tmp_path, seconds=1, command="c", record=False)
    content = json.loads((tmp_path / "kernel-choice-8b.json").read_text())
    assert content["machine"]["uuid"] == "GPU-1" and content["dry_run"] is False
    assert content["parameters"] == recorded(tmp_path, "8b") == recorded(tmp_path, "32b")
    assert content["parameters"]["TORCH_KERNELS"] == "choose"


def test_figures_are_recorded_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.report.RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    results = {"device": DEVICE, "decode-32b": DECODE}
    write(results, tmp_path, seconds=1, command="c", record=False)
    assert not list((tmp_path / "results").iterdir())
    write(results, tmp_path, seconds=1, command="c", record=True)
    content = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert content == json.loads((tmp_path / "rows.json").read_text())
    assert content["bench"] == "gpu" and content["machine"]["accelerator"] == "NVIDIA Example"
    assert all(row["bar"].startswith("cuda/") for row in content["rows"])


def test_a_dry_run_never_looks_like_a_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.gpu.report.RESULTS", tmp_path / "results")
    results = {"device": DEVICE, "decode-tiny": DECODE, "edit-tiny": {"status": "done", "rows": [RATIO]}}
    found = write(results, tmp_path, seconds=1, command="c", record=False, dry=True)
    assert len(found) == 2
    for row in found:
        assert row.bar.startswith("dry-run/") and row.target is None and row.met is None and "a dry run" in row.note
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["bench"] == "gpu-dry-run" and content["machine"]["accelerator"] is None
    with pytest.raises(ValueError, match="not recorded"):
        write(results, tmp_path, seconds=1, command="c", record=True, dry=True)
    with pytest.raises(SystemExit):
        command.main(["--device", "cpu", "--record", "--out", str(tmp_path / "out")])
    assert "--record is for measurements on a GPU" in capsys.readouterr().err


def test_results_of_a_dry_run_and_of_a_device_never_share_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger.open(tmp_path / "a", "cpu")
    with pytest.raises(OtherDeviceError, match="--device cpu"):
        Ledger.open(tmp_path / "a", "cuda")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "step-device.json").write_text("{}")
    with pytest.raises(OtherDeviceError, match="does not say of which device"):
        Ledger.open(tmp_path / "old", "cuda")
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path / "a"), "--steps", "device"])
    assert "give another --out" in capsys.readouterr().err


def test_packages_that_serving_needs_are_named_when_they_are_missing() -> None:
    assert command.missing() == []
    assert command.missing(lambda module: None if module in ("uvicorn", "yaml") else object()) == ["uvicorn", "pyyaml"]


def test_a_bare_machine_finds_our_own_packages_and_is_told_of_all_others() -> None:
    """What `make bench-gpu` imports there, down to what is imported when it is needed."""
    (given,) = re.findall(r"^\tPYTHONPATH=([^$]+).*-m benchmarks\.gpu", (ROOT / "Makefile").read_text(), re.MULTILINE)
    roots = [ROOT, *(ROOT / folder for folder in given.split(":"))]
    entries = ["benchmarks.gpu.__main__", "benchmarks.gpu.step", "sartor_agents.baselines.transformers_server"]
    found = Imports(roots, lazy=True).follow([*entries, "sartor_agents.judge.reference_device"])
    ours = {"sartor_agents.judge.gate", "sartor_api.search.records", "sartor_skills.catalog"}
    assert ours <= set(found.followed), "found in the folders that the Makefile names"
    # With transformers and pydantic; and `sartor_skills.blocks`, which lie beside the recipes and are found at import.
    along = {"huggingface_hub", "pydantic_core", "sartor_skills"}
    assert set(found.others) - along <= set(command.PACKAGES), "named where they are missing"


def test_a_stack_sees_what_was_brought_to_a_bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import ground

    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'agents' / 'src'}:{tmp_path / 'site'}")
    monkeypatch.setattr(ground, "sandbox_program", lambda: None)
    access = ground.stack_access(tmp_path / "work-edit-8b")
    assert access.nodes is None
    assert access.environment == {"PYTHONPATH": str(tmp_path / "site"), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    monkeypatch.setattr(ground, "sandbox_program", lambda: "/usr/bin/bwrap")
    assert ground.stack_access(tmp_path / "work-edit-8b").environment == {}


def test_a_measurement_has_the_time_that_is_left_when_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 32 billion parameters judging and loading take minutes of a step."""
    import torch
    from benchmarks.gpu.served import Site
    from benchmarks.support.arms import Ground, Workbench

    now = [100.0]
    site = Site(tmp_path, torch.device("cuda"), "32b", tmp_path, until=1000.0, clock=lambda: now[0])
    assert site.policy().wall_clock == 900
    assert site.policy(share=1 / 3).wall_clock == 300
    for alone in (True, False):
        now[0], events = 100.0, list[Any]()
        work = Workbench(tmp_path, "32b", on=cast(Ground, SimpleNamespace(judged_alone=alone)))

        def judged(*_: Any, events: list[Any] = events) -> None:
            events.append("judged")
            now[0] += 200

        def measured(*given: Any, events: list[Any] = events) -> None:
            events.append(given[-1].wall_clock)

        monkeypatch.setattr(work, "judged", judged)
        monkeypatch.setattr(work, "_measured", measured)
        monkeypatch.setattr(work, "baseline", lambda _: nullcontext())
        work.against(cast(Any, None), cast(Any, None), cast(Any, None), site.policy)
        assert events == ["judged", 700]


def test_a_checkpoint_that_cannot_be_made_is_not_tried_in_the_process_that_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from benchmarks.gpu import step

    class Failed:
        exitcode = 1

        def __init__(self, **_: Any) -> None: ...
        def start(self) -> None: ...
        def join(self) -> None: ...

    monkeypatch.setattr(step.multiprocessing, "get_context", lambda _: SimpleNamespace(Process=Failed))
    monkeypatch.setattr(step, "checkpoint", lambda *_: pytest.fail("made here"))
    with pytest.raises(step.CannotRunError, match="could not be made"):
        step.Job("tiny", tmp_path, torch.device("cpu"), (tmp_path,), 60).site()


GIB = 1 << 30
H200, H100 = 150_754_820_096, 85 * 10**9


def needs(size: str, sequences: int, length: int) -> Needs:
    model = MODELS[size]
    tokens = sequences * length
    return Needs.of(
        model.weight_bytes, tokens=tokens, token_bytes=model.token_bytes, vocabulary=model.shape.vocab
    )  # fmt: skip


def test_both_arms_fit_an_h200_at_32b_and_the_reference_beside_one_of_them() -> None:
    model = MODELS["32b"]
    found = shares(H200, needs("32b", 4, 2048))
    assert found.stack + found.baseline <= H200
    assert found.utilization * H200 >= found.baseline
    assert found.judged_alone and found.judge == "cuda"
    assert found.stack + model.weight_bytes <= H200
    with pytest.raises(TooSmallError, match=r"both arms need .* GiB and .* GiB"):
        shares(H100, needs("32b", 4, 2048))


def test_a_small_model_is_judged_beside_its_baseline() -> None:
    found = shares(H200, needs("8b", 4, 2048))
    assert not found.judged_alone and (found.judge, found.evaluator) == ("cuda", "cuda")


def test_a_stack_of_the_bench_leaves_the_baseline_its_share(tmp_path: Path) -> None:
    """The recipe has room for 64 sequences, the workload four: at 32 billion parameters 64 would take the baseline's."""
    import torch
    from benchmarks.gpu.ground import ground
    from benchmarks.support.arms import Envelope

    envelope = Envelope(1792, 256, 2048, concurrency=4)
    made, baseline = ground(
        MODELS["32b"], tmp_path, envelope, torch.device("cuda"), "code-edit", tmp_path / "home", H200
    )
    assert made.cache_bytes is not None
    assert 4 * 2048 * MODELS["32b"].token_bytes <= made.cache_bytes < 64 * 2048 * MODELS["32b"].token_bytes
    assert baseline.engine.name == "transformers" and baseline.engine.fallback_reason == "vLLM cannot be imported here"


def test_a_checkpoint_goes_where_it_is_already_or_where_there_is_room(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert folder_with_room(1, [first, second]) == first
    (second / "chain-1b-cpu").mkdir(parents=True)
    assert folder_with_room(1 << 60, [first, second], ["chain-1b-cpu"]) == second
    with pytest.raises(NoRoomError, match=r"first: .* GiB; .*second.*--models"):
        folder_with_room(1 << 60, [first, second])


def test_a_checkpoint_of_the_device_is_a_chain_and_the_same_each_time(tmp_path: Path) -> None:
    import torch

    one, two = (checkpoint(MODELS["tiny"], tmp_path / name, torch.device("cpu")) for name in "ab")
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert checkpoint(MODELS["tiny"], tmp_path / "a", torch.device("cpu")) == one
    facts = ChainFacts.load(one)
    start = facts.first_word + 5
    check = Reference(one).check([facts.first_word + 70, start], facts.walk(start, 60))
    assert all(check.agrees)
    assert min(check.gaps) > 1  # a margin that no rounding turns


def test_the_reference_reads_elsewhere_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The bench's own process must not stay on the device: there it would be a stranger in every window."""
    import torch

    place = checkpoint(MODELS["tiny"], tmp_path, torch.device("cpu"))
    opened = Opened(functools.partial(open_reference, device="cpu"))
    remote: Any = opened(place)
    here = Reference(place)
    prompt, answer = [300, 301], [302, 303, 9]
    assert remote.check(prompt, answer).choices == here.check(prompt, answer).choices
    assert remote.rounded(prompt, answer, layers=False, logits=True).gaps == pytest.approx(
        here.rounded(prompt, answer, layers=False, logits=True).gaps, abs=1e-3
    )
    assert remote.generate(prompt, 3) == here.generate(prompt, 3)
    with pytest.raises(RuntimeError, match="ValueError: the prompt has no tokens"):
        remote.check([], answer)
    pid = remote.pid
    assert psutil.pid_exists(pid)
    opened.release()
    assert not psutil.pid_exists(pid)
    with pytest.raises(RuntimeError, match="process is gone"):
        remote.check(prompt, answer)


def dry(out: Path, models: Path, *more: str) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--out", str(out), "--models", str(models)]
    return [*command, *more]


def test_a_dry_run_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed while the checkpoint is made: nothing half-made counts, and what was done is not repeated."""
    out, models = tmp_path / "out", tmp_path / "models"
    only = ("--steps", "device", "checkpoint-tiny", "decode-tiny")
    with subprocess.Popen(dry(out, models, *only), cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("checkpoint-tiny: up to"):
                break
        first.kill()
    made = (out / "step-device.json").stat().st_mtime_ns
    done = subprocess.run(dry(out, models, *only), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "step-device.json").stat().st_mtime_ns == made
    assert "dry-run/cuda/decode/tiny/c1/over-bound" in done.stdout
    assert not list(models.glob(".*.partial")) or (models / "chain-tiny-cpu").is_dir()


@pytest.mark.exhaustive
def test_the_whole_path_from_making_the_checkpoint_to_rows(tmp_path: Path) -> None:
    """Kernels in the interpreter, the CUDA recipe served over HTTP with reference kernels, judge, evaluator, baseline."""
    out = tmp_path / "out"
    arguments = dry(out, tmp_path / "models", "--minutes", "25")
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=1600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((out / "rows.json").read_text())
    bars = {row["bar"] for row in content["rows"]}
    assert all(bar.startswith("dry-run/") for bar in bars)
    for wanted in (
        "gate/tiny/code-edit/failed-checks", "gate/tiny/chat/failed-checks", "decode/tiny/c1/over-bound",
        "code-edit/tiny/c1/match95/vs-transformers", "chat/tiny/c1/output-rate-vs-transformers",
        "kernel/attend/tiny/rows2/of-bound",
    ):  # fmt: skip
        assert f"dry-run/cuda/{wanted}" in bars
    (edit,) = (row for row in content["rows"] if row["bar"].endswith("match95/vs-transformers"))
    assert "judged, over HTTP, 6 interleaved pairs" in edit["note"] and edit["n"] == 6
    assert list(out.glob("work-edit-tiny/samples/*/*.parquet"))
