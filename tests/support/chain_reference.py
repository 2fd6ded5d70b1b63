"""A reference for the fake servers' chain, with the log-probabilities that they make up."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fake_servers import likely

from sartor_agents.checkpoints import ChainFacts
from sartor_agents.judge.reference_check import ReferenceCheck


class ChainReference:
    """The reference of a chain checkpoint, without its weights; `ties` are positions where two logits are close.

    `noise` (nats) is what bfloat16 in its layers would do to it, in matrix products alone a quarter of that; rounded logits
    are in steps of 2⁻⁷.
    """

    def __init__(self, model_dir: Path, ties: Sequence[int] = (), *, noise: float = 0.005) -> None:
        self.facts = ChainFacts.load(model_dir)
        self.ties = set(ties)
        self.noise = noise
        self.readings = 0

    def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        self.readings += 1
        rows = [
            likely(self.facts, before, tied=place in self.ties)
            for place, before in enumerate([prompt_ids[-1], *output_ids[:-1]][: len(output_ids)])
        ]
        known = [dict(row) for row in rows]
        logprobs = [row.get(token, -9.0) for row, token in zip(known, output_ids, strict=True)]
        agrees = [row[0][0] == token for row, token in zip(rows, output_ids, strict=True)]
        gaps = [row[0][1] - (row[1][1] if same else of) for row, same, of in zip(rows, agrees, logprobs, strict=True)]
        return ReferenceCheck(
            tuple(agrees),
            tuple(gaps),
            tuple(row[0][0] for row in rows),
            tuple(logprobs),
            (0.0,) * len(rows),
            tuple(tuple(token for token, _ in row) for row in rows),
            tuple(tuple(value for _, value in row) for row in rows),
        )

    def rounded(
        self, prompt_ids: Sequence[int], output_ids: Sequence[int], *, layers: bool, logits: bool
    ) -> ReferenceCheck:
        exact = self._off(self.noise if layers else 0.0, prompt_ids, output_ids)
        if not logits:
            return exact
        tops = tuple(tuple(round(value * 128) / 128 for value in row) for row in exact.top_logprobs)
        return replace(exact, logprobs=tuple(round(value * 128) / 128 for value in exact.logprobs), top_logprobs=tops)

    def products(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        return self._off(self.noise / 4, prompt_ids, output_ids)

    def _off(self, noise: float, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        exact = self.check(prompt_ids, output_ids)
        tops = tuple(tuple(value - noise for value in row) for row in exact.top_logprobs)
        return replace(exact, logprobs=tuple(value - noise for value in exact.logprobs), top_logprobs=tops)

    def generate(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        return self.facts.walk(prompt_ids[-1], tokens)
