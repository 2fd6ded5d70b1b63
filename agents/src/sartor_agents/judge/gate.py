"""The judge from request to response: one verdict per gate, in the order accuracy, relations, robustness.

Accuracy is looked at on requests from the benchmark's own stream, at its concurrency, through the client that the benchmark
uses: a server cannot tell judging from measuring. A fault of the reference or of the machine is never the candidate's.
Every check has a time limit for what the server does in it; one that is over it has failed, and nothing is asked any more.
"""

import itertools
import time
from collections.abc import Sequence

from sartor_agents.measurement.messages import Check, FailureClass, JudgeRequest, JudgeResponse, Reason
from sartor_agents.measurement.progress import Progress, silent
from sartor_agents.measurement.sample_file import SamplesNotWrittenError
from sartor_agents.scenarios import ScenarioError

from .crosstalk import cross_talk
from .divergence import logprob_divergence
from .limits import timed
from .logprobs import asking
from .metamorphic import Relation, after_disconnect, alone_or_batched, prediction, streamed_or_not
from .novelty import novel_or_repeated
from .opening import Bench, JudgingError, OpenReference
from .prefixes import cache_hit_or_miss, interleaved_prefixes
from .prompts import shown
from .response import cannot_judge, response
from .robustness import Robustness
from .under_load import accuracy

__all__ = ["JudgingError", "OpenReference", "judge"]

_GIVE_UP = (Reason.REQUEST_FAILED, Reason.CANDIDATE_DIED, Reason.CHECK_TIMED_OUT)
_RELATION_REQUESTS = 4
_LIMIT_REQUESTS = 4
"""A relation may take so many times the limit of one request. A request that fails ends it earlier."""
_REPEATING_SCENARIOS = ("shared-prefix",)
_PREDICTING_SCENARIOS = ("code-edit",)


async def judge(request: JudgeRequest, *, open_reference: OpenReference, progress: Progress = silent) -> JudgeResponse:
    """All gates over one candidate. Every foreseeable fault is a verdict with its reason and class."""
    begun = time.monotonic()
    try:
        bench = await Bench.open(request, open_reference, progress)
        answer = await _run(bench)
    except ScenarioError as error:
        answer = cannot_judge(Reason.BAD_REQUEST, FailureClass.INFRASTRUCTURE, str(error))
    except JudgingError as error:
        answer = cannot_judge(error.reason, error.failure_class, str(error))
    except SamplesNotWrittenError as error:
        answer = cannot_judge(Reason.SAMPLES_NOT_WRITTEN, FailureClass.INFRASTRUCTURE, error.strerror or str(error))
    judgement = answer.judgement
    if request.reference != "cpu":
        judgement = judgement.model_copy(update={"reference": request.reference})
    return answer.model_copy(update={"judgement": judgement, "seconds": time.monotonic() - begun})


async def _run(bench: Bench) -> JudgeResponse:
    """Accuracy first; relations and robustness only on a server that answers."""
    checks = [await timed(bench, "accuracy", accuracy(bench))]
    handovers = await _handovers(bench)
    if handovers:
        message = f"the baseline served {handovers} requests that were sent to the candidate inside its envelope"
        checks.append(Check(name="handover", passed=False, reason=Reason.HANDED_OVER, message=message))
    elif checks[0].passed:
        checks.append(await _numbers(bench, handovers or 0))
    # With incomplete answers there is nothing to compare.
    if checks[0].reason in (Reason.PASSED, Reason.OUTPUT_DIVERGED) and _answers(checks):
        checks += await _relations(bench, right=checks[0].passed)
    if _answers(checks):
        bench.progress("robustness", message="sending bad input")
        sample = next(bench.scenario.stream(bench.scenario.stages[0], "accuracy", 3))
        checks += await Robustness(bench, sample).all()
    return response(bench, checks, handovers)


def _answers(checks: Sequence[Check]) -> bool:
    return all(check.reason not in _GIVE_UP for check in checks)


async def _handovers(bench: Bench) -> int | None:
    return await bench.watch.count() if bench.watch is not None else None


async def _numbers(bench: Bench, before: int) -> Check:
    """Log-probabilities, and that they were the candidate's own."""
    bench.progress("logprobs", message="comparing log-probabilities")
    check = await timed(bench, "logprobs", logprob_divergence(bench), 4 * _LIMIT_REQUESTS)
    handed_over = (await _handovers(bench) or 0) - before
    if check.passed and bench.logprobs_offered and handed_over > 0:
        update = {
            "passed": False,
            "reason": Reason.LOGPROBS_HANDED_OVER,
            "message": f"the baseline served {handed_over} of {check.requests} requests",
            "reproduce": shown(asking(bench.answers[0].request)),
        }
        return check.model_copy(update=update)
    return check


async def _relations(bench: Bench, *, right: bool) -> list[Check]:
    """Every relation that applies, each on fresh requests. Stops at a server that does not answer.

    Some rest on answers that are `right` by the reference; of a server that is wrong by itself they would say nothing new.
    """
    relations: dict[str, Relation] = {
        "alone-or-batched": alone_or_batched,
        "streamed-or-not": streamed_or_not,
        "after-disconnect": after_disconnect,
        "cache-hit-or-miss": cache_hit_or_miss,
    }
    if right:
        relations |= {"interleaved-prefixes": interleaved_prefixes, "cross-talk": cross_talk}
    if bench.scenario.name in _PREDICTING_SCENARIOS:
        relations["prediction"] = prediction
    if bench.scenario.name not in _REPEATING_SCENARIOS:
        relations["novel-or-repeated"] = novel_or_repeated
    checks: list[Check] = []
    stream = bench.scenario.stream(bench.scenario.stages[0], "accuracy", 2)
    for name, relation in relations.items():
        bench.progress("metamorphic", message=name)
        requests = list(itertools.islice(stream, _RELATION_REQUESTS))
        if relation is alone_or_batched:  # predictions from the oracle cost whole answers: once is enough
            requests = await bench.scenario.prepare(requests, bench.oracle)
        check = await timed(bench, name, relation(bench, requests), _LIMIT_REQUESTS)
        checks.append(check)
        if check.reason in _GIVE_UP:
            break
    return checks
