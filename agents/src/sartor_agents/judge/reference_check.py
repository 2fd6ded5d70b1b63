"""What a reference says of one answer, without the weights that said it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ReferenceCheck:
    """A teacher-forced reading; every field has one entry per token of the answer."""

    agrees: tuple[bool, ...]
    """Whether its own choice (argmax) is the answer's token."""
    gaps: tuple[float, ...]
    """Logits: where it agrees, best minus second best; where not, best minus the answer's token (never smaller)."""
    choices: tuple[int, ...]
    """Its own choice, given the answer up to there."""
    logprobs: tuple[float, ...]
    """Natural-log probability of the answer's token."""
    top: tuple[tuple[int, ...], ...]
    """[n, k] its k best tokens, best first."""
    top_logprobs: tuple[tuple[float, ...], ...]
    """[n, k] their natural-log probabilities."""

    @property
    def divergence(self) -> int | None:
        """The first position where it would have written something else, tie or not."""
        return next((place for place, same in enumerate(self.agrees) if not same), None)

    @property
    def agreement(self) -> float:
        """Share of positions that agree (top-1 agreement); 1 for an empty answer."""
        return sum(self.agrees) / len(self.agrees) if self.agrees else 1.0

    @property
    def margins(self) -> tuple[float, ...]:
        """Its two best logits' distance, whatever the answer's token was: what noise has to overcome to change the text."""
        return tuple(row[0] - row[1] for row in self.top_logprobs)

    def exact(self, tolerance: float) -> bool:
        """Greedy up to ties: at every disagreement the answer's token lies less than `tolerance` below the best."""
        return all(same or gap < tolerance for same, gap in zip(self.agrees, self.gaps, strict=True))

    def first(self, tokens: int) -> "ReferenceCheck":
        """The reading of the first `tokens` tokens of the answer: a causal model knows nothing of what comes later."""
        fields = (self.agrees, self.gaps, self.choices, self.logprobs, self.top, self.top_logprobs)
        return ReferenceCheck(*(field[:tokens] for field in fields))  # type: ignore[arg-type]


EMPTY = ReferenceCheck((), (), (), (), (), ())


class Checker(Protocol):
    """A reference; `sartor_agents.judge.reference.Reference` is the real one."""

    def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        """The reading in fp32."""
        ...

    def rounded(self, prompt_ids: Sequence[int], output_ids: Sequence[int], *, logits: bool) -> ReferenceCheck:
        """The same with weights and activations in bfloat16; `logits`: they too, as most engines have them."""
        ...

    def generate(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        """Its own greedy tokens, exactly so many."""
        ...
