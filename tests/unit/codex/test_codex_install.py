"""Which Codex CLI is taken: the pinned version and no other, with an error that says what to do."""

import stat
from pathlib import Path

import pytest

from sartor_agents.backends.codex import install
from sartor_agents.backends.codex.install import VERSION, CodexMissingError, ensure_codex, find_codex


def program(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho codex-cli {version}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture(autouse=True)
def nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SARTOR_CODEX", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def cached(tmp_path: Path, version: str = VERSION) -> Path:
    return install._program(tmp_path / f"codex-{version}")  # pyright: ignore[reportPrivateUsage]


def test_the_cache_is_looked_at_first_and_then_the_path(tmp_path: Path) -> None:
    on_path = program(tmp_path / "bin" / "codex", VERSION)
    assert find_codex(tmp_path).program == on_path.resolve()
    inside = program(cached(tmp_path), VERSION)
    assert find_codex(tmp_path).program == inside and find_codex(tmp_path).folder == inside.parents[1]


def test_of_npms_starter_the_program_is_taken(tmp_path: Path) -> None:
    starter = tmp_path / "lib" / "node_modules" / "@openai" / "codex" / "bin" / "codex.js"
    starter.parent.mkdir(parents=True)
    starter.write_text("// JavaScript")
    starter.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "codex").symlink_to(starter)
    native = program(install._vendor(tmp_path / "lib" / "node_modules" / "@openai"), VERSION)  # pyright: ignore[reportPrivateUsage]
    assert find_codex(tmp_path).program == native


def test_another_version_is_refused_by_name(tmp_path: Path) -> None:
    other = program(tmp_path / "bin" / "codex", "0.1.0")
    with pytest.raises(CodexMissingError) as error:
        find_codex(tmp_path)
    assert str(error.value) == (
        f"the Codex CLI {VERSION} is not installed ({other} is version 0.1.0); install it with: sartor codex setup"
    )
    assert find_codex(tmp_path, "0.1.0").version == "0.1.0"


def test_a_given_program_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(cached(tmp_path), VERSION)
    monkeypatch.setenv("SARTOR_CODEX", str(program(tmp_path / "own", "9.9.9")))
    with pytest.raises(CodexMissingError, match=r"own is version 9\.9\.9"):
        find_codex(tmp_path)


def test_a_program_that_does_not_run_is_none(tmp_path: Path) -> None:
    broken = program(cached(tmp_path), VERSION)
    broken.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(CodexMissingError, match="version unknown"):
        find_codex(tmp_path)


def npm(tmp_path: Path, script: str) -> None:
    path = tmp_path / "bin" / "npm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_it_is_installed_once(tmp_path: Path) -> None:
    target = cached(tmp_path).relative_to(tmp_path / f"codex-{VERSION}")
    npm(
        tmp_path,
        f"""echo called >> {tmp_path}/calls
while [ "$1" != --prefix ]; do shift; done
mkdir -p "$2/{target.parent}"; printf '#!/bin/sh\\necho codex-cli {VERSION}\\n' > "$2/{target}"; chmod +x "$2/{target}" """,
    )
    said: list[str] = []
    assert ensure_codex(tmp_path, said.append).program == cached(tmp_path)
    assert ensure_codex(tmp_path, said.append).program == cached(tmp_path)
    assert (tmp_path / "calls").read_text() == "called\n" and len(said) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_failed_installation_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    npm(tmp_path, "echo 'npm error code ENOTFOUND' >&2; exit 1")
    with pytest.raises(CodexMissingError, match="ENOTFOUND") as error:
        ensure_codex(tmp_path, lambda _: None)
    assert error.value.unreachable and not (tmp_path / f"codex-{VERSION}").exists()
    npm(tmp_path, "echo 'npm error notarget' >&2; exit 1")
    with pytest.raises(CodexMissingError) as other:
        ensure_codex(tmp_path, lambda _: None)
    assert not other.value.unreachable


def test_without_npm_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(CodexMissingError, match="npm is missing"):
        ensure_codex(tmp_path, lambda _: None)
