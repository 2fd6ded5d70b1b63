"""Every kernel is compiled to machine code for an H100 or H200: what only the interpreter lets pass is found, and what
does not fit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SHARED_BYTES = 227 << 10
"""What a block may have of a processor's shared memory at compute capability 9.0 (CUDA programming guide)."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, str(HERE / "compile_kernels.py"), "90"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_all_of_them(compiled: list[dict[str, Any]]) -> None:
    modules = HERE.parents[2] / "skills" / "cuda-decoder" / "blocks"
    launched = {
        name for path in modules.glob("kernels_*.py") for name in re.findall(r"^    (_\w+)\[\(", path.read_text(), re.M)
    }
    assert len(launched) == 10
    assert {one["kernel"] for one in compiled} == launched


def test_they_fit_a_processors_shared_memory_and_registers(compiled: list[dict[str, Any]]) -> None:
    for one in compiled:
        assert one["shared"] <= SHARED_BYTES, one
        assert one["stack"] == 0, one  # nothing was spilled to memory
