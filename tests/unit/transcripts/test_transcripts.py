"""Transcripts: without secrets, of bounded size, whole after a crash."""

import json
from pathlib import Path

import pytest

from sartor_agents.transcripts.events import Asked, Entry, Failed
from sartor_agents.transcripts.redact import REDACTED, Redactor
from sartor_agents.transcripts.store import LONGEST_ENTRY, LONGEST_NAME, TranscriptStore, read_transcript


def event(text: str = "x", at: float = 1.0) -> Asked:
    entry = Entry(kind="user", text=text)
    return Asked(at=at, call="c", role="planner", model="m", api="responses", anew=True, entries=(entry,))


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop1234", "sk-0123456789abcdef", "hf_abcdefghijklmnopqrstuvwx", "ghp_abcdefghijklmnopqrst12",
        "glpat-abcdefghijklmnop", "xoxb-1234567890-abc", "AKIAIOSFODNN7EXAMPLE", "AIzaSyA-1234567890abcdefghijklmnopqrs",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "known-secret-value",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "sartor-grant-eyJydW4iOiJlZGl0b3Ii.c2lnbmVk",
    ],
)  # fmt: skip
def test_credentials_are_taken_out(secret: str) -> None:
    text = Redactor(["known-secret-value"])(f"before {secret} after")
    assert secret not in text
    assert REDACTED in text
    assert text.startswith("before ")


def test_credentials_at_the_beginning_of_a_line_of_escaped_text_are_taken_out() -> None:
    """The arguments of a call are JSON: a line break in them is a backslash and a letter."""
    for secret in ("sk-0123456789abcdef0123", "AKIAIOSFODNN7EXAMPLE", "hf_abcdefghijklmnopqrstuvwx"):
        arguments = json.dumps({"content": f"first\n{secret}\tlast"})
        assert secret not in Redactor()(arguments) and json.loads(Redactor()(arguments))


def test_a_json_value_keeps_its_form_whatever_is_taken_out() -> None:
    value = {"a": ["-----BEGIN PRIVATE KEY-----\nMII", 1, None], "sk-0123456789abcdef": {"b": "AKIAIOSFODNN7EXAMPLE"}}
    assert Redactor().json(value) == {"a": [REDACTED, 1, None], REDACTED: {"b": REDACTED}}  # type: ignore[arg-type]


def test_credentials_in_addresses_and_headers_are_taken_out() -> None:
    redact = Redactor()
    assert redact("https://me:hunter2hunter2@host/x") == f"https://{REDACTED}@host/x"
    assert redact("Authorization: Bearer abcdefghijklmnopqrstuv") == f"Authorization: Bearer {REDACTED}"


def test_ordinary_text_stays() -> None:
    text = "def sk_learn(): return 'task-force', http://host:8000/v1, sha256:0123456789abcdef0123456789abcdef"
    assert Redactor(["short"])(text) == text


def test_events_come_back_in_order_and_a_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    store = TranscriptStore(tmp_path, redact=Redactor())
    for number in range(3):
        store.append("run", "003/plan/1", event(f"text {number}"))
    store.append("run", "003/plan/1", Failed(at=2.0, call="c", reason="Out", message="sk-0123456789abcdef"))
    path = store.path("run", "003/plan/1")
    with path.open("ab") as file:
        file.write(b'{"kind": "asked", "at"')
    events = list(read_transcript(path))
    assert [e.entries[0].text for e in events[:3]] == ["text 0", "text 1", "text 2"]  # type: ignore[union-attr]
    assert events[3] == Failed(at=2.0, call="c", reason="Out", message=REDACTED)
    assert path.stat().st_mode & 0o077 == 0


def test_a_step_goes_on_behind_a_line_that_was_cut(tmp_path: Path) -> None:
    store = TranscriptStore(tmp_path, redact=Redactor())
    for text in ("one", "two"):
        store.append("run", "s", event(text))
        with store.path("run", "s").open("ab") as file:
            file.write(b'{"kind": "asked", "at"')
    store.append("run", "s", event("three"))
    assert [e.entries[0].text for e in read_transcript(store.path("run", "s"))] == ["one", "two", "three"]  # type: ignore[union-attr]


def test_names_that_a_model_chose_are_bounded_and_without_secrets(tmp_path: Path) -> None:
    entry = Entry(kind="call", name="sk-0123456789abcdef", id="x" * 100_000, text="{}")
    TranscriptStore(tmp_path, redact=Redactor()).append(
        "run", "s", event().model_copy(update={"entries": (entry,), "call": "AKIAIOSFODNN7EXAMPLE"})
    )
    (kept,) = read_transcript(tmp_path / "run" / "s.jsonl")
    assert isinstance(kept, Asked)
    assert (kept.call, kept.entries[0].name, len(kept.entries[0].id)) == (REDACTED, REDACTED, LONGEST_NAME)


def test_text_that_is_none_is_kept_legibly(tmp_path: Path) -> None:
    """A model may write half of a surrogate pair; the call was paid all the same."""
    store = TranscriptStore(tmp_path, redact=Redactor())
    entry = Entry(kind="call", name="a\ud800", id="\udfff", text="b\udc00c🙂")
    store.append("run", "s", event().model_copy(update={"entries": (entry,)}))
    store.append("run", "s", Failed(at=2.0, call="\ud800", reason="Out", message="\ud800"))
    asked, failed = read_transcript(tmp_path / "run" / "s.jsonl")
    assert isinstance(asked, Asked) and isinstance(failed, Failed)
    kept = asked.entries[0]
    assert (kept.name, kept.id, kept.text, failed.message) == ("a\ufffd", "\ufffd", "b\ufffdc🙂", "\ufffd")


def test_a_damaged_line_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"{}\n" + event().model_dump_json().encode() + b"\n")
    with pytest.raises(ValueError, match="kind"):
        list(read_transcript(path))


def test_a_giant_entry_is_cut_and_counted(tmp_path: Path) -> None:
    store = TranscriptStore(tmp_path, redact=Redactor())
    store.append("run", "s", event("y" * (LONGEST_ENTRY + 500)))
    (kept,) = read_transcript(store.path("run", "s"))
    assert isinstance(kept, Asked)
    assert (len(kept.entries[0].text), kept.entries[0].cut) == (LONGEST_ENTRY, 500)


def test_the_oldest_steps_make_room(tmp_path: Path) -> None:
    import os

    store = TranscriptStore(tmp_path, maximum_bytes=10_000, redact=Redactor())
    for step in range(6):
        for _ in range(3):
            store.append("run", f"{step:03d}/plan/1", event("z" * 1000))
        os.utime(store.path("run", f"{step:03d}/plan/1"), (step, step))
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left[-1] == "005-plan-1.jsonl"
    assert "000-plan-1.jsonl" not in left
    assert sum(path.stat().st_size for path in (tmp_path / "run").iterdir()) <= 10_000


@pytest.mark.parametrize("run", ["../../etc", "/abs", "..", "a/b", ""])
def test_names_do_not_lead_out_of_the_folder(tmp_path: Path, run: str) -> None:
    store = TranscriptStore(tmp_path / "t", redact=Redactor())
    store.append(run, "../x", event())
    (written,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert written.is_relative_to(tmp_path / "t")
    assert len(written.relative_to(tmp_path / "t").parts) == 2
