"""Predicted outputs: the client's guess of the answer is the draft (OpenAI's `prediction` parameter)."""

from .alignment import Alignment


def make_drafter(prompt: list[int], prediction: list[int] | None) -> Alignment | None:
    """An alignment that expects the prediction from its first token on; None without a prediction."""
    del prompt  # prompt lookup is another recipe
    return Alignment(prediction, 0) if prediction else None
