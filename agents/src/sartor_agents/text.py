"""Text that UTF-8 can hold.

JSON can escape half of a surrogate pair (`"\\ud800"`), and models write that; no file, no request and no record takes it.
"""

import json
import re

from pydantic import JsonValue

_SURROGATES = re.compile("[\ud800-\udfff]")


def legible(text: str) -> str:
    """The text with U+FFFD in place of each half of a pair."""
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def is_legible(value: JsonValue) -> bool:
    """Whether every text in a JSON value can be written down."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def legible_json(value: JsonValue) -> JsonValue:
    """A JSON value with every text in it made legible, names of fields included."""
    return value if is_legible(value) else json.loads(legible(json.dumps(value, ensure_ascii=False)))
