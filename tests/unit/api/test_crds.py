"""The generated CRDs: current and structural. What an API server makes of them: `cluster/test_manifests_refused.py`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from sartor_api import KINDS, ConditionType, Reason
from sartor_api.base import ApiModel
from sartor_api.crd import crd, structural
from sartor_api.generate import main
from sartor_api.meta import Resource
from sartor_api.reference import reference

from .cases import FULL_SYNTHESIS

ROOT = Path(__file__).parents[3]


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


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_definition_fits_in_an_annotation(kind: type[Resource]) -> None:
    """Client-side apply keeps the last manifest in an annotation of at most 256 KiB."""
    assert len(json.dumps(crd(kind))) < 256 * 1024


def test_the_largest_example_fits_in_an_annotation() -> None:
    assert len(json.dumps(FULL_SYNTHESIS)) < 256 * 1024


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
