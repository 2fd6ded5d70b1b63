"""Answers from the scored windows, checked after the windows: what was fast has to have been right."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sartor_agents.measurement.messages import EvaluateRequest, FailureClass, Reason
from sartor_agents.measurement.pairs import MeasurementFailure
from sartor_agents.measurement.samples import GenerationRequest, Sample
from sartor_agents.measurement.tokens import TokenCounter

from .accuracy import Checker, check_answer, describe


def verifier(
    open_reference: Callable[[Path], Checker],
) -> Callable[[Sequence[tuple[GenerationRequest, Sample]], TokenCounter, EvaluateRequest], str | None]:
    """A check for `measurement.evaluation.evaluate`: None, or a sentence on the first wrong answer."""

    def verify(
        answers: Sequence[tuple[GenerationRequest, Sample]], counter: TokenCounter, request: EvaluateRequest
    ) -> str | None:
        try:
            reference = open_reference(request.model_dir)
            for asked, sample in answers:
                verdict = check_answer(reference, asked, sample.text, counter, tolerance=request.tie_tolerance)
                if not verdict.right:
                    return f"answer {sample.request_id} of a scored window is wrong: {describe(verdict, counter)}"
        except (ImportError, OSError, RuntimeError, ValueError, MemoryError) as error:
            raise MeasurementFailure(
                Reason.INTERNAL, FailureClass.INFRASTRUCTURE, f"the reference failed: {error or type(error).__name__}"
            ) from error
        return None

    return verify
