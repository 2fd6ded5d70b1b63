"""What a planner can look up."""

import json
from pathlib import Path

import pytest

from sartor_agents.backends.conversation.tool import call_tool, toolbox
from sartor_agents.backends.protocol import HardwareFacts, PlanContext
from sartor_agents.tools.device_rates import Rates, Unknown
from sartor_agents.tools.planner import RooflineEstimate, RooflineParameters
from sartor_agents.tools.roles import planner_tools
from sartor_agents.tools.roofline import RooflineError, decoder_shape, machine, roofline
from sartor_api.search.records import (
    ArmSummary,
    BaselineRecord,
    ConditionResult,
    FailureClass,
    Implementation,
    Judgement,
    Measurement,
    Plan,
    Speedup,
    Verdict,
)
from sartor_api.search.state import Attempt, Round
from sartor_skills.library import library_root

from .conftest import HARDWARE, run_spec

LLAMA = {
    "hidden_size": 512, "num_hidden_layers": 16, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
    "intermediate_size": 1408, "vocab_size": 8192,
}  # fmt: skip
SPEEDUP = Speedup(value=2.0, low=1.9, high=2.1, n=8)
ARM = ArmSummary(metric=100.0, requests=40, ttft_p50=0.012)
REJECTED = Verdict(
    gate="accuracy", passed=False, reason="OutputDiverged", message="token 7", failure_class=FailureClass.CANDIDATE
)
ROUNDS = (
    Round(
        number=1, closed=True, kept=True, plan=Plan(round=1, action="build", hypothesis="compile the decoder"),
        attempts=(Attempt(number=1, implementation=Implementation(commit="c" * 40, summary="did it")),),
        measurement=Measurement(
            metric="tokens", speedup=SPEEDUP,
            conditions=(ConditionResult(name="c1", ratio=SPEEDUP, candidate=ARM, baseline=ARM),),
        ),
    ),
    Round(
        number=2, closed=True, plan=Plan(round=2, action="build", parent="c" * 40, hypothesis="skip a layer"),
        attempts=(Attempt(number=1, judgement=Judgement(verdicts=(REJECTED,)), failure=REJECTED),),
    ),
)  # fmt: skip


@pytest.fixture
def context(tmp_path: Path) -> PlanContext:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return PlanContext(
        run=run_spec(), round=3, model_dir=tmp_path, hardware=HARDWARE, rounds=ROUNDS, incumbent=1,
        baseline=BaselineRecord(engine="vllm", version="1", chosen="plain"), skills_root=library_root(),
    )  # fmt: skip


def asked(context: PlanContext, name: str, /, **arguments: object) -> str:
    return call_tool(toolbox(planner_tools(context).tools), name, json.dumps(arguments)).text


def test_history_tells_every_round(context: PlanContext) -> None:
    text = asked(context, "history")
    assert "incumbent: round 1" in text and "round 1: kept, 2.00x [1.90, 2.10] (n=8)" in text
    assert "round 2: rejected: OutputDiverged" in text and f"build from {'c' * 12}: skip a layer" in text


def test_measurements_are_shown_by_condition(context: PlanContext) -> None:
    text = asked(context, "measurements", round=1)
    assert "c1: 2.00x" in text and "baseline: 100, 40 requests, 0 failed, TTFT p50 12.00 ms" in text
    assert "no valid measurement" in asked(context, "measurements", round=2)
    assert "there are: 1, 2" in asked(context, "measurements", round=9)


def test_issues_are_what_gates_said(context: PlanContext) -> None:
    assert asked(context, "issues") == "round 2, attempt 1: accuracy: OutputDiverged\n  token 7"
    assert "Nothing" in asked(context.model_copy(update={"rounds": ()}), "issues")


def test_skills_come_with_skills_alone(context: PlanContext) -> None:
    with_skills = {tool.name for tool in planner_tools(context).tools}
    without = {tool.name for tool in planner_tools(context.model_copy(update={"skills_root": None})).tools}
    assert with_skills - without == {"list_skills", "read_skill"}


