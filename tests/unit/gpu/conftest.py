"""Kernels run where the tests run: natively on an NVIDIA GPU, in Triton's interpreter on any other machine.

Triton decides that when a kernel, or Triton itself, is imported. So the interpreter is chosen here, before either, and only
for these tests: what they start must not inherit it.
"""

import os
import sys
from collections.abc import Iterator

import pytest
import torch

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
_CHOICE = "TRITON_INTERPRET"

if not ON_GPU:
    if "triton" in sys.modules:
        raise pytest.UsageError(
            "Triton was imported before tests/unit/gpu could choose its interpreter; run them alone"
        )
    os.environ[_CHOICE] = "1"
    import sartor_skills.blocks.kernels_attention
    import sartor_skills.blocks.kernels_choice
    import sartor_skills.blocks.kernels_rows  # noqa: F401

    del os.environ[_CHOICE]


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not ON_GPU:
        monkeypatch.setenv(_CHOICE, "1")
    yield
