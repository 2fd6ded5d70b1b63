"""The last look: a shortcut that hides from the judge still shows beside the windows that were scored."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import pytest
from chain_reference import ChainReference
from fake_servers import Behaviour, serving

from sartor_agents.judge.audit import Auditor
from sartor_agents.measurement.contention import Contention
from sartor_agents.measurement.evaluation.session import Session
from sartor_agents.measurement.messages import (
    CodeEditParameters,
    CodeEditScenario,
    Endpoint,
    EvaluateRequest,
    FailureClass,
    Reason,
)
from sartor_agents.measurement.pairs import MeasurementFailure, run_pair
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.progress import silent
from sartor_agents.measurement.surroundings import Reading, Surrounded, Surroundings

SCENARIO = CodeEditScenario(parameters=CodeEditParameters(match_rates=(0, 90), file_tokens=40))
POLICY = MeasurementPolicy.quick(request_timeout=10.0, stall_timeout=5.0)


class Busy(Surroundings):
    """The machine as it is, with `shares` of its CPU used by others, reading after reading."""

    shares: Iterator[float]

    def between(self, before: Reading, after: Reading, *, arm: str) -> Surrounded:
        return replace(super().between(before, after, arm=arm), contention=Contention(next(self.shares), None))


def audited(model_dir: Path, folder: Path, behaviour: Behaviour, busy: Iterator[float] | None = None) -> None:
    """One pair of windows, then the audit. Raises what the audit raises. `busy`: others' share of the CPU at each look."""

    async def run() -> None:
        async with serving(model_dir) as theirs:
            if behaviour.hand_over_to == "baseline":
                behaviour.hand_over_to = theirs.url
            async with serving(model_dir, behaviour) as mine:
                request = EvaluateRequest(
                    candidate=Endpoint(url=mine.url), baseline=Endpoint(url=theirs.url), model_dir=model_dir,
                    scenario=SCENARIO, policy=POLICY, seed="5a" * 32, output_dir=folder, confirmation=True,
                )  # fmt: skip
                session = await Session.open(request, silent, lambda: 0.0)
                assert session.baseline is not None and session.handover is not None
                pair = await run_pair(
                    session.runner,
                    session.candidate,
                    session.baseline,
                    0,
                    policy=POLICY,
                    warmup=1,
                    candidate_first=True,
                )
                session.handover.note_samples(pair.baseline.samples)
                session.file.abandon()  # samples play no part here
                if busy is not None:
                    session.surroundings = Busy()
                    session.surroundings.shares = busy
                await Auditor(ChainReference)(session, [pair])

    asyncio.run(run())


def test_an_honest_candidate_stands_it(chain_model: Path, tmp_path: Path) -> None:
    audited(chain_model, tmp_path, Behaviour())


@pytest.mark.parametrize(
    ("behaviour", "reason", "words"),
    [
        (Behaviour(logprob_error=0.1), Reason.LOGPROBS_DIVERGED, "after the windows"),
        (Behaviour(logprob_seconds=0.01), Reason.LOGPROBS_COMPUTED_ELSEWHERE, "after the windows"),
        (Behaviour(slow_after_logprobs=0.01), Reason.LOGPROBS_COMPUTED_ELSEWHERE, "as in the scored windows"),
        (
            Behaviour(hand_over_to="baseline", hand_over_logprobs=True),
            Reason.LOGPROBS_HANDED_OVER,
            "the baseline served 4",
        ),
    ],
)
def test_a_shortcut_does_not(
    chain_model: Path, tmp_path: Path, behaviour: Behaviour, reason: Reason, words: str
) -> None:
    with pytest.raises(MeasurementFailure, match=words) as caught:
        audited(chain_model, tmp_path, behaviour)
    assert caught.value.reason is reason and caught.value.failure_class is FailureClass.CANDIDATE


def test_paces_on_a_machine_that_got_busy_accuse_nobody(chain_model: Path, tmp_path: Path) -> None:
    slow = Behaviour(logprob_seconds=0.01)
    with pytest.raises(MeasurementFailure, match="each of 3 times") as caught:
        audited(chain_model, tmp_path / "a", slow, busy=repeat(1.5))
    assert caught.value.reason is Reason.CONTENDED and caught.value.failure_class is FailureClass.MEASUREMENT
    with pytest.raises(MeasurementFailure) as caught:
        audited(chain_model, tmp_path / "b", slow, busy=chain([1.5], repeat(0.0)))
    assert caught.value.reason is Reason.LOGPROBS_COMPUTED_ELSEWHERE
    with pytest.raises(MeasurementFailure) as caught:
        audited(chain_model, tmp_path / "c", Behaviour(logprob_error=0.1), busy=repeat(1.5))
    assert caught.value.reason is Reason.LOGPROBS_DIVERGED  # what it wrote was not the machine's doing
