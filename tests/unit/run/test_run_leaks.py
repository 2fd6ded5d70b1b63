"""Sealed data that got out is found, however it is hidden, and costs the candidate; nothing else is taken for it."""

import base64
import bz2
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from run_fakes import LocalRun, run_spec

from sartor_agents.run import candidates
from sartor_agents.run.errors import DamagedRepositoryError
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.leakage import LeakWatch
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.sandbox import sandbox_program
from sartor_agents.run.seals import CANARY_FILE, KEY_COMMITMENT, Seals
from sartor_api.search.leaks import CANARY_PREFIX, LEAKED, canary_of, find, find_in_files
from sartor_api.search.records import FailureClass, Implementation, Outcome, SeedCommitment, StepKind

SECRET = CANARY_PREFIX + hashlib.sha256(b"a test's secret").hexdigest()


def zipped(data: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", data * 3)
    return whole.getvalue()


def escaped(form: str) -> Callable[[bytes], bytes]:
    return lambda data: "".join(form % code for code in data).encode()


HIDDEN: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda data: data,
    "a part of it": lambda data: data[21:45],
    "reversed": lambda data: data[::-1],
    "in capitals": lambda data: data.upper(),
    "base64": base64.b64encode,
    "base64, shifted by one": lambda data: base64.b64encode(b"x" + data),
    "base64, shifted by two": lambda data: base64.b64encode(b"xy" + data),
    "base64 for addresses": lambda data: base64.urlsafe_b64encode(b"~~?" + data),
    "base64 in lines": lambda data: base64.encodebytes(data * 2),
    "base64 in pieces of source": lambda data: b'"\n    "'.join(
        base64.b64encode(data)[at : at + 7] for at in range(0, 120, 7)
    ),
    "base64 twice": lambda data: base64.b64encode(base64.b64encode(data)),
    "base64 of it reversed": lambda data: base64.b64encode(data[::-1]),
    "base32": base64.b32encode,
    "hexadecimal": lambda data: data.hex().encode(),
    "hexadecimal capitals": lambda data: data.hex().upper().encode(),
    "hexadecimal list": lambda data: b", ".join(b"0x%02x" % code for code in data),
    "C escapes": escaped("\\x%02x"),
    "octal escapes": escaped("\\%03o"),
    "JSON escapes": escaped("\\u%04x"),
    "percent": escaped("%%%02X"),
    "list of numbers": lambda data: str(list(data)).encode(),
    "list of characters": lambda data: str([chr(code) for code in data]).encode(),
    "cut by line breaks": lambda data: b"\n\t".join(data[at : at + 5] for at in range(0, len(data), 5)),
    "sum of strings": lambda data: b"' + '".join(data[at : at + 3] for at in range(0, len(data), 3)),
    "wide characters": lambda data: data.decode().encode("utf-16"),
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "gzip in base64": lambda data: base64.b64encode(gzip.compress(b"some text before " + data)),
    "gzip in hexadecimal": lambda data: gzip.compress(data).hex().encode(),
    "gzip in gzip": lambda data: gzip.compress(b"outer " + gzip.compress(data)),
}


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
def test_a_secret_is_found_however_it_is_hidden(hide: Callable[[bytes], bytes]) -> None:
    content = b"# a module\nTABLE = '" + hide(SECRET.encode()) + b"'\nprint(TABLE)\n"
    leak = find([SECRET], [("stack/app.py", content)])
    assert leak is not None and leak.where == "stack/app.py"
    assert SECRET not in str(leak)


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
def test_another_string_hidden_in_the_same_way_is_not_taken_for_it(hide: Callable[[bytes], bytes]) -> None:
    other = "sartorcanarz" + hashlib.sha256(b"something else").hexdigest()
    assert find([SECRET], [("stack/app.py", hide(other.encode()))]) is None


def test_a_secret_is_found_in_a_name_and_cut_over_several_files() -> None:
    assert find([SECRET], [(f"stack/{SECRET}.py", b"")]) is not None
    pieces = {f"stack/{at:02d}.txt": SECRET[at : at + 6].encode() for at in range(0, len(SECRET), 6)}
    assert find([SECRET], sorted(pieces.items())) is None
    assert find_in_files([SECRET], pieces) is not None


def test_a_bomb_of_compression_ends_and_hides_nothing_before_it() -> None:
    bomb = gzip.compress(SECRET.encode() + b"\0" * (1 << 26), compresslevel=9)
    assert find([SECRET], [("stack/data", bomb)]) is not None
    assert find([SECRET], [("stack/data", gzip.compress(b"\0" * (1 << 26)))]) is None


def test_what_is_too_short_to_be_told_from_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        find(["sartor"], [("a", b"")])


def test_the_projects_own_sources_leak_nothing() -> None:
    root = Path(__file__).parents[3] / "skills"
    files = {str(path): path.read_bytes() for path in sorted(root.rglob("*.py"))[:60]}
    assert len(files) > 20 and find_in_files([SECRET], files) is None


