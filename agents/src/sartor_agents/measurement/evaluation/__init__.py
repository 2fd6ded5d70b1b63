"""One measurement from request to response: pairs of windows until the interval says enough.

What a server says about itself is never used. Speed comes from our clock and our token count, handing over from the
baseline's counter, and right answers from the reference, on answers drawn from the very windows that are scored.

`session` holds what one measurement works with, `single` measures one server alone, `paired` two against each other.
"""

import time
from collections.abc import Callable

from sartor_agents.measurement.messages import EvaluateRequest, EvaluateResponse, FailureClass, Reason
from sartor_agents.measurement.pairs import MeasurementFailure
from sartor_agents.measurement.progress import Progress, silent
from sartor_agents.measurement.sample_file import SamplesNotWrittenError
from sartor_agents.measurement.sequential import StopRule
from sartor_agents.scenarios import ScenarioError

from .paired import Audit, Verify, paired
from .peaks import find_peaks
from .session import Session
from .single import single

__all__ = ["Audit", "Verify", "evaluate"]


async def evaluate(
    request: EvaluateRequest,
    *,
    verify: Verify,
    audit: Audit | None = None,
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
) -> EvaluateResponse:
    """Measure what `request` asks for. Every foreseeable fault is a response with its reason and class."""
    begun = clock()
    try:
        _check(request)
        response = await _measured(await Session.open(request, progress, clock), verify, audit)
    except ScenarioError as error:
        response = _failed(Reason.BAD_REQUEST, FailureClass.INFRASTRUCTURE, str(error))
    except MeasurementFailure as error:
        response = _failed(error.reason, error.failure_class, str(error))
    except SamplesNotWrittenError as error:
        response = _failed(Reason.SAMPLES_NOT_WRITTEN, FailureClass.INFRASTRUCTURE, error.strerror or str(error))
    return response.model_copy(update={"seconds": clock() - begun})


async def _measured(session: Session, verify: Verify, audit: Audit | None) -> EvaluateResponse:
    """The measurement, its samples finished with it; those of a failure are evidence as well, those of a crash are not."""
    try:
        await find_peaks(session)
        response = await (single(session) if session.request.mode == "single" else paired(session, verify, audit))
    except (MeasurementFailure, ScenarioError):
        session.file.close()
        raise
    except BaseException:
        session.file.abandon()
        raise
    session.file.close()
    return response


def _failed(reason: Reason, failure_class: FailureClass, message: str) -> EvaluateResponse:
    return EvaluateResponse(reason=reason, message=message, failure_class=failure_class)


def _check(request: EvaluateRequest) -> None:
    if request.candidate is None:
        raise ScenarioError("`candidate` is missing; in single mode it is the one server")
    if request.mode == "paired" and request.baseline is None:
        raise ScenarioError("`baseline` is missing; a ratio needs both servers")
    if request.policy.replicates_min > request.policy.replicates_max:
        raise ScenarioError("policy.replicates_min is above replicates_max")
    if request.mode == "paired":
        try:
            StopRule(request.policy)
        except ValueError as error:
            raise ScenarioError(f"policy.replicates_max is too small: {error}") from None
