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
    steps: tuple[float, ...]
    """Distance of neighbouring bfloat16 numbers at the best logit: what rounding the logits may take for equal."""
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

    def tolerances(self, tolerance: float) -> tuple[float, ...]:
        """How far below the best a token may lie at each position and still be a tie.

        Two logits that round to the same bfloat16 number, or to neighbours that noise brings together, are less than a
        step apart; `tolerance` is left for the noise of the layers before.
        """
        return tuple(tolerance + step for step in self.steps)

    def exact(self, tolerance: float) -> bool:
        """Greedy up to ties, of which this is the tolerance."""
        limits = self.tolerances(tolerance)
        return all(same or gap < most for same, gap, most in zip(self.agrees, self.gaps, limits, strict=True))

    def first(self, tokens: int) -> "ReferenceCheck":
        """The reading of the first `tokens` tokens of the answer: a causal model knows nothing of what comes later."""
        fields = (self.agrees, self.gaps, self.choices, self.logprobs, self.steps, self.top, self.top_logprobs)
        return ReferenceCheck(*(field[:tokens] for field in fields))  # type: ignore[arg-type]


EMPTY = ReferenceCheck((), (), (), (), (), (), ())


class Checker(Protocol):
    """A reference; `sartor_agents.judge.reference.Reference` is the real one."""

    def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        """The reading in fp32."""
        ...

    def rounded(
        self, prompt_ids: Sequence[int], output_ids: Sequence[int], *, layers: bool, logits: bool
    ) -> ReferenceCheck:
        """The same, rounded to bfloat16: weights and activations of the `layers`, and the `logits`, each or not."""
        ...

    def products(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        """The same where matrix products take bfloat16 operands and everything else stays fp32."""
        ...

    def generate(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        """Its own greedy tokens, exactly so many."""
        ...


def reference_failed(error: BaseException) -> str:
    """The sentence for people when the reference could not say anything."""
    return (
        f"the reference (transformers, on this machine's processors) failed: {error or type(error).__name__}; "
        "look for a lack of memory first"
    )
