"""Whether a device can serve, and how much of its memory the cache gets; `torch.cuda` is stood for."""

from types import SimpleNamespace

import pytest
from sartor_skills.blocks.cuda_device import cache_pages, page_bytes, require_device, step_bytes
from sartor_skills.blocks.decoder_errors import DecoderError

from sartor_skills.blocks import spec

GIB = 2**30


def cuda(
    *, free: float = 140, total: float = 141, capability: tuple[int, int] = (9, 0), there: bool = True
) -> SimpleNamespace:
    return SimpleNamespace(
        is_available=lambda: there,
        get_device_capability=lambda: capability,
        get_device_name=lambda: "NVIDIA Example",
        mem_get_info=lambda: (int(free * GIB), int(total * GIB)),
    )


@pytest.fixture(autouse=True)
def eight_billion(monkeypatch: pytest.MonkeyPatch) -> int:
    """Llama 3.1 8B in bfloat16: 128 KiB of keys and values a token. Its weights' bytes."""
    for name, value in {
        "DTYPE": "bfloat16", "LAYERS": 32, "HEADS": 32, "KV_HEADS": 8, "HEAD_DIM": 128, "HIDDEN_SIZE": 4096,
        "INTERMEDIATE_SIZE": 14336, "VOCAB_SIZE": 128256, "PAGE_TOKENS": 16, "MAX_MODEL_LEN": 16384, "MAX_SEQUENCES": 64,
        "STEP_TOKENS": 2048, "DRAFT_WIDTH": 16,
    }.items():  # fmt: skip
        monkeypatch.setattr(spec, name, value)
    return 16_060_522_496


def test_a_device_is_named_with_its_capability() -> None:
    assert require_device(cuda()) == "NVIDIA Example, compute capability 9.0"
    assert require_device(cuda(capability=(8, 0))).endswith("8.0")


def test_no_device_says_what_to_do() -> None:
    with pytest.raises(DecoderError, match=r"no CUDA device.*nvidia\.com/gpu.*nvidia-smi"):
        require_device(cuda(there=False))


def test_an_old_device_is_named_and_refused() -> None:
    with pytest.raises(DecoderError, match=r"NVIDIA Example has compute capability 7\.5.*8\.0 or newer"):
        require_device(cuda(capability=(7, 5)))


def test_what_was_asked_for_is_reserved_where_it_fits(eight_billion: int) -> None:
    assert page_bytes() == 16 * 128 * 1024
    assert cache_pages(1024, eight_billion, cuda()) == 1024


def test_fewer_pages_where_it_does_not_and_never_more_than_there_is_room_for(eight_billion: int) -> None:
    pages = cache_pages(10**6, eight_billion, cuda())
    assert pages * page_bytes() + eight_billion + step_bytes() < 140 * GIB
    assert (pages + 1) * page_bytes() + eight_billion + step_bytes() > 138 * GIB


def test_a_checkpoint_larger_than_the_device_is_refused_with_both_sizes(eight_billion: int) -> None:
    with pytest.raises(DecoderError, match=r"larger than the device: .*need 6\d\.\d GiB, and 23\.5 GiB of 24\.0 GiB"):
        cache_pages(1024, 4 * eight_billion, cuda(free=23.5, total=24))


def test_a_device_that_others_fill_says_so(eight_billion: int) -> None:
    with pytest.raises(DecoderError, match=r"131\.0 GiB are in use by others"):
        cache_pages(1024, eight_billion, cuda(free=10))


def test_no_room_for_one_long_sequence_names_the_length(eight_billion: int) -> None:
    with pytest.raises(DecoderError, match=r"MAX_MODEL_LEN = 16384 needs 16384: lower MAX_MODEL_LEN"):
        cache_pages(10**6, eight_billion, cuda(free=20, total=24))
