"""Transcripts as pages: hostile text is data, sizes are bounded, and only what changed is written again."""

import os
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_fakes import HARDWARE

from sartor_agents.report import conversations
from sartor_agents.report.build import render as render_report
from sartor_agents.report.conversations import conversation, render, visible, write_pages
from sartor_agents.transcripts.events import Answered, Asked, Entry, Failed, Repeated, TranscriptEvent
from sartor_agents.transcripts.redact import Redactor
from sartor_agents.transcripts.store import TranscriptStore
from sartor_api.search.budget import Ledger
from sartor_api.search.state import fold

from run_fakes import run_spec  # isort: skip

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><a href=javascript:alert(1)>",
    "</pre></details></body><iframe src=//evil.example></iframe>",
    "{{ config }}{% for x in y %}${7*7}",
    "<style>body{display:none}</style><meta http-equiv=refresh content='0;url=//evil.example'>",
)


class Page(HTMLParser):
    """What a browser would make elements of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def asked(*entries: Entry, anew: bool = True) -> Asked:
    return Asked(at=1.0, call="c", role="planner", model="m", api="responses", anew=anew, entries=entries)


def answered(*entries: Entry, **more: object) -> Answered:
    values = {"at": 2.0, "call": "c", "endpoint": "e", "seconds": 1.5, "input": 100, "cached_input": 40, "output": 7}
    return Answered(entries=entries, **{**values, **more})  # type: ignore[arg-type]


def store(folder: Path, *events: TranscriptEvent, step: str = "001/plan/1") -> Path:
    kept = TranscriptStore(folder, redact=Redactor())
    for event in events:
        kept.append("r", step, event)
    return kept.path("r", step)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text_wherever_it_stands(tmp_path: Path, text: str) -> None:
    hostile = Entry(kind="result", text=text, name=text, id=text)
    source = store(
        tmp_path, asked(hostile, Entry(kind="user", text=text * 40)), answered(hostile, end=text[:64]),
        Failed(at=3.0, call=text, reason="BrokenOff", message=text),
    )  # fmt: skip
    one = conversation(source)
    page = Page(render(one, [*conversations.read_transcript(source)]))
    allowed = {"html", "head", "meta", "title", "style", "body", "p", "a", "h1", "h2", "span", "code", "div", "b",
               "pre", "details", "summary"}  # fmt: skip
    assert set(page.tags) <= allowed and page.tags.count("style") == 1 and page.tags.count("meta") == 4
    assert {name for name, _ in page.attributes} <= {
        "lang",
        "charset",
        "name",
        "content",
        "http-equiv",
        "class",
        "href",
    }
    assert [value for name, value in page.attributes if name == "href"] == ["../report.html"]


def test_what_hides_or_turns_text_around_is_shown_by_name() -> None:
    assert visible("a\u202egpj.exe\x00\u200b") == "a⟨right-to-left override⟩gpj.exe⟨U+0000⟩⟨zero width space⟩".replace(
        "U+0000", "u+0000"
    )
    assert visible("a\U000e0041b") == "a⟨tag latin capital letter a⟩b", "invisible, and read by models"
    assert visible("tab\tline\nüß汉🙂") == "tab\tline\nüß汉🙂"


def test_the_numbers_are_those_of_the_events(tmp_path: Path) -> None:
    source = store(
        tmp_path, asked(Entry(kind="user", text="go")), answered(money="0.25"), asked(anew=False), answered(money="0.5"),
        Repeated(at=3.0, call="c"), Failed(at=3.0, call="c", reason="BrokenOff", tokens=11),
    )  # fmt: skip
    one = conversation(source)
    assert (one.step, one.role, one.models, one.page) == ("001-plan-1", "planner", ("m",), "001-plan-1.html")
    assert (one.calls, one.failed, one.repeated, one.lost_tokens) == (2, 1, 1, 11)
    assert (one.input, one.cached_input, one.output, str(one.money), one.seconds) == (200, 80, 14, "0.75", 3.0)


def test_a_page_is_bounded_and_says_where_the_rest_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "LARGEST_PAGE", 20_000)
    source = store(tmp_path, *(asked(Entry(kind="user", text="x" * 5000)) for _ in range(50)))
    page = render(conversation(source), conversations.read_transcript(source))
    assert len(page) < 40_000 and "The page is full; the rest is in 001-plan-1.jsonl" in page


def test_pages_follow_their_transcripts(tmp_path: Path) -> None:
    target = tmp_path / "pages"
    assert write_pages(tmp_path / "none", target) == () and not target.exists()
    first = store(tmp_path / "t", asked(Entry(kind="user", text="one")), step="001/plan/1")
    store(tmp_path / "t", asked(Entry(kind="user", text="two")), step="001/implement/1")
    assert [one.step for one in write_pages(first.parent, target)] == ["001-implement-1", "001-plan-1"]
    assert sorted(path.name for path in target.iterdir()) == ["001-implement-1.html", "001-plan-1.html"]
    for page in target.iterdir():
        os.utime(page, ns=(2**62, 2**62))
    untouched = (target / "001-plan-1.html").stat().st_ino
    (first.parent / "001-implement-1.jsonl").unlink()
    write_pages(first.parent, target)
    assert [path.name for path in target.iterdir()] == ["001-plan-1.html"], (
        "what was dropped for room is no page any more"
    )
    assert (target / "001-plan-1.html").stat().st_ino == untouched
    os.utime(target / "001-plan-1.html", ns=(0, 0))
    write_pages(first.parent, target)
    assert (target / "001-plan-1.html").stat().st_ino != untouched


def test_a_transcript_that_is_dropped_meanwhile_has_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = store(tmp_path / "t", asked(), step="001/plan/1")
    dropped = store(tmp_path / "t", asked(), step="002/plan/1")
    read = conversations.read_transcript

    def drops(source: Path) -> Iterator[TranscriptEvent]:
        dropped.unlink(missing_ok=True)
        return read(source)

    monkeypatch.setattr(conversations, "read_transcript", drops)
    assert [one.source for one in write_pages(kept.parent, tmp_path / "pages")] == [kept]
    assert [page.name for page in (tmp_path / "pages").iterdir()] == ["001-plan-1.html"]


def test_the_report_lists_them(tmp_path: Path) -> None:
    source = store(tmp_path, asked(Entry(kind="user", text="go")), answered(money="0.25"))
    run = fold(run_spec(), [], ledger=Ledger(), session_started=0.0)
    text = render_report(run, HARDWARE, [conversation(source)])
    assert '<a href="conversations/001-plan-1.html">001-plan-1</a>' in text and "100 (40)" in text and "0.2500" in text
    assert "Conversations with models" not in render_report(run, HARDWARE)
