"""The bundle of a run in a cluster: from what `kubectl` exports and a real git service, checked like any other."""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from evidence_world import World

sys.path.insert(0, str(Path(__file__).parents[1] / "repository"))

from repository_world import NAMESPACE, RUN, serving
from repository_world import World as GitWorld
from typer.testing import CliRunner

from sartor_agents.cli.exits import ExitCode
from sartor_agents.cli.main import app
from sartor_agents.evidence.check import check
from sartor_agents.evidence.cluster import lay_out, read_export
from sartor_agents.evidence.errors import EvidenceError
from sartor_agents.pods.records import as_file
from sartor_agents.run.fast_import import commit_stream
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.seals import Seals
from sartor_api.search.estimate import ACCELERATED
from sartor_api.search.records import Implementation, Record, StepKind, StepRecord
from sartor_api.search.wire import StepBegin, StepReport, StoredRecord, slim

Objects = list[dict[str, Any]]


def kept(world: World, record: StepRecord) -> dict[str, bytes]:
    """What judge or evaluator of a cluster would have pushed of a step."""
    name = record.id.replace("/", "-")
    folder = (world.layout.sealed if record.step is StepKind.JUDGE else world.layout.samples) / name
    files = {path.name: path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()}
    return {**files, "record.json": as_file(StepReport(step=record.id, result=record.result))}


def objects(world: World) -> Objects:
    """The run as the operator of a cluster would have it in the API server."""
    run = RunRepository(world.layout.repository).load()
    seals = Seals(world.layout.sealed)

    def item(kind: str, part: str, data: Mapping[str, str | Record]) -> dict[str, Any]:
        texts = {k: v if isinstance(v, str) else v.model_dump_json(exclude_none=True) for k, v in data.items()}
        return {"kind": kind, "metadata": {"name": part, "labels": {"sartor.dev/part": part}}, "data": texts}

    made = [item("ConfigMap", "spec", {"spec.json": run.spec})]
    made.append(item("Secret", "seal", {"key": base64.b64encode(seals.key.encode()).decode()}))
    for record in run.records:
        begin = StepBegin(
            id=record.id, sequence=record.sequence, step=record.step, round=record.round, attempt=record.attempt,
            reason="Next", begun=record.started, deadline_seconds=60.0,
            seed_digest=seals.commitment(record.id).digest if record.step in ACCELERATED else None,
        )  # fmt: skip
        digest = hashlib.sha256(kept(world, record)["record.json"]).hexdigest()
        stored = StoredRecord(record=record.model_copy(update={"result": slim(record.result)}), digest=digest)
        made += [item("ConfigMap", "step", {"step.json": begin}), item("ConfigMap", "record", {"record.json": stored})]
    return made


def exported(items: Objects) -> bytes:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()


class FakeSource:
    def __init__(self, world: World) -> None:
        self.world = world
        self.changed: dict[str, bytes] = {}

    def sealed(self, step: StepKind, name: str) -> Mapping[str, bytes]:
        records = RunRepository(self.world.layout.repository).load().records
        record = next(one for one in records if one.id.replace("/", "-") == name)
        return {**kept(self.world, record), **self.changed}

    def pack(self, commits: Sequence[str]) -> bytes:
        return subprocess.run(
            ["git", f"--git-dir={self.world.layout.repository}", "pack-objects", "--revs", "--stdout", "--quiet"],
            input="".join(f"{commit}\n" for commit in commits).encode(), capture_output=True, check=True,
        ).stdout  # fmt: skip


