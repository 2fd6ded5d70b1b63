"""A recorded answer as it may be given away: without secrets, also those that came in pieces.

A stream brings a text in many events, and a secret in it stands in none of them whole. So what belongs together is put
together first (the same field of the same part of the answer, through all events), and what is to be taken out of the whole
is taken out of its pieces. What is JSON stays JSON: a body, or the events of a stream.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

from sartor_agents.transcripts.redact import Redactor

_PREFIX = "data: "
_OF_EVENT = ("type", "item_id", "output_index", "content_index", "summary_index")
"""What tells the texts of one event of the Responses protocol from those of others."""

Place = tuple[Any, int | str]
"""An object or array, and the key of a text in it."""


def redacted(answer: str, redact: Redactor) -> str:
    """The answer (a JSON body, or server-sent events) without what `redact` takes out."""
    try:
        return json.dumps(redact.json(json.loads(answer)))
    except (ValueError, RecursionError):
        pass
    lines = [_event(line) for line in answer.split("\n")]
    together: dict[tuple[object, ...], list[Place]] = defaultdict(list)
    for line in lines:
        if not isinstance(line, str):
            for key, place in _texts(line, tuple(str(line.get(name)) for name in _OF_EVENT)):
                together[key].append(place)
    for places in together.values():
        for (holder, key), text in zip(places, redact.pieces([h[k] for h, k in places]), strict=True):
            holder[key] = text
    return "\n".join(
        redact(line) if isinstance(line, str) else _PREFIX + json.dumps(redact.json(line)) for line in lines
    )


def _event(line: str) -> str | dict[str, Any]:
    """The JSON object of a line of data; any other line as it is."""
    if not line.startswith(_PREFIX):
        return line
    try:
        event = json.loads(line.removeprefix(_PREFIX))
    except (ValueError, RecursionError):
        return line
    return cast(dict[str, Any], event) if isinstance(event, dict) else line


def _texts(value: Any, where: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], Place]]:
    """Every text in an event, with what it is a text of. Elements of an array go by their `index` where they have one."""
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = list(cast(dict[str, Any], value).items())
        names: list[object] = [name for name, _ in items]
    elif isinstance(value, list):
        items = list(enumerate(cast(list[Any], value)))
        names = [cast(dict[str, Any], one).get("index", n) if isinstance(one, dict) else n for n, one in items]
    else:
        return
    for name, (key, one) in zip(names, items, strict=True):
        if isinstance(one, str):
            yield (*where, name), (value, key)
        else:
            yield from _texts(one, (*where, str(name)))