def test_the_bound_of_a_decoder_at_one_sequence_is_its_bytes_over_the_bandwidth(context: PlanContext) -> None:
    """55.6 M parameters, of which 4.2 M are embeddings that no step multiplies with: 102.8 MB at 40 GB/s."""
    shape = decoder_shape(LLAMA)
    assert shape.stored == 16 * (512 * 64 * 24 + 3 * 512 * 1408) + 2 * 8192 * 512
    assert shape.stored - shape.matrices == 8192 * 512
    assert shape.kv_elements == 2 * 16 * 4 * 64
    text = asked(context, "roofline", context=1)
    assert "bound: 389.2 tokens/s" in text and "limited by memory" in text


def test_both_bounds_and_which_one_holds() -> None:
    shape = decoder_shape(LLAMA)
    one = roofline(shape, weight_bytes=2, cache_bytes=2, concurrency=1, context=100, bandwidth=1e12, peak=1e13)
    many = roofline(shape, weight_bytes=2, cache_bytes=2, concurrency=1000, context=100, bandwidth=1e12, peak=1e13)
    assert (one.limited_by, many.limited_by) == ("memory", "arithmetic")
    assert one.bytes_read == 2 * (shape.matrices + 100 * shape.kv_elements)
    assert many.operations == 1000 * (2 * shape.matrices + 4 * 100 * shape.query_elements)
    assert many.bound == pytest.approx(1000 / (many.operations / 1e13))


def test_a_mixture_of_experts_reads_more_experts_for_more_sequences() -> None:
    mixture = decoder_shape({**LLAMA, "num_local_experts": 8, "num_experts_per_tok": 2})
    dense = decoder_shape(LLAMA)
    assert mixture.matrices - dense.matrices == 16 * (3 * 512 * 1408 + 512 * 8)

    def read(concurrency: int) -> float:
        return roofline(
            mixture, weight_bytes=1, cache_bytes=0, concurrency=concurrency, context=1, bandwidth=None, peak=None
        ).bytes_read

    assert read(1) == mixture.matrices and read(100) == mixture.stored


def test_what_is_not_known_is_said(context: PlanContext) -> None:
    blind = context.model_copy(update={"hardware": HARDWARE.model_copy(update={"read_bandwidth": None})})
    assert "not known" in asked(blind, "roofline")
    assert machine(HARDWARE.model_copy(update={"accelerators": ("NVIDIA H100 80GB HBM3",) * 2})) == (6.7e12, 1.978e15)
    assert machine(HARDWARE.model_copy(update={"accelerators": ("Mystery 9000",)}))[1] is None
    with pytest.raises(RooflineError, match="layers other than attention"):
        decoder_shape({**LLAMA, "layer_types": ["mamba", "full_attention"]})
    with pytest.raises(RooflineError, match="intermediate_size"):
        decoder_shape({name: value for name, value in LLAMA.items() if name != "intermediate_size"})


def on_a_device(context: PlanContext, found: Rates | Unknown, *names: str) -> str:
    hardware = HardwareFacts(platform="cuda", cores=16, memory_bytes=1 << 37, accelerators=names)
    tool = RooflineEstimate(context.model_copy(update={"hardware": hardware}), rates=lambda _: found)
    return tool.call(RooflineParameters(context=1)).text


def test_on_a_device_its_measured_rates_count_and_not_the_data_sheet(context: PlanContext) -> None:
    text = on_a_device(context, Rates(4e12, 7.8e14, ("NVIDIA H200",)), "NVIDIA H200")
    assert "measured on NVIDIA H200: 4.00 TB/s read, 780 Tflop/s" in text
    bound = float(text.partition("bound: ")[2].partition(" tokens/s")[0])
    assert bound == pytest.approx(100 * 389.2, rel=1e-3)  # a hundred times the bandwidth of the processor above


def test_a_device_that_was_not_measured_says_so(context: PlanContext) -> None:
    unknown = Unknown("NVML shows no device here")
    text = on_a_device(context, unknown, "NVIDIA H200")
    assert "Not measured on this device (NVML shows no device here); figures taken: the maker's data sheet." in text
    text = on_a_device(context, unknown, "Mystery 9000")
    assert "figures taken: none" in text and "bandwidth is not known" in text
