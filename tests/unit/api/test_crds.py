"""The generated CRDs: current, structural, and (with Go at hand) as the API server itself sees them."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from sartor_api import KINDS, ConditionType, LoadError, Reason, load_text
from sartor_api.base import ApiModel
from sartor_api.crd import crd, structural
from sartor_api.generate import main
from sartor_api.meta import Resource
from sartor_api.reference import reference

from .cases import BAD, FULL_SYNTHESIS, GOOD, SYNTHESIS, UPDATES, changed

ROOT = Path(__file__).parents[3]
VALIDATOR = ROOT / "tests" / "crd_validation"


def test_generated_files_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--root", str(ROOT)]) == 0, capsys.readouterr().err


def test_generation_writes_and_notices_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "crds").mkdir()
    arguments = ["--root", str(tmp_path)]
    assert main(arguments) == 0
    page = tmp_path / "docs" / "reference" / "api.md"
    page.write_text(page.read_text() + "by hand\n")
    capsys.readouterr()
    assert main([*arguments, "--check"]) == 1
    assert capsys.readouterr().err == f"{page} is out of date; run python -m sartor_api.generate\n"


def test_no_generated_file_is_left_over() -> None:
    written = {f"sartor.dev_{kind.naming.plural}.yaml" for kind in KINDS.values()}
    assert {path.name for path in (ROOT / "crds" / "manifests").iterdir()} == written


def _schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from _schemas(below, f"{path}.{name}")
    for part in ("items", "additionalProperties"):
        if part in schema:
            yield from _schemas(schema[part], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_field_is_described(kind: type[Resource]) -> None:
    for path, schema in _schemas(structural(kind)):
        if path.startswith((".spec.", ".status.")) and not path.endswith("[]"):
            assert schema.get("description", "").endswith((".", "`.", ".)")), path


def test_names_of_kinds_are_distinct_and_those_of_the_design() -> None:
    names = [crd(kind)["spec"]["names"] for kind in KINDS.values()]
    assert [name["shortNames"] for name in names] == [["ssyn"], ["hwt"], ["aprof"], ["srun"], ["scand"], ["sroll"]]
    assert [crd(kind)["spec"]["scope"] for kind in KINDS.values()].count("Cluster") == 1
    assert len({name["plural"] for name in names}) == len(names)


class _Unbounded(ApiModel):
    word: str
    """A word."""


class _Union(ApiModel):
    value: int | bool
    """A value."""


class _Unsaid(ApiModel):
    value: Annotated[int, Field(multiple_of=3)]
    """A value."""


@pytest.mark.parametrize(
    ("model", "said"),
    [(_Unbounded, "word has no upper bound"), (_Union, "value is a union"), (_Unsaid, "value uses multipleOf")],
)
def test_what_kubernetes_cannot_enforce_is_refused(model: type[ApiModel], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        structural(model)


def test_reference_names_everything() -> None:
    page = reference(KINDS.values())
    for word in [*KINDS, *ConditionType, *Reason]:
        assert f"`{word}`" in page
    assert "| `spec.budget.wallClock` | duration | `8h` |" in page
    assert "| `spec.workload.scenario` | `chat` · `code-edit`" in page


def test_rows_of_the_reference_keep_their_columns() -> None:
    for line in reference(KINDS.values()).splitlines():
        if line.startswith("| `spec."):
            assert line.replace("\\|", "").count("|") == 5, line


@pytest.fixture(scope="session")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The API server's own validation as a program, built once into the cache and keyed by its sources."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go toolchain on this machine: the CRDs were not checked by the API server's own code")
    sources = b"".join((VALIDATOR / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))
    key = hashlib.sha256(sources).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sartor"
    program = cache / f"crd-validation-{key}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        built = tmp_path_factory.mktemp("go") / program.name
        build = subprocess.run(
            [go, "build", "-ldflags=-s -w", "-o", str(built), "."],
            cwd=VALIDATOR,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"},
            capture_output=True,
            text=True,
        )
        assert build.returncode == 0, build.stderr
        staged = cache / f"{program.name}.{os.getpid()}"
        shutil.copy(built, staged)
        staged.rename(program)
    return program


def _validate(program: Path, cases: list[dict[str, Any]]) -> dict[str, Any]:
    manifests = sorted(map(str, (ROOT / "crds" / "manifests").glob("*.yaml")))
    request = json.dumps({"crds": manifests, "cases": cases})
    done = subprocess.run([str(program)], input=request, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _case(new: dict[str, Any], old: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"kind": new["kind"], "new": new, **({"old": old} if old else {})}


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestApiServer:
    def test_the_crds_are_taken(self, validator: Path) -> None:
        assert _validate(validator, [])["crds"] == {kind: [] for kind in KINDS}

    def test_good_objects_are_taken_with_the_same_defaults(self, validator: Path) -> None:
        results = _validate(validator, [_case(case.object) for case in GOOD])["cases"]
        assert {case.name: result["errors"] for case, result in zip(GOOD, results, strict=True)} == {
            case.name: [] for case in GOOD
        }
        for case, result in zip(GOOD, results, strict=True):
            [resource] = load_text(json.dumps(case.object))
            ours = resource.to_dict(defaults=True)
            assert result["defaulted"]["spec"] == ours["spec"], case.name

    def test_bad_objects_are_refused_in_the_same_words(self, validator: Path) -> None:
        results = _validate(validator, [_case(case.object) for case in BAD])["cases"]
        for case, result in zip(BAD, results, strict=True):
            assert result["errors"], case.name
            if case.both:
                assert any(case.message in error["message"] for error in result["errors"]), (case.name, result)

    def test_updates(self, validator: Path) -> None:
        results = _validate(validator, [_case(case.new, case.old) for case in UPDATES])["cases"]
        for case, result in zip(UPDATES, results, strict=True):
            said = [error["message"] for error in result["errors"]]
            assert [case.broken in message for message in said] == ([True] if case.broken else []), (case.name, said)

    @pytest.mark.parametrize(
        "text", ["1m", "60s", "59999ms", "0h59s", "1d", "1d59s", "99999d99999h", "0", "5", "7w", "1m1h"]
    )
    def test_durations_mean_the_same(self, validator: Path, text: str) -> None:
        object_ = changed(SYNTHESIS, "spec.budget.wallClock", text)
        [result] = _validate(validator, [_case(object_)])["cases"]
        assert bool(result["errors"]) == _refused(object_)

    def test_the_design_example_fits_in_an_annotation(self) -> None:
        """Client-side apply keeps the last manifest in an annotation of at most 256 KiB."""
        for kind in KINDS.values():
            assert len(json.dumps(crd(kind))) < 256 * 1024
        assert len(json.dumps(FULL_SYNTHESIS)) < 256 * 1024


def _refused(object_: dict[str, Any]) -> bool:
    try:
        load_text(json.dumps(object_))
    except LoadError:
        return True
    return False
