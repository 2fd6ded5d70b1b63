"""Kernels run where the tests run: natively on an NVIDIA GPU, in Triton's interpreter on any other machine (see
`tests/conftest.py`)."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture
def products_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, products that give a row the same bits wherever in a tile it stands, as a GPU's do.

    `tl.dot` is numpy's `matmul` there, and a BLAS may take the rows at the edge of its own blocks with other
    instructions: OpenBLAS does on processors without AVX-512.
    """

    def matmul(a: Any, b: Any, dtype: Any = None) -> Any:
        return np.einsum("ik,kj->ij", a.astype(dtype), b.astype(dtype))

    if not ON_GPU:
        monkeypatch.setattr(np, "matmul", matmul)
