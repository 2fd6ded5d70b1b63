"""The reference for models that do not fit in fp32: the same reading, with weights on a device or fetched anew each time."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from sartor_agents.checkpoints import make
from sartor_agents.judge.reference import Reference
from sartor_agents.judge.reference_device import DeviceReference
from sartor_agents.measurement.messages import EvaluateRequest, JudgeRequest
from sartor_agents.roles.judge import open_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROMPT = [300, 12, 45, 400, 33, 301]
ANSWER = [7, 300, 300, 21, 44]


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(
        "random", request.param, "tiny", 0, tmp_path_factory.mktemp("reference") / "m", shard_bytes=200_000
    ).path


@pytest.mark.parametrize("free", [1 << 60, 0], ids=["resident", "fetched"])
def test_readings_are_those_of_the_reference(model: Path, free: int) -> None:
    plain, other = Reference(model), DeviceReference(model, DEVICE, free=lambda device: free)
    for read in (
        lambda reference: reference.check(PROMPT, ANSWER),
        lambda reference: reference.rounded(PROMPT, ANSWER, layers=False, logits=True),
        lambda reference: reference.products(PROMPT, ANSWER),
    ):
        expected, found = read(plain), read(other)
        assert found.choices == expected.choices
        assert found.agrees == expected.agrees
        assert found.gaps == pytest.approx(expected.gaps, abs=2e-4)
        assert found.top_logprobs[0] == pytest.approx(expected.top_logprobs[0], abs=2e-4)
    assert other.resident == bool(free)
    assert other.generate(PROMPT, 6) == plain.generate(PROMPT, 6)


def test_layers_in_bfloat16_are_as_far_off_as_the_reference_says(model: Path) -> None:
    """Rounded layers are another arithmetic than fp32, and fp32 comes back afterwards."""
    plain, other = Reference(model), DeviceReference(model, DEVICE, free=lambda device: 0)
    exact = other.check(PROMPT, ANSWER)
    rounded = other.rounded(PROMPT, ANSWER, layers=True, logits=False)
    expected = plain.rounded(PROMPT, ANSWER, layers=True, logits=False)
    assert rounded.gaps == pytest.approx(expected.gaps, abs=0.05)
    assert rounded.gaps != exact.gaps
    assert other.check(PROMPT[1:], ANSWER).gaps == pytest.approx(plain.check(PROMPT[1:], ANSWER).gaps, abs=2e-4)


def test_what_a_request_names_is_what_the_reference_computes_on(model: Path) -> None:
    """The processor unless it says otherwise."""
    assert type(open_reference(model)) is Reference
    other = open_reference(model, device=DEVICE if DEVICE == "cuda" else "meta")
    assert type(other) is DeviceReference
    common = {"model_dir": "/m", "scenario": {"name": "chat"}, "seed": "5a" * 32, "output_dir": "/o"}
    judged = JudgeRequest.model_validate({**common, "candidate": {"url": "http://127.0.0.1:1"}})
    assert judged.reference == EvaluateRequest.model_validate(common).reference == "cpu"
    with pytest.raises(ValidationError, match="reference"):
        EvaluateRequest.model_validate({**common, "reference": "tpu"})
