"""Reports, archives, conditions: what is sent and stored."""

import base64
import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sartor_agents.run import content
from sartor_api.conditions import ConditionType, Reason
from sartor_api.search.leaks import canary_of
from sartor_api.search.records import (
    ArmSummary,
    BaselineRecord,
    ConditionResult,
    FailureClass,
    GridPoint,
    Judgement,
    Measurement,
    Plan,
    SeedCommitment,
    Speedup,
    Verdict,
)
from sartor_operator import reasons
from sartor_operator.conditions import conditions, done, stalled, working
from sartor_operator.drift import covers
from sartor_operator.kinds import Manifest
from sartor_operator.pods import archive, unpack
from sartor_operator.pods.servers import unpack_program
from sartor_operator.wire import LONGEST_REPORT, ReportError, StepReport, read_report, report_text, slim

# --- reports ------------------------------------------------------------------------------------------------------------

RATIO = Speedup(value=1.5, low=1.4, high=1.6, n=8)
ARM = ArmSummary(metric=1.0, requests=9, quantiles={"ttft": tuple(float(n) for n in range(101))})
LARGE: dict[str, Any] = {
    "measurement": Measurement(
        metric="m",
        speedup=RATIO,
        conditions=tuple(ConditionResult(name=f"c{n}", ratio=RATIO, candidate=ARM, baseline=ARM) for n in range(20)),
        fingerprint={"x": "y" * 9000},
        seed=SeedCommitment.of("a" * 64),
        message="m" * 9000,
    ),
    "judgement": Judgement(
        verdicts=tuple(
            Verdict(
                gate=f"gate-{n}",
                passed=False,
                reason="OutputDiverged",
                message="differs " * 500,
                failure_class="candidate",
                evidence={"request": "r" * 5000},
            )
            for n in range(12)
        )
    ),
    "plan": Plan(round=1, action="build", hypothesis="h" * 9000, changes=("c" * 900,) * 20, refuted_by="r" * 9000),
    "baseline": BaselineRecord(
        engine="vllm",
        version="1",
        grid=tuple(GridPoint(name=f"g{n}", arguments=("--a",) * 5, metric=1.0, message="w" * 500) for n in range(40)),
        chosen="g7",
        arguments=("--a",) * 5,
    ),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_report_always_fits_and_keeps_what_decides(kind: str) -> None:
    text = report_text(StepReport(step="001/judge/1/1", result=LARGE[kind], commit="a" * 40, digest="b" * 64))
    assert len(text.encode()) <= LONGEST_REPORT
    back = read_report(text)
    assert back.commit == "a" * 40 and back.digest == "b" * 64
    match back.result, LARGE[kind]:
        case (Measurement() as ours, Measurement() as theirs):
            assert (ours.speedup, ours.valid, ours.seed) == (theirs.speedup, theirs.valid, theirs.seed)
        case (Judgement() as ours, Judgement() as theirs):
            assert [(v.gate, v.passed, v.reason, v.failure_class) for v in ours.verdicts] == [
                (v.gate, v.passed, v.reason, v.failure_class) for v in theirs.verdicts
            ]
        case (Plan() as ours, Plan() as theirs):
            assert (ours.round, ours.action, ours.parent) == (theirs.round, theirs.action, theirs.parent)
        case (BaselineRecord() as ours, BaselineRecord() as theirs):
            assert (ours.arguments, ours.chosen) == (theirs.arguments, theirs.chosen)
            assert "g7" in [point.name for point in ours.grid]
        case other:
            raise AssertionError(other)


def test_small_results_lose_nothing_but_details() -> None:
    small = Plan(round=1, action="build", hypothesis="try it", changes=("a", "b"), forecast_speedup=1.2)
    assert slim(small) == small


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("done", "no step report"),
        ('{"version":1,"step":"x","result":{"kind":"plan"}}', "result"),
        ('{"version":2,"step":"x","result":{"kind":"judgement","verdicts":[]}}', "no step report"),
        ("{" + "x" * 4096, "cut at 4096"),
    ],
)
def test_what_is_no_report_is_said_to_be_none(text: str, said: str) -> None:
    with pytest.raises(ReportError, match=said):
        read_report(text)


