"""Contention, hand-over counting, estimates, fingerprints, the ceiling."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from fake_servers import MODEL, Behaviour, serving
from made_windows import STAGE, sample, window

from sartor_agents.measurement import contention
from sartor_agents.measurement.client import LoadClient
from sartor_agents.measurement.contention import Contention, CpuTimes
from sartor_agents.measurement.estimate import judge_seconds, paired_seconds, single_seconds, window_seconds
from sartor_agents.measurement.handover import HandoverWatch, finished_requests, prompt_tokens
from sartor_agents.measurement.messages import Endpoint, FailureClass, Reason
from sartor_agents.measurement.pairs import Pair, judge_pair, run_pair, too_many
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.results import PairTable, answers_to_check
from sartor_agents.measurement.samples import ErrorClass, GenerationRequest
from sartor_agents.measurement.tokens import TokenCounter
from sartor_agents.measurement.windows import StageRun, WindowRun, WindowRunner
from sartor_agents.scenarios import open_scenario, scenario_spec

POLICY = MeasurementPolicy(maximum_contention=0.5, maximum_contention_difference=0.2)


@pytest.mark.parametrize(
    ("candidate", "baseline", "reason"),
    [
        (window(), window(), None),
        (window(share=0.4), window(share=0.4), None),
        (window(share=0.6), window(share=0.6), Reason.CONTENDED),
        (window(share=0.0), window(share=0.3), Reason.CONTENDED),
        (window(warm=False), window(), Reason.WARM_UP_NOT_OVER),
        (window(), window(error=ErrorClass.STALL), Reason.BASELINE_FAILED_REQUESTS),
        (window(error=ErrorClass.STALL), window(), Reason.REQUEST_FAILED),
        (window(error=ErrorClass.STALL), window(error=ErrorClass.STALL), Reason.BASELINE_FAILED_REQUESTS),
        (window(error=ErrorClass.STALL, share=0.6), window(share=0.6), Reason.CONTENDED),
    ],
)
def test_what_voids_a_pair(candidate: WindowRun, baseline: WindowRun, reason: Reason | None) -> None:
    assert judge_pair(candidate, baseline, POLICY)[0] is reason


def void(reason: Reason, by: str = "") -> Pair:
    busy = Contention(0.0, 0.0, {by: 0.5} if by else {})
    mine, theirs = (window(), window(arm="baseline", contention=busy))
    return Pair(mine, theirs, reason, f"{reason} {by}")


FOREIGN, IDLE = void(Reason.CONTENDED), void(Reason.IDLE_ARM_BUSY, "candidate")


@pytest.mark.parametrize(
    ("pairs", "reason", "blamed"),
    [
        ([FOREIGN] * 4, None, None),
        ([FOREIGN] * 5, Reason.CONTENDED, FailureClass.MEASUREMENT),
        ([IDLE] * 5, Reason.IDLE_ARM_BUSY, FailureClass.CANDIDATE),
        ([*[FOREIGN] * 4, IDLE], Reason.CONTENDED, FailureClass.MEASUREMENT),  # the last one says nothing
        ([*[IDLE] * 3, *[FOREIGN] * 2], Reason.IDLE_ARM_BUSY, FailureClass.CANDIDATE),
        ([*[IDLE] * 3, *[FOREIGN] * 3], Reason.CONTENDED, FailureClass.MEASUREMENT),
        ([void(Reason.REQUEST_FAILED)], None, None),  # one lost connection is no verdict
        ([void(Reason.REQUEST_FAILED)] * 2, Reason.REQUEST_FAILED, FailureClass.CANDIDATE),
    ],
)
def test_what_most_void_pairs_say_ends_the_measurement(
    pairs: list[Pair], reason: Reason | None, blamed: FailureClass | None
) -> None:
    failure = too_many(pairs, MeasurementPolicy(invalid_pairs_max=4))
    assert (failure and failure.reason, failure and failure.failure_class) == (reason, blamed)


def test_energy_per_token_and_memory_are_kept_by_arm_where_there_are_devices() -> None:
    table = PairTable([STAGE])
    table.pairs.append(Pair(window(), window(arm="baseline"), None))
    assert not {"joules_per_token", "device_bytes"} & table.surroundings().keys()
    held = {"accelerators": ({"uuid": "GPU-1"},), "energy_j": 50.0, "device_bytes": 1 << 30}
    failed = window(arm="baseline", error=ErrorClass.STALL, **{**held, "energy_j": 7.0})
    table.pairs.append(Pair(window(**held), failed, None))
    seen = table.surroundings()
    assert seen["joules_per_token"] == {
        "candidate": [None, 5.0],
        "baseline": [None, None],
    }  # no token, no energy of one
    assert seen["device_bytes"] == {"candidate": [None, 1 << 30], "baseline": [None, 1 << 30]}


def test_which_answers_are_checked_is_drawn_by_lot() -> None:
    def pair(number: int, text: str) -> Pair:
        mine, theirs = (
            WindowRun(arm, number, (StageRun(STAGE, tuple(
                sample(request_id=f"{number}-{n}", arm=arm, condition="c1", stage="c1", window=number, text=said)
                for n in range(50)
            ), 0, 1, True),), Contention(0, 0), 1.0)
            for arm, said in (("candidate", text), ("baseline", "right"))
        )  # fmt: skip
        return Pair(mine, theirs, None)

    # Differs at ties first, writes garbage later: whoever checks the first differing answers never sees it.
    pairs = [pair(0, "tie"), *(pair(number, "garbage") for number in range(1, 9)), pair(9, "right")]
    agreement, chosen = answers_to_check(pairs, 8, "5a" * 32)
    assert agreement == pytest.approx(0.1) and len({one.request_id for one in chosen}) == 8
    assert chosen[0].window == 9 and sum(one.text == "garbage" for one in chosen) >= 3
    assert answers_to_check(pairs, 8, "5a" * 32)[1] == chosen != answers_to_check(pairs, 8, "5b" * 32)[1]
    assert answers_to_check(pairs, 0, "5a" * 32)[1] == [] and answers_to_check([], 8, "5a" * 32) == (None, [])


class Recorder:
    """Stands for the window runner: notes whose turn it was."""

    def __init__(self) -> None:
        self.turns: list[tuple[str, int]] = []
        self.requests: dict[str, GenerationRequest] = {}

    async def run(self, client: LoadClient, index: int, *, warmup: int) -> WindowRun:
        self.turns.append((client.endpoint.name, index))
        return window(arm=client.endpoint.name)


def test_the_arm_that_is_told_to_goes_first_and_both_get_the_same_prompts() -> None:
    counter = cast(TokenCounter, SimpleNamespace(exact=True))  # nothing is sent

    def arm(name: str) -> LoadClient:
        endpoint = Endpoint(name=name, url="http://127.0.0.1:9")
        return LoadClient(endpoint, model="m", counter=counter, request_timeout=1, stall_timeout=1)

    first, second = arm("a"), arm("b")
    recorder = Recorder()
    runner = cast(WindowRunner, recorder)
    for index, lot in enumerate((True, False, False)):
        asyncio.run(run_pair(runner, first, second, index, policy=POLICY, warmup=1, candidate_first=lot))
    assert recorder.turns == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("b", 2), ("a", 2)]


def test_contention_is_what_nobody_of_ours_used() -> None:
    text = "cpu  100 0 100 700 50 0 0 50 0 0\ncpu0 1 2 3\n"
    assert contention.parse_proc_stat(text, 100) == (10.0, 7.5, 0.5)
    before, after = CpuTimes(0, 0, 0, 0), CpuTimes(total=10, idle=4, stolen=1, own=3)
    seen = contention.between(before, after, arm="candidate", servers_known=True)
    assert (seen.stolen, seen.foreign, seen.share) == pytest.approx((0.1, 0.2, 0.3))
    assert contention.between(before, after, arm="candidate", servers_known=False).foreign is None
    assert contention.between(None, after, arm="candidate", servers_known=True).share == 0.0


def test_the_counters_of_this_machine_can_be_read() -> None:
    first = contention.read({})
    assert first is not None and first.total > first.idle > 0 and first.own > 0
    assert contention.read({"gone": 2**22 - 1}) is not None  # a process that is gone


def test_requests_finished_by_the_baseline() -> None:
    text = (
        "# HELP vllm:request_success_total x\n"
        'vllm:request_success_total{engine="0",finished_reason="stop"} 3.0\n'
        'vllm:request_success_total{engine="0",finished_reason="length"} 1e1\n'
        'vllm:prompt_tokens_total{engine="0"} 99\n'
    )
    assert finished_requests(text) == 13
    assert finished_requests("nothing") is None
    assert prompt_tokens(text) == 99 and prompt_tokens("nothing") is None


def test_handed_over_requests_are_those_that_we_did_not_send(chain_model: Path) -> None:
    async def run(behaviour: Behaviour) -> int | None:
        async with serving(chain_model, behaviour) as baseline:
            baseline.finished = 5
            client = LoadClient(
                Endpoint(url=baseline.url), model=MODEL, counter=baseline.counter, request_timeout=5, stall_timeout=5
            )
            watch = HandoverWatch(client)
            await watch.begin()
            baseline.finished += 7
            watch.note_own(4)
            return await watch.count()

    assert asyncio.run(run(Behaviour())) == 3
    assert asyncio.run(run(Behaviour(counter=False))) is None


@pytest.mark.parametrize(
    ("read", "samples", "handed_over"),
    [
        (2000, [1000, 1000], 0),
        (2050, [1000, 1000], 0),  # a little may be the engine's own
        (2400, [1000, 1000], 1),  # a prompt that was read for somebody who then hung up: in no count of requests
        (2400, [1000, 1000, None], 0),  # one of ours failed, and may have been read
    ],
)
def test_prompts_that_were_read_and_never_finished_are_seen(
    chain_model: Path, read: int, samples: list[int | None], handed_over: int
) -> None:
    async def run() -> tuple[int | None, int]:
        async with serving(chain_model) as baseline:
            baseline.prompt_tokens = 7
            client = LoadClient(
                Endpoint(url=baseline.url), model=MODEL, counter=baseline.counter, request_timeout=5, stall_timeout=5
            )
            watch = HandoverWatch(client)
            await watch.begin()
            baseline.prompt_tokens += read
            watch.note_samples([
                sample(usage_prompt=tokens, error=None if tokens is not None else ErrorClass.RESET) for tokens in samples
            ])  # fmt: skip
            return await watch.count(), watch.unexplained_tokens

    count, tokens = asyncio.run(run())
    assert count == handed_over
    assert tokens == (max(0, read - 2000) if None not in samples else 0)


def test_an_estimate_grows_with_what_is_measured(chain_model: Path) -> None:
    scenario, _ = open_scenario(scenario_spec("code-edit", {}), chain_model, "00" * 32)
    quick, thorough = MeasurementPolicy.quick(), MeasurementPolicy.thorough()
    assert window_seconds(scenario, quick, 100) > window_seconds(scenario, quick, 200)
    assert paired_seconds(scenario, quick, 1000, speedup=4) < paired_seconds(scenario, quick, 1000, speedup=1)
    assert paired_seconds(scenario, quick, 1) == quick.wall_clock
    assert paired_seconds(scenario, quick, 1000, looks="last") > paired_seconds(scenario, quick, 1000)
    assert single_seconds(scenario, thorough, 100) > single_seconds(scenario, quick, 100)
    judged = judge_seconds(scenario, 12, 100, parameters=52e6)
    assert judged < judge_seconds(scenario, 12, 100, parameters=5e8)
    assert judge_seconds(scenario, 1, 100, parameters=52e6) < judged < judge_seconds(scenario, 12, 10, parameters=52e6)
    # Five requests of 400 tokens at 100 tokens/s cannot take less than 20 s a window.
    assert window_seconds(scenario, quick, 100) > 20
