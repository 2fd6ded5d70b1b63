"""Who decides about weights in 8 bits: the judge, over HTTP, as about every other stack."""

import time

import pytest
import torch
from benchmarks import code_edit
from benchmarks.gpu.models import MODELS, checkpoint
from benchmarks.gpu.served import Site, _edit_envelope

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder, device = tmp_path_factory.mktemp("fp8"), torch.device("cpu")
    model_dir = checkpoint(MODELS["tiny"], folder, device)
    return Site(folder / "work", device, "tiny", model_dir, time.monotonic() + 3600)


def verdict(site: Site, weights: str, plant: str | None = None) -> str:
    """What the judge says of a stack with these weights, `plant` in place of its scales' largest number; "" if it passes."""
    work, _ = site.workbench("code-edit", _edit_envelope(site.load))
    recipes = site.recipes(predicted_outputs={})
    recipes["cuda-decoder"] |= {"WEIGHTS": weights}
    if plant is not None:
        stack = work.compose("code-edit", recipes) / "stack" / "cuda_fp8.py"
        source = stack.read_text()
        assert source.count("LARGEST = 448.0") == 1
        stack.write_text(source.replace("LARGEST = 448.0", f"LARGEST = {plant}"))
    try:
        with work.stack("code-edit", recipes) as served:
            work.judged(served, None, code_edit.scenario(site.load.file_tokens, rates=(95,)))
    except SystemExit as refused:
        return str(refused)
    return ""


def test_the_stored_weights_pass(site: Site) -> None:
    assert verdict(site, "stored") == ""


def test_eight_bits_of_a_chain_pass(site: Site) -> None:
    """Its branches are small beside the residual stream, and embeddings and head are left alone: no word on other models."""
    assert verdict(site, "fp8") == ""


def test_scales_that_saturate_are_refused(site: Site) -> None:
    assert "does not pass the judge" in verdict(site, "fp8", plant="4000.0")
