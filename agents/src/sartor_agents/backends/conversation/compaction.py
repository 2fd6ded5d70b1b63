"""What to leave out of a conversation that has become too long.

Kept whole: the opening (the task and its plan), the latest turns, and the last evidence of a failure, since a model that
forgets what is wrong mends something else. Older results are shortened first; where that is not enough, older turns are
replaced by a list of what was done in them. Made by rule, not by another model: it costs nothing, and the same conversation
is always shortened in the same way.

Between two compactions a conversation only grows at its end, so that a provider's prompt cache keeps finding its beginning.
So each one goes well below the limit (`TARGET`) rather than just below it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sartor_agents.backends.conversation.messages import Answer, Item, Result, Said

TARGET = 0.5
"""Share of the budget that is left in use."""
RECENT = 0.5
"""Share of the target for the latest turns that stay whole."""
SHORT, LINE = 300, 160
"""Characters that stay of an old result, and of an entry in the list of what was done."""
LEAST = 1_000
"""Characters that stay of a result in the latest turn, however long it is."""

LEFT_OUT = "[… {count} characters left out to save room; make the call again if you need them]"
HEADING = "Earlier turns were left out to save room. What was done in them, oldest first:"
EVIDENCE = "The last failure that you saw in them:"

Weigh = Callable[[Item], int]


def compact(items: Sequence[Item], *, budget: int, weigh: Weigh) -> tuple[Item, ...]:
    """A conversation of at most `TARGET · budget`, as far as that can be had, in the units of `weigh`.

    `items` begins with the opening. Calls stay together with their results. A conversation that is short enough is given
    back as it is.
    """
    goal = int(TARGET * budget)
    if not items or sum(map(weigh, items)) <= goal:
        return tuple(items)
    opening, digest, turns = _turns(items)
    evidence = _last_failure(items)
    recent = _recent(turns, int(RECENT * goal), weigh)
    old = turns[: len(turns) - recent]
    latest = turns[len(turns) - recent :]
    shortened = [[_shorter(item, SHORT) if item is not evidence else item for item in turn] for turn in old]
    kept = _flat(opening, digest, [*shortened, *latest])
    if sum(map(weigh, kept)) <= goal:
        return kept
    told = _digest(digest, old, evidence if any(evidence is item for turn in old for item in turn) else None)
    kept = _flat(opening, told, latest)
    limit = max((len(item.text) for item in kept if isinstance(item, Result)), default=0)
    while sum(map(weigh, kept)) > goal and limit > LEAST:
        limit = max(LEAST, limit // 2)
        kept = tuple(_shorter(item, limit) for item in kept)
    return kept


def _turns(items: Sequence[Item]) -> tuple[Said, Said | None, list[list[Item]]]:
    """The opening, the list of what was left out before, and each answer with what followed it."""
    opening, *rest = items
    assert isinstance(opening, Said), "a conversation begins with what the model is told"
    digest = None
    if rest and isinstance(rest[0], Said) and rest[0].digest:
        digest, *rest = rest
        assert isinstance(digest, Said)
    turns: list[list[Item]] = []
    for item in rest:
        if isinstance(item, Answer) or not turns:
            turns.append([])
        turns[-1].append(item)
    return opening, digest, turns


def _flat(opening: Said, digest: Said | None, turns: Sequence[Sequence[Item]]) -> tuple[Item, ...]:
    return (opening, *([digest] if digest else []), *(item for turn in turns for item in turn))


def _last_failure(items: Sequence[Item]) -> Result | None:
    return next((item for item in reversed(items) if isinstance(item, Result) and item.failed), None)


def _recent(turns: Sequence[Sequence[Item]], room: int, weigh: Weigh) -> int:
    """How many of the latest turns fit into `room`; at least one."""
    count = 0
    for turn in reversed(turns):
        room -= sum(map(weigh, turn))
        if room < 0 and count:
            break
        count += 1
    return count


def _shorter(item: Item, limit: int) -> Item:
    if not isinstance(item, Result) or len(item.text) <= limit + len(LEFT_OUT):
        return item
    return replace(item, text=cut(item.text, limit))


def cut(text: str, limit: int) -> str:
    """Beginning and end of a text, `limit` characters of it, with a word on what was left out between them."""
    if len(text) <= limit:
        return text
    head = limit // 2
    gone = LEFT_OUT.format(count=len(text) - limit)
    return f"{text[:head]}\n{gone}\n{text[len(text) - (limit - head) :]}"


MOST_LINES = 120
"""Entries of the list of what was done; the oldest go first."""


def _digest(before: Said | None, turns: Sequence[Sequence[Item]], evidence: Result | None) -> Said:
    lines: list[str] = []
    if before is not None:
        listed = before.text.split(EVIDENCE)[0].splitlines()
        lines += [line for line in listed if line.startswith("- ")]
    for turn in turns:
        results = {item.call: item for item in turn if isinstance(item, Result)}
        for item in turn:
            if not isinstance(item, Answer):
                continue
            if item.text.strip():
                lines.append(f"- you said: {_line(item.text)}")
            for call in item.calls:
                result = results.get(call.id)
                how = "" if result is None else f" → {'FAILED: ' if result.failed else ''}{_line(result.text)}"
                lines.append(f"- {call.name} {_line(call.arguments)}{how}")
    text = "\n".join([HEADING, *lines[-MOST_LINES:]])
    told = evidence.text if evidence is not None else _evidence(before)
    return Said(f"{text}\n\n{EVIDENCE}\n{cut(told, 8_000)}" if told else text, digest=True)


def _evidence(before: Said | None) -> str:
    """The failure in an earlier list, which stays until a later one replaces it."""
    return before.text.partition(f"\n\n{EVIDENCE}\n")[2] if before is not None else ""


def _line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LINE else flat[: LINE - 1] + "…"
