"""Answers from the scored windows, checked after the windows: what was fast has to have been right."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sartor_agents.measurement.messages import EvaluateRequest, FailureClass, Reason
from sartor_agents.measurement.pairs import MeasurementFailure
from sartor_agents.measurement.samples import GenerationRequest, Sample
from sartor_agents.measurement.tokens import TokenCounter

from .accuracy import AnswerVerdict, check_answer, describe, mislabelled
from .reference_check import Checker, reference_failed
from .ties import tie_budget


def verifier(
    open_reference: Callable[[Path], Checker],
) -> Callable[[Sequence[tuple[GenerationRequest, Sample]], TokenCounter, EvaluateRequest], str | None]:
    """A check for `measurement.evaluation.evaluate`: None, or a sentence on the first wrong answer."""

    def verify(
        answers: Sequence[tuple[GenerationRequest, Sample]], counter: TokenCounter, request: EvaluateRequest
    ) -> str | None:
        try:
            reference = open_reference(request.model_dir)
            verdicts: list[AnswerVerdict] = []
            for asked, sample in answers:
                if (lie := mislabelled(asked, sample, counter)) is not None:
                    return f"answer {sample.request_id} of a scored window: {lie}"
                verdict = check_answer(reference, asked, sample.text, counter, tolerance=request.tie_tolerance)
                if not verdict.right:
                    return f"answer {sample.request_id} of a scored window is wrong: {describe(verdict, counter)}"
                verdicts.append(verdict)
            if not (budget := tie_budget(verdicts)).kept:
                return (
                    f"the answers of scored windows differ from the reference at {budget.flips} of {budget.near} near-ties; "
                    f"rounding explains at most {budget.allowed}"
                )
        except (ImportError, OSError, RuntimeError, ValueError, MemoryError) as error:
            raise MeasurementFailure(Reason.INTERNAL, FailureClass.INFRASTRUCTURE, reference_failed(error)) from error
        return None

    return verify