# --- archives -----------------------------------------------------------------------------------------------------------

FILES = {"stack/__main__.py": b"print(1)\n", "stack/native/a.cpp": b"int x;\n" * 100, "stack/stack.toml": b""}
OWNER: Manifest = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "owner", "namespace": "team-a", "uid": "u"},
}


def test_the_hash_is_the_one_that_gates_pass() -> None:
    assert unpack.content_hash(FILES) == content.content_hash(FILES)


def test_the_same_files_are_the_same_bytes() -> None:
    assert archive.archive(FILES) == archive.archive(dict(reversed(FILES.items())))
    assert archive.extract(archive.archive(FILES)) == FILES


def written(folder: Path, parts: list[bytes]) -> Path:
    for number, data in enumerate(parts):
        (folder / f"{number:02d}").mkdir(parents=True)
        (folder / f"{number:02d}" / "part").write_bytes(data)
    return folder


def test_the_program_of_the_init_container_unpacks_and_verifies(tmp_path: Path) -> None:
    index, parts = archive.index_of("c" * 40, content.content_hash(FILES), FILES, "name")
    folder, to = written(tmp_path / "parts", parts), tmp_path / "stack"
    command = [sys.executable, "-c", unpack_program(), str(folder), str(to)]
    done = subprocess.run([*command, index.content_hash], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {str(f.relative_to(to)): f.read_bytes() for f in to.rglob("*") if f.is_file()} == FILES
    assert (to / "stack" / "build").is_dir()
    other = subprocess.run([*command, "0" * 64], capture_output=True, text=True, check=False)
    assert other.returncode == unpack.CONTENT_CHANGED
    assert "what passed the gates is 000000000000" in other.stderr


@pytest.mark.parametrize("name", ["../evil", "/evil", "stack/../../evil"])
def test_no_path_leads_out_of_the_stack(tmp_path: Path, name: str) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    folder = written(tmp_path / "parts", [data.getvalue()])
    assert unpack.main(folder, tmp_path / "to", unpack.content_hash({name: b"x"})) == unpack.CONTENT_CHANGED
    assert not list(tmp_path.rglob("evil"))


def test_large_stacks_are_cut_and_too_large_ones_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(90_000))
    files = {**FILES, "stack/data.bin": noise}
    index, parts = archive.index_of("c" * 40, content.content_hash(files), files, "n")
    assert len(parts) == len(index.parts) == 4 and all(len(p) <= archive.PART_BYTES for p in parts)
    made = [archive.part_manifest(OWNER, p.name, d) for p, d in zip(index.parts, parts, strict=True)]
    assert all(m["immutable"] and m["metadata"]["labels"]["app.kubernetes.io/managed-by"] != "sartor" for m in made)
    monkeypatch.setattr(archive, "MOST_PARTS", 3)
    refused, nothing = archive.index_of("c" * 40, content.content_hash(files), files, "n")
    assert nothing == [] and refused.problem is not None
    assert refused.problem.reason == "StackTooLarge" and "spec.delivery.mode git" in refused.problem.message


@pytest.mark.parametrize(
    "hide", [str.encode, lambda text: base64.b64encode(text[::-1].encode()), lambda text: gzip.compress(text.encode())]
)
def test_a_stack_that_holds_what_is_sealed_is_refused_and_the_secret_not_repeated(hide: Callable[[str], bytes]) -> None:
    key = "5e" * 32
    secrets = (canary_of(key), key)
    for secret in secrets:
        files = {**FILES, "stack/table.py": hide(secret)}
        refused, parts = archive.index_of("c" * 40, content.content_hash(files), files, "n", secrets)
        assert parts == [] and refused.problem is not None
        assert refused.problem.reason == "SealedDataLeaked"
        assert refused.problem.failure_class is FailureClass.CANDIDATE
        assert "stack/table.py" in refused.problem.message and secret not in refused.model_dump_json()
    index, parts = archive.index_of("c" * 40, content.content_hash(FILES), FILES, "n", secrets)
    assert index.problem is None and parts


