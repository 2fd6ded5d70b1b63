"""Takes secrets out of text before it is kept or shown.

Known secrets (the provider's keys, tokens of this run) are replaced wherever they stand; what merely looks like a credential
is replaced by its form, since an agent may have found one that nobody here knows.
"""

import re
from collections.abc import Iterable

REDACTED = "[redacted]"
SHORTEST = 8
"""Characters of a known secret, below which replacing it would replace ordinary words."""

_FORMS = re.compile(
    r"""
      -----BEGIN[ A-Z]*PRIVATE\ KEY-----.*?(?:-----END[ A-Z]*PRIVATE\ KEY-----|\Z)
    | \b(?:sk|pk|rk)-(?:[A-Za-z]+-)?[A-Za-z0-9_-]{16,}
    | \bhf_[A-Za-z0-9]{20,}
    | \bgh[pousr]_[A-Za-z0-9]{20,}
    | \bgithub_pat_[A-Za-z0-9_]{20,}
    | \bgl(?:pat|oas)-[A-Za-z0-9_-]{16,}
    | \bxox[abprs]-[A-Za-z0-9-]{10,}
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b
    | \bAIza[A-Za-z0-9_-]{30,}
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*
    | (?<=[Bb]earer\ )[A-Za-z0-9._~+/-]{16,}=*
    | (?<=://)[^\s/:@"']{1,256}:[^\s/@"']{1,256}(?=@)
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