# --- in a run ---------------------------------------------------------------------------------------------------------


def test_the_key_is_committed_to_before_the_first_step_and_every_seed_before_its_own(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, spec=run_spec(rounds=1))
    assert run.driver().drive().outcome is Outcome.CONFIRMED
    layout = RunLayout(tmp_path / "run")
    repository, seals = RunRepository(layout.repository), Seals(layout.sealed)
    first = repository.added("run.json")
    assert first is not None and repository.added(KEY_COMMITMENT) == first
    said = SeedCommitment.model_validate_json(repository.read_text(KEY_COMMITMENT) or "")
    assert said.value is None and said.digest == hashlib.sha256(seals.key.encode()).hexdigest()
    assert (layout.sealed / CANARY_FILE).read_text().strip() == canary_of(seals.key)
    assert all((folder / CANARY_FILE).is_file() for folder in layout.samples.iterdir())


def test_a_run_whose_key_was_replaced_goes_no_further(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, spec=run_spec(rounds=1))
    run.driver()
    (tmp_path / "run" / "sealed" / "key").write_text("ab" * 32)
    with pytest.raises(DamagedRepositoryError, match="not the one that was committed to"):
        run.driver()


@pytest.mark.parametrize(
    ("behaviour", "step", "where"),
    [
        ("leaks-source", StepKind.IMPLEMENT, "stack/notes.py"),
        ("leaks-summary", StepKind.IMPLEMENT, "implementer"),
        ("leaks-build", StepKind.JUDGE, "stack/build/cache.bin"),
        ("leaks-log", StepKind.JUDGE, "candidate.log"),
    ],
)
def test_a_candidate_that_holds_sealed_data_is_rejected(
    tmp_path: Path, behaviour: str, step: StepKind, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where there is a sandbox a candidate cannot get at what it is to leak.
    monkeypatch.setattr(candidates, "sandbox_program", lambda: None)
    run = LocalRun(tmp_path, {"implementer": behaviour}, spec=run_spec(rounds=1, attempts=1))
    assert run.driver().drive().outcome is not Outcome.CONFIRMED
    records = RunRepository(RunLayout(tmp_path / "run").repository).load().records
    failed = next(record for record in records if record.failure is not None)
    assert failed.failure is not None
    assert failed.step is step and failed.failure.reason == LEAKED
    assert failed.failure.failure_class is FailureClass.CANDIDATE and where in failed.failure.message


@pytest.mark.skipif(sandbox_program() is None, reason="bubblewrap cannot make a sandbox here")
def test_in_the_sandbox_there_is_nothing_to_leak(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, {"implementer": "leaks-log"}, spec=run_spec(rounds=1, attempts=1))
    assert run.driver().drive().outcome is not Outcome.CONFIRMED
    records = RunRepository(RunLayout(tmp_path / "run").repository).load().records
    failed = next(record.failure for record in records if record.failure is not None)
    assert failed.reason == "CandidateDied" and "FileNotFoundError" in failed.message


def test_what_is_in_any_commit_or_note_of_the_repository_is_looked_at_once(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run")
    layout.make()
    seals = Seals(layout.sealed)
    repository = RunRepository.create(layout.repository, run_spec(), "", 0.0)
    watch = LeakWatch(layout, repository, seals)
    assert watch.files({"stack/__main__.py": b""}, "implement") is None
    files = {"stack/__main__.py": b"x", "stack/a.txt": base64.b64encode(seals.canary.encode())}
    repository.save_candidate(7, None, files, Implementation(), 1.0)
    verdict = watch.files({"stack/__main__.py": b""}, "implement")
    assert verdict is not None and verdict.reason == LEAKED and "stack/a.txt" in verdict.message
    message = Implementation(summary=f"thanks for {seals.key}")
    clean = LeakWatch(layout, RunRepository(layout.repository), seals)
    repository.save_candidate(8, None, {"stack/__main__.py": b"y"}, message, 1.0)
    clean._seen = {name for name, path in repository.objects(()) if path}  # pyright: ignore[reportPrivateUsage]
    verdict = clean.files({"stack/__main__.py": b""}, "implement")
    assert verdict is not None and "the message of commit" in verdict.message


def test_a_transcript_that_was_dropped_for_room_is_no_trouble(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    layout.make()
    seals = Seals(layout.sealed)
    repository = RunRepository.create(layout.repository, run_spec(), "", 0.0)
    folder = layout.models / "transcripts" / "fake"
    folder.mkdir(parents=True)
    for step in (1, 2, 3):
        (folder / f"00{step}-plan-1.jsonl").write_text(seals.key if step == 3 else "nothing")
    found = LeakWatch(layout, repository, seals)._transcripts()  # pyright: ignore[reportPrivateUsage]
    next(found)
    (folder / "002-plan-1.jsonl").unlink()
    assert [content for _, content in found] == [seals.key.encode()]
