"""Takes secrets out of text before it is kept or shown.

Known secrets (the provider's keys) are replaced wherever they stand; what looks like a credential (a grant of this run among
them) is replaced by its form, since an agent may have found one that nobody here knows. Text may be JSON, in which what
stands before a credential may be the letter of an escaped line break.
"""

import re
from collections.abc import Iterable, Sequence

from pydantic import JsonValue

REDACTED = "[redacted]"
SHORTEST = 8
"""Characters of a known secret, below which replacing it would replace ordinary words."""

_START = r"(?:(?<![A-Za-z0-9_])|(?<=\\[bfnrt]))"
"""Where a word begins, also one behind an escaped line break."""
_WORDS = r"""
      (?:sk|pk|rk)-(?:[A-Za-z]+-)?[A-Za-z0-9_-]{16,}
    | sartor-grant-[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?
    | hf_[A-Za-z0-9]{20,}
    | gh[pousr]_[A-Za-z0-9]{20,}
    | github_pat_[A-Za-z0-9_]{20,}
    | gl(?:pat|oas)-[A-Za-z0-9_-]{16,}
    | xox[abprs]-[A-Za-z0-9-]{10,}
    | (?:AKIA|ASIA)[A-Z0-9]{16}\b
    | AIza[A-Za-z0-9_-]{30,}
    | eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*
"""
_FORMS = re.compile(
    rf"""
      -----BEGIN[ A-Z]*PRIVATE\ KEY-----.*?(?:-----END[ A-Z]*PRIVATE\ KEY-----|\Z)
    | {_START}(?:{_WORDS})
    | (?<=[Bb]earer\ )[A-Za-z0-9._~+/-]{{16,}}=*
    | (?<=://)[^\s/:@"']{{1,256}}:[^\s/@"']{{1,256}}(?=@)
    """,
    re.VERBOSE | re.DOTALL,
)


class Redactor:
    """Replaces `secrets` and whatever has the form of one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({s for s in secrets if len(s) >= SHORTEST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        return _FORMS.sub(REDACTED, text)

    def pieces(self, parts: Sequence[str]) -> list[str]:
        """The parts of one text without what would be replaced in the whole; what stands in its place is in the first part
        that a secret lies in."""
        text = "".join(parts)
        found = [*_FORMS.finditer(text), *(self._known.finditer(text) if self._known is not None else ())]
        spans = sorted(match.span() for match in found)
        left: list[str] = []
        at = 0
        for part in parts:
            end, kept, place = at + len(part), "", at
            for start, stop in spans:
                if place < stop and start < end:
                    kept += text[place:start] + (REDACTED if place <= start else "")
                    place = min(stop, end)
            left.append(kept + text[place:end])
            at = end
        return left

    def json(self, value: JsonValue) -> JsonValue:
        """A JSON value with every text in it redacted, names of fields included; its structure stays."""
        match value:
            case str():
                return self(value)
            case list():
                return [self.json(one) for one in value]
            case dict():
                return {self(name): self.json(one) for name, one in value.items()}
            case _:
                return value
