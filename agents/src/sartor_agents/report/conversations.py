"""The conversations of a run as pages: one for each step that asked a model, beside the report that lists them.

All of it was written by others (models, candidates, logs): it is escaped, characters that would hide or turn text around are
shown by name, and the pages load and run nothing. A page has at most `LARGEST_PAGE` bytes of a transcript; the file itself,
which is named on it, has the rest.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from sartor_agents.run.storage import storage_errors, write_atomic
from sartor_agents.transcripts.events import Answered, Asked, Entry, Failed, Repeated, TranscriptEvent
from sartor_agents.transcripts.store import read_transcript

LARGEST_PAGE = 8 << 20
LONG_ENTRY = 1200
"""Characters of an entry beyond which it is folded."""
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True)
class Conversation:
    """One step's conversation in numbers. `money` is None where no price was known; `failed` are calls without an answer,
    `repeated` those that had been paid for before."""

    step: str
    source: Path
    role: str = ""
    models: tuple[str, ...] = ()
    calls: int = 0
    failed: int = 0
    repeated: int = 0
    input: int = 0
    cached_input: int = 0
    output: int = 0
    lost_tokens: int = 0
    money: Decimal | None = None
    seconds: float = 0.0

    @property
    def page(self) -> str:
        """The name of its page."""
        return f"{self.step}.html"


def conversation(source: Path) -> Conversation:
    """The numbers of one transcript."""
    role, models, money = "", dict[str, None](), None
    calls = failed = repeated = fresh = cached = output = lost = 0
    seconds = 0.0
    for event in read_transcript(source):
        match event:
            case Asked():
                role = event.role
                models.setdefault(event.model)
            case Answered():
                calls += 1
                fresh, cached, output = fresh + event.input, cached + event.cached_input, output + event.output
                seconds += event.seconds
                if event.money is not None:
                    money = (money or Decimal(0)) + Decimal(event.money)
            case Failed():
                failed += 1
                lost += event.tokens
            case Repeated():
                repeated += 1
    return Conversation(
        source.stem, source, role, tuple(models), calls, failed, repeated, fresh, cached, output, lost, money, seconds
    )


def write_pages(transcripts: Path, target: Path) -> tuple[Conversation, ...]:
    """Write the page of each transcript in the folder that has changed since; returns all of them, oldest step first.

    Pages of transcripts that were dropped for room are removed. Raises `StorageError`.
    """
    with storage_errors(target):
        sources = sorted(transcripts.glob("*.jsonl")) if transcripts.is_dir() else []
        if not sources and not target.is_dir():
            return ()
        target.mkdir(exist_ok=True, mode=0o700)
        found: list[Conversation] = []
        for source in sources:
            try:
                one = conversation(source)
                page = target / one.page
                changed = not page.exists() or page.stat().st_mtime_ns <= source.stat().st_mtime_ns
                text = render(one, read_transcript(source)) if changed else None
            except FileNotFoundError:
                continue  # the model proxy dropped it for room since it was listed
            if text is not None:
                write_atomic(page, text.encode(errors="replace"), mode=0o600)
            found.append(one)
        for gone in {page.name for page in target.glob("*.html")} - {one.page for one in found}:
            (target / gone).unlink()
    return tuple(found)


def render(one: Conversation, events: Iterable[TranscriptEvent]) -> str:
    """The page of one conversation."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    environment.filters["whole"] = lambda number: f"{number:,}"
    source = resources.files("sartor_agents.report").joinpath("conversation.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(one=one, events=_bounded(events), long=LONG_ENTRY)


def visible(text: str) -> str:
    """The text with what would not be seen, or would turn around what is seen, by name."""
    return _HIDDEN.sub(lambda found: f"⟨{_name(found[0])}⟩", text)


def _name(character: str) -> str:
    return unicodedata.name(character, f"U+{ord(character):04X}").lower()


def _bounded(events: Iterable[TranscriptEvent]) -> Iterator[TranscriptEvent | None]:
    """The events until the page is full, then None."""
    left = LARGEST_PAGE
    for event in events:
        left -= 200 + sum(map(_size, event.entries)) if isinstance(event, Asked | Answered) else 200
        if left < 0:
            yield None
            return
        yield event


def _size(entry: Entry) -> int:
    return len(entry.text) + len(entry.name) + 100
