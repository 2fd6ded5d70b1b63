"""Names that are taken, and names that are not: of namespaces and runs in a URL, and of files in a commit.

A file has to have the same name on every machine that a stack may be unpacked on, Macs included, and must not surprise a
shell, a terminal or git itself.
"""

import re
import unicodedata

LONGEST_PATH = 255
LONGEST_NAME = 128
DEEPEST = 12

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
NAMESPACE = re.compile(_LABEL)
RUN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
"""DNS-1123 names as Kubernetes takes them: no dot at an end, no two in a row, so no way out of a folder."""
LONGEST_RUN = 253


def odd_name(path: str) -> str | None:
    """The sentence that refuses a path, or None. Bytes that are no UTF-8 come as surrogates (`surrogateescape`)."""
    shown = path.encode(errors="backslashreplace").decode()
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"the name {shown!r} is not UTF-8; rename the file"
    if len(path.encode()) > LONGEST_PATH:
        return f"the path {shown[:60]!r}… is longer than {LONGEST_PATH} bytes; shorten it"
    if unicodedata.normalize("NFC", path) != path:
        return f"the name {shown!r} is not in Unicode form NFC, so it is another file on other systems; rename it"
    parts = path.split("/")
    if len(parts) > DEEPEST:
        return f"{shown!r} lies more than {DEEPEST} folders deep; move it up"
    return next((answer for part in parts if (answer := _odd_part(part, shown)) is not None), None)


def _odd_part(part: str, shown: str) -> str | None:
    if part in ("", ".", ".."):
        return f"{shown!r} has an empty or relative part; rename the file"
    if len(part.encode()) > LONGEST_NAME:
        return f"{shown!r} has a part longer than {LONGEST_NAME} bytes; shorten it"
    if not part.isprintable():
        return f"{shown!r} has characters that cannot be seen; rename the file"
    if any(c in '\\:*?"<>|' for c in part):
        return f'{shown!r} has one of \\ : * ? " < > | in its name; rename the file'
    if part.startswith("-") or part != part.strip() or part.endswith("."):
        return f"{shown!r} begins with a dash, ends with a dot, or has blanks at an end; rename the file"
    if part.casefold().startswith(".git") or "~" in part:
        return f"{shown!r} has a name that git keeps for itself; rename the file"
    return None
