"""Predictions that are right to a known degree: edits applied to an answer, seeded and exact in number.

*Share of right tokens*: with `replace`, the share of positions that hold the right token; with `delete`, the share of the
answer that is in the prediction; with `insert`, the share of the prediction that belongs to the answer; with `move`, the
share of the answer that stayed in place. So a share of 0.9 always means that one token in ten is not where it helps.
"""

from collections.abc import Callable, Sequence

import numpy as np

from sartor_agents.measurement.messages import EditKind

from .text import TextSource


def edit(kind: EditKind, answer: Sequence[int], share: float, rng: np.random.Generator, text: TextSource) -> list[int]:
    """The prediction: `answer` (token ids) edited so that `share` (0..1) of it is right."""
    return _EDITS[kind](list(answer), share, rng, text)


def _replace(answer: list[int], share: float, rng: np.random.Generator, text: TextSource) -> list[int]:
    wrong = round(len(answer) * (1 - share))
    for position in rng.choice(len(answer), wrong, replace=False):
        answer[position] = text.other(rng, answer[position])
    return answer


def _delete(answer: list[int], share: float, rng: np.random.Generator, text: TextSource) -> list[int]:
    lines, _ = _take_lines(answer, round(len(answer) * (1 - share)), rng, text)
    return [token for line in lines for token in line]


def _insert(answer: list[int], share: float, rng: np.random.Generator, text: TextSource) -> list[int]:
    if share <= 0:
        raise ValueError("inserted lines cannot make a prediction wholly wrong; use replace")
    lines = split_lines(answer, text)
    left = round(len(answer) * (1 / share - 1))
    while left > 0:
        length = min(left, int(rng.integers(4, 13)))
        lines.insert(int(rng.integers(len(lines) + 1)), [text.other(rng, -1) for _ in range(length)])
        left -= length
    return [token for line in lines for token in line]


def _move(answer: list[int], share: float, rng: np.random.Generator, text: TextSource) -> list[int]:
    lines, taken = _take_lines(answer, round(len(answer) * (1 - share)), rng, text)
    for home, line in taken:
        places = [place for place in range(len(lines) + 1) if place != home]
        lines.insert(int(rng.choice(places)) if places else 0, line)
    return [token for line in lines for token in line]


def split_lines(ids: Sequence[int], text: TextSource) -> list[list[int]]:
    """Token ids line by line; a line longer than 16 tokens is split, so that text without lines can be edited too."""
    lines: list[list[int]] = []
    for token in ids:
        if not lines or text.starts_line(token) or len(lines[-1]) >= 16:
            lines.append([])
        lines[-1].append(token)
    return lines


def _take_lines(
    ids: Sequence[int], tokens: int, rng: np.random.Generator, text: TextSource
) -> tuple[list[list[int]], list[tuple[int, list[int]]]]:
    """Remove whole lines (the last one in part) that hold `tokens` tokens together.

    Returns the lines that stay and (index it had among them, line) for each that was taken.
    """
    lines = split_lines(ids, text)
    taken: list[tuple[int, list[int]]] = []
    while tokens > 0 and lines:
        index = int(rng.integers(len(lines)))
        line = lines[index]
        part, rest = line[:tokens], line[tokens:]
        tokens -= len(part)
        if rest:
            lines[index] = rest
        else:
            del lines[index]
        taken.append((index, part))
    return lines, taken


_EDITS: dict[EditKind, Callable[[list[int], float, np.random.Generator, TextSource], list[int]]] = {
    "replace": _replace,
    "insert": _insert,
    "delete": _delete,
    "move": _move,
}