# --- conditions ---------------------------------------------------------------------------------------------------------


def test_a_transition_time_stays_as_long_as_the_status() -> None:
    first = conditions([], working(Reason.PROGRESSING, "a"), generation=1, now=1000)
    assert [c.type for c in first] == ["Ready", "Reconciling"]
    plain = [c.model_dump(mode="json", by_alias=True) for c in first]
    second = conditions(plain, stalled(Reason.PLATEAU, "b"), generation=2, now=2000)
    assert [(c.type, c.last_transition_time.timestamp()) for c in second] == [("Ready", 1000.0), ("Stalled", 2000.0)]
    plain = [c.model_dump(mode="json", by_alias=True) for c in second]
    third = conditions(plain, done(Reason.SUCCEEDED, "c"), generation=2, now=3000)
    assert [(c.type, c.status, c.last_transition_time.timestamp()) for c in third] == [("Ready", "True", 3000.0)]


def test_conditions_stand_in_one_order() -> None:
    made = conditions([], reversed(working(Reason.PROGRESSING, "")), generation=1, now=0)
    assert [c.type for c in made] == [ConditionType.READY.value, ConditionType.RECONCILING.value]


def test_the_reference_of_the_words_is_what_the_code_says() -> None:
    page = Path(reasons.__file__).parents[2] / "docs" / "reasons.md"
    assert page.read_text(encoding="utf-8") == reasons.render(), "run: python -m sartor_operator.reasons"


def test_the_page_is_checked_and_written_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "reasons.md"
    assert reasons.main(["--check", str(page)]) == 1, "it is not there"
    assert f"{page} is out of date; run python -m sartor_operator.reasons --write {page}" in capsys.readouterr().err
    assert reasons.main(["--write", str(page)]) == 0 and reasons.main(["--check", str(page)]) == 0
    page.write_text(page.read_text() + "by hand\n")
    assert reasons.main(["--check", str(page)]) == 1


def test_every_reason_that_a_step_may_fail_with_is_documented() -> None:
    """Words in the code of the operator that name a failure stand in the table, and none stands there in vain."""
    import ast

    source = Path(reasons.__file__).parent
    used: set[str] = set()
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("End", "failed", "failure", "refused"):
                used |= {
                    a.value
                    for a in ast.walk(node)
                    if isinstance(a, ast.Constant) and isinstance(a.value, str) and a.value in reasons.STEP_REASONS
                }
                first = next((a for a in node.args if isinstance(a, ast.Constant)), None)
                if first is not None and str(first.value)[:1].isupper() and str(first.value).isalpha():
                    assert first.value in reasons.STEP_REASONS, first.value
    computed = {"BuildMemoryExceeded", "CandidateMemoryExceeded", "BuildFailed", "CandidateExited"}
    elsewhere = {"PodEvicted", "PodDisrupted", "PlanInvalid", "ReportUntrue", "RoleFailed", "RoleGaveNothing"}
    assert set(reasons.STEP_REASONS) - used - computed - elsewhere - {"RoleAnsweredGarbage"} == set()


# --- drift --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "there", "same"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"cpu": "0.5"}, {"cpu": "500m"}, True),
        ({"memory": "1024Mi"}, {"memory": "1Gi"}, True),
        ({"l": [{"n": "a"}]}, {"l": [{"n": "a", "x": 1}]}, True),
        ({"l": [{"n": "a"}]}, {"l": [{"n": "a"}, {"n": "b"}]}, False),
        ({"e": {}}, {}, True),
        ({"l": []}, {}, True),
        ({"a": "x"}, {}, False),
        ({"a": {"b": 1}}, {"a": None}, False),
    ],
)
def test_what_the_api_server_adds_is_no_drift(wanted: Any, there: Any, same: bool) -> None:
    assert covers(wanted, there) is same