@pytest.fixture
def service(world: World, tmp_path: Path) -> Iterator[GitWorld]:
    """A git service that has what planner, implementer, judge and evaluator of this run would have pushed."""
    with serving(tmp_path) as git:
        git.ok("operator", "ls-remote", git.address())
        git.ok("operator", "ls-remote", git.address() + "/sealed")
        place = git.root / NAMESPACE / RUN
        records = RunRepository(world.layout.repository).load().records
        for record in records:
            if isinstance(record.result, Implementation):
                ref = f"{record.result.commit}:refs/heads/candidate/{record.round:03d}"
                local = ["git", f"--git-dir={world.layout.repository}", "push", "--quiet", str(place / "open.git"), ref]
                subprocess.run(local, check=True, capture_output=True)
        for role, steps in {"judge": (StepKind.JUDGE,), "evaluator": ACCELERATED - {StepKind.JUDGE}}.items():
            files = {
                f"steps/{record.id.replace('/', '-')}/{name}": data
                for record in records
                if record.step in steps
                for name, data in kept(world, record).items()
            }
            sealed = ["git", f"--git-dir={place / 'sealed.git'}"]
            stream = commit_stream("notes", None, files, "notes", 1.0, whole=True)
            subprocess.run([*sealed, "fast-import", "--quiet", "--done"], input=stream, check=True)
            subprocess.run([*sealed, "update-ref", f"refs/notes/sartor/{role}", "refs/heads/notes"], check=True)
            subprocess.run([*sealed, "update-ref", "-d", "refs/heads/notes"], check=True)
        yield git


def sartor(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.output


def test_a_cluster_run_s_winner_gets_a_bundle_that_holds(world: World, service: GitWorld, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_bytes(exported(objects(world)))
    (tmp_path / "token").write_text("operator\n")
    options = ("--repository", service.address(), "--token", tmp_path / "token", "--model", world.model_dir)
    code, output = sartor("evidence", tmp_path / "export.json", *options, "--out", tmp_path / "out")
    assert code == 0, output
    (bundle,) = (tmp_path / "out").iterdir()
    assert str(bundle) in output
    checked = check(bundle.read_bytes(), model_dir=world.model_dir)
    outcomes = {finding.check: finding.outcome for finding in checked.findings.all}
    assert not checked.findings.failed, checked.findings.all
    assert outcomes["order"] == "unchecked" and outcomes["choice"] == "holds" and outcomes["confirm-figures"] == "holds"
    assert checked.bundle is not None
    assert checked.bundle.statement.subject[0].digest["sha256"] == world.finished.content_hash


def test_who_may_not_read_the_sealed_repository_gets_a_sentence(
    world: World, service: GitWorld, tmp_path: Path
) -> None:
    (tmp_path / "export.json").write_bytes(exported(objects(world)))
    (tmp_path / "token").write_text("planner\n")
    options = ("--repository", service.address(), "--token", tmp_path / "token", "--model", world.model_dir)
    code, output = sartor("evidence", tmp_path / "export.json", *options, "--out", tmp_path / "out")
    assert code == ExitCode.FAILED and "may not see sealed records" in output and not (tmp_path / "out").exists()


def test_a_record_that_is_not_what_the_operator_recorded_is_refused(world: World, tmp_path: Path) -> None:
    source = FakeSource(world)
    source.changed = {
        "record.json": kept(world, RunRepository(world.layout.repository).load().records[-1])["record.json"]
    }
    with pytest.raises(EvidenceError, match="not what the operator recorded"):
        lay_out(read_export(exported(objects(world))), source, tmp_path / "run")


def test_a_key_that_was_made_anew_is_refused(world: World, tmp_path: Path) -> None:
    items = objects(world)
    items[1]["data"]["key"] = base64.b64encode(b"ab" * 32).decode()
    with pytest.raises(EvidenceError, match="not derived from the run's key"):
        lay_out(read_export(exported(items)), FakeSource(world), tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "kubectl get"),
        (b"[]", "kubectl get"),
        (b'{"items": [1]}', "kubectl get"),
        (b'{"items": []}', "0 runs and 0 keys"),
    ],
)
def test_an_export_that_is_none_is_a_sentence(content: bytes, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        read_export(content)


def test_an_object_that_is_damaged_is_named(world: World) -> None:
    for number, words in ((0, "spec.json"), (1, "no key"), (2, "step.json"), (3, "record.json")):
        items = objects(world)
        items[number]["data"] = {}
        with pytest.raises(EvidenceError, match=words):
            read_export(exported(items))
