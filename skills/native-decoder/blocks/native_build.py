"""Compiling the native decoder for the shapes in `spec` and for the processor at hand, once.

The library's name carries a hash of everything that went into it (sources, shapes, flags, processor), so a stack that was
moved to another machine or edited compiles again, and finding a library needs no compiler. It is written under a temporary
name and renamed: two processes that build at once both end with a whole file.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import spec

_SOURCES = Path(__file__).parent / "native"
_COMPILERS = ("g++", "clang++", "c++")
# No contraction by the compiler: where a product and a sum are fused is written in the source, so that every copy of a loop
# rounds alike. Nobody reads errno or the floating-point exception flags.
_FLAGS = ("-std=c++20", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing")
_WITHOUT_TILES = "-DSARTOR_WITHOUT_TILES"
_LINKING = ("-fPIC", "-shared", "-pthread", "-Wno-psabi")


class BuildError(Exception):
    """The native decoder could not be compiled. The message has the compiler's own words and what to do."""


def build(build_dir: Path | None = None, flags: Sequence[str] = ("-march=native",)) -> Path:
    """Compile unless that was done before; return the library's path.

    `build_dir` is `build/` beside this file unless given. `flags` choose the instruction set; matrix tiles (AMX) are left
    out where the system does not let this process use them. Takes about ten seconds and 300 MB. Raises `BuildError`.
    """
    flags = flags if may_use_tiles() else (*flags, _WITHOUT_TILES)
    folder = build_dir or Path(__file__).parent / "build"
    header = shapes_header()
    library = folder / f"decoder-{_fingerprint(header, flags)}.so"
    if library.is_file():
        return library
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise BuildError(
            f"no C++ compiler ({', '.join(_COMPILERS)}) is on PATH: install g++ 12 or clang 16 or newer, "
            "or use the torch decoder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".compiling-", dir=folder) as name:
            work = Path(name)
            (work / "shapes.h").write_text(header, encoding="utf-8")
            made = work / library.name
            source = str(_SOURCES / "decoder.cpp")
            command = [compiler, *_FLAGS, *flags, *_LINKING, f"-I{work}", source, "-o", str(made)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise BuildError(f"{' '.join(command)} failed:\n{result.stderr.strip()[-4000:]}")
            made.replace(library)
    except OSError as error:
        raise BuildError(f"{folder}: cannot write the compiled decoder there: {error.strerror or error}") from error
    return library


def may_use_tiles() -> bool:
    """Whether Linux gives this process the registers of AMX; it has to be asked, and a sandbox may refuse.

    `native/tiles.h` asks again where the decoder is made.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


def shapes_header() -> str:
    """The C++ header with this model's numbers. Raises `BuildError` for shapes that the kernels do not cover."""
    problems = [
        message
        for wrong, message in (
            (spec.HEAD_DIM % 2, f"HEAD_DIM {spec.HEAD_DIM} is odd"),
            (spec.HIDDEN_SIZE % 2, f"HIDDEN_SIZE {spec.HIDDEN_SIZE} is odd"),
            (spec.HEADS % spec.KV_HEADS, f"HEADS {spec.HEADS} is not a multiple of KV_HEADS {spec.KV_HEADS}"),
            (spec.PAGE_TOKENS % 16 or spec.PAGE_TOKENS < 16, f"PAGE_TOKENS {spec.PAGE_TOKENS} is not a multiple of 16"),
            (spec.STEP_TOKENS < 1, f"STEP_TOKENS {spec.STEP_TOKENS} is not positive"),
        )
        if wrong
    ]
    if problems:
        raise BuildError(f"the native decoder cannot be built for this shape: {'; '.join(problems)}")
    return f"""\
#pragma once

#define SARTOR_FLOAT32_WEIGHTS {int(spec.DTYPE == "float32")}

namespace sartor {{

constexpr int VOCAB = {spec.VOCAB_SIZE};
constexpr int HIDDEN = {spec.HIDDEN_SIZE};
constexpr int LAYERS = {spec.LAYERS};
constexpr int HEADS = {spec.HEADS};
constexpr int KV_HEADS = {spec.KV_HEADS};
constexpr int HEAD_DIM = {spec.HEAD_DIM};
constexpr int INTERMEDIATE = {spec.INTERMEDIATE_SIZE};
constexpr int POSITIONS = {spec.MAX_MODEL_LEN};
constexpr int PAGE_TOKENS = {spec.PAGE_TOKENS};
constexpr int STEP_TOKENS = {spec.STEP_TOKENS};
constexpr float RMS_EPS = {float(spec.RMS_EPS)!r}f;
constexpr bool QK_NORM = {str(spec.QK_NORM).lower()};
constexpr bool ATTENTION_BIAS = {str(spec.ATTENTION_BIAS).lower()};
constexpr bool TIED_EMBEDDINGS = {str(spec.TIED_EMBEDDINGS).lower()};

}}  // namespace sartor
"""


def _fingerprint(header: str, flags: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(_SOURCES.iterdir()):
        if path.suffix in {".h", ".cpp"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for part in (header, *_FLAGS, *flags, platform.machine(), os.name, platform.system(), _processor()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What tells one processor's instruction set from another's."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor()
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
