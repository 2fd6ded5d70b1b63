"""Compiling: once, for exactly this shape and processor, and with the compiler's own words when it fails."""

import shutil
import subprocess
from pathlib import Path

import pytest
from sartor_skills.blocks.native_build import BuildError, build, shapes_header

from sartor_skills.blocks import native_build, spec

FLAGS = ("-march=native",)


def fake_compiler(folder: Path, script: str) -> None:
    folder.mkdir()
    path = folder / "g++"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def test_compiles_once_and_then_needs_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path / "bin", 'for last; do :; done; echo compiled > "$last"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    library = build(tmp_path / "build", FLAGS)
    assert library.read_text(encoding="utf-8") == "compiled\n"
    assert list((tmp_path / "build").iterdir()) == [library]
    monkeypatch.setenv("PATH", "")
    assert build(tmp_path / "build", FLAGS) == library


def test_another_shape_flag_or_source_is_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path / "bin", 'for last; do :; done; : > "$last"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    sources = tmp_path / "native"
    shutil.copytree(native_build._SOURCES, sources)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(native_build, "_SOURCES", sources)
    libraries = {build(tmp_path / "build", FLAGS), build(tmp_path / "build", ())}
    monkeypatch.setattr(spec, "HIDDEN_SIZE", spec.HIDDEN_SIZE + 2)
    libraries.add(build(tmp_path / "build", FLAGS))
    (sources / "step.h").write_text("// changed", encoding="utf-8")
    libraries.add(build(tmp_path / "build", FLAGS))
    assert len(libraries) == 4


def test_tiles_that_the_system_refuses_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path / "bin", 'for last; do :; done; echo "$*" > "$last"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(native_build, "may_use_tiles", lambda: True)
    granted = build(tmp_path / "build", FLAGS)
    monkeypatch.setattr(native_build, "may_use_tiles", lambda: False)
    refused = build(tmp_path / "build", FLAGS)
    assert granted != refused
    assert "-DSARTOR_WITHOUT_TILES" in refused.read_text(encoding="utf-8")
    assert "-DSARTOR_WITHOUT_TILES" not in granted.read_text(encoding="utf-8")


def test_no_compiler_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"no C\+\+ compiler .*install g\+\+"):
        build(tmp_path / "build", FLAGS)


def test_a_failing_compiler_is_quoted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path / "bin", "echo 'error: out of registers' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(BuildError, match="out of registers"):
        build(tmp_path / "build", FLAGS)
    assert list((tmp_path / "build").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("a file", encoding="utf-8")
    with pytest.raises(BuildError, match="build: cannot write the compiled decoder there"):
        build(tmp_path / "build", FLAGS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("HEAD_DIM", 15, "HEAD_DIM 15 is odd"), ("PAGE_TOKENS", 8, "PAGE_TOKENS 8"), ("KV_HEADS", 3, "not a multiple")],
)
def test_shapes_that_the_kernels_do_not_cover(
    monkeypatch: pytest.MonkeyPatch, name: str, value: int, message: str
) -> None:
    monkeypatch.setattr(spec, name, value)
    with pytest.raises(BuildError, match=message):
        shapes_header()


def test_the_bfloat16_instructions_compile(tmp_path: Path) -> None:
    """The machine that runs the tests may lack them; the compiler can still check the code that uses them."""
    compiler = shutil.which("g++")
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
    if compiler is None or machine != "x86_64":
        pytest.skip("needs g++ for x86-64")
    (tmp_path / "shapes.h").write_text(shapes_header(), encoding="utf-8")
    source = native_build._SOURCES / "decoder.cpp"  # pyright: ignore[reportPrivateUsage]
    flags = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wno-psabi", "-Werror"]
    isa = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16"]
    result = subprocess.run(
        [compiler, *flags, *isa, f"-I{tmp_path}", str(source)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
