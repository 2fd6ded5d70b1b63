"""A search in virtual time: the real decision core, simulated steps. No process, no clock, no file."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.support.landscape import CLUMSY, Landscape, Planner, genome_of
from sartor_api.search import plans
from sartor_api.search.budget import Ledger
from sartor_api.search.comparison import improves
from sartor_api.search.decide import Begin, Finish, Wait, decide
from sartor_api.search.records import (
    BaselineRecord,
    Budget,
    Envelope,
    FailureClass,
    Implementation,
    Judgement,
    Measurement,
    RunSpec,
    SearchPolicy,
    Speedup,
    StepKind,
    StepPolicy,
    StepRecord,
    StepResult,
    Verdict,
)
from sartor_api.search.state import RunState, fold

SECONDS = {
    StepKind.BASELINE: 100.0,
    StepKind.PLAN: 5.0,
    StepKind.IMPLEMENT: 20.0,
    StepKind.JUDGE: 20.0,
    StepKind.EVALUATE: 60.0,
    StepKind.CONFIRM: 60.0,
}
FAULTS = 0.02
"""Share of steps that fail for the machine's fault and are done again."""


def spec(seed: int, rounds: int, **policy: object) -> RunSpec:
    """A run whose budget is its rounds."""
    steps = {kind: StepPolicy(expected_seconds=s, deadline_seconds=100 * s) for kind, s in SECONDS.items()}
    return RunSpec(
        name="simulated",
        created=0.0,
        seed=seed,
        scenario="chat",
        model={"name": "m"},
        envelope=Envelope(max_input_tokens=1, max_output_tokens=1),
        budget=Budget(rounds=rounds, wall_clock_seconds=1e9),
        policy=SearchPolicy.model_validate({"steps": steps, **policy}),
    )


@dataclass(frozen=True)
class Found:
    """How a search ended (`finish` None: it was stopped).

    `at` is the round in which the planted optimum (or one as good, to within the minimum effect) became the incumbent;
    `share` is what the incumbent's true logarithmic speed-up is of the optimum's, by round.
    """

    run: RunState | None
    finish: Finish | None
    at: int | None
    share: tuple[float, ...]


def search(
    ground: Landscape, asked: RunSpec, planner: Planner, *, until: Callable[[RunState], bool] = lambda _: False
) -> Found:
    """Carry a whole search out, or stop it once `until` holds after a round."""
    records: list[StepRecord] = []
    ledger, now = Ledger(), 0.0
    while True:
        run = fold(asked, records, ledger=ledger, session_started=0.0)
        if records and records[-1].step is StepKind.EVALUATE and until(run):
            return _found(ground, run, None)
        action = decide(run, now)
        match action:
            case Finish():
                return _found(ground, run, action)
            case Wait():
                now = action.until
            case Begin() as begin:
                started, now = now, now + SECONDS[begin.step]
                records.append(
                    StepRecord(
                        id=begin.id, sequence=len(records) + 1, step=begin.step, round=begin.round,
                        attempt=begin.attempt, started=started, finished=now, result=_result(ground, run, planner, begin),
                    )
                )  # fmt: skip
                ledger = _settled(ledger, begin)
            case other:
                raise AssertionError(f"nothing is in flight, and the search says {other}")


def _settled(ledger: Ledger, begin: Begin) -> Ledger:
    return ledger.reserve(begin.id, begin.reserve, now=0.0, deadline=1.0).settle(begin.id, begin.reserve)


def _result(ground: Landscape, run: RunState, planner: Planner, begin: Begin) -> StepResult:
    chance = Random(f"{run.spec.seed}/{begin.id}")
    if chance.random() < FAULTS and begin.step is not StepKind.CONFIRM:
        return _failed(begin, "Faulty", FailureClass.INFRASTRUCTURE)
    match begin.step:
        case StepKind.BASELINE:
            return BaselineRecord(engine="vllm", version="1", chosen="default")
        case StepKind.PLAN:
            made = planner.plan(run, begin)
            said = plans.problem(
                made,
                round_number=begin.round,
                directive=begin.directive,
                known=run.parents,
            )
            assert said is None, said
            return made
        case StepKind.IMPLEMENT:
            name = f"{begin.round:05d}{begin.attempt}"
            genome = _genome(run)
            content = "".join(str(v) for v in genome)
            return Implementation(commit=name.ljust(40, "0"), content_hash=content.ljust(64, "0"))
        case StepKind.JUDGE:
            clumsy = begin.attempt == 1 and chance.random() < CLUMSY
            if clumsy or not ground.works(_genome(run)):
                return Judgement(verdicts=(_failed(begin, "OutputDiverged", FailureClass.CANDIDATE),))
            return Judgement(verdicts=(Verdict(gate="greedy", passed=True, reason="Passed"),))
        case StepKind.EVALUATE:
            genome = _genome(run) if begin.candidate is None else _of_round(run, begin.candidate.round)
            return Measurement(metric="tok/s", speedup=ground.measured(genome, begin.id))
        case StepKind.CONFIRM:
            assert begin.candidate is not None, "a confirmation is about a candidate"
            return Measurement(metric="tok/s", speedup=ground.measured(_of_round(run, begin.candidate.round), begin.id))


def _failed(begin: Begin, reason: str, blamed: FailureClass) -> Verdict:
    return Verdict(gate=begin.step.value, passed=False, reason=reason, failure_class=blamed)


def _genome(run: RunState) -> tuple[int, ...]:
    current = next(iter(run.open_rounds), None)
    assert current is not None and current.plan is not None, "a step of a round follows its plan"
    return genome_of(current.plan.recipes)


def _of_round(run: RunState, number: int) -> tuple[int, ...]:
    plan = next(r.plan for r in run.rounds if r.number == number)
    assert plan is not None, "a kept candidate was planned"
    return genome_of(plan.recipes)


def _found(ground: Landscape, run: RunState, finish: Finish | None) -> Found:
    at, share, reached = None, list[float](), 0.0
    for current in run.rounds:
        if current.kept:
            reached = ground.gain(_of_round(run, current.number))
            if at is None and good(ground, run.spec, reached):
                at = current.number
        share.append(reached / ground.gain(ground.optimum))
    return Found(run, finish, at, tuple(share))


def good(ground: Landscape, asked: RunSpec, gain: float) -> bool:
    """Whether a true logarithmic speed-up is the optimum's, to within the minimum effect."""
    return gain >= ground.gain(ground.optimum) - asked.policy.minimum_effect


def optimum_found(ground: Landscape) -> Callable[[RunState], bool]:
    """Whether the incumbent is as good as the planted optimum."""
    return lambda run: run.best is not None and good(ground, run.spec, ground.gain(_of_round(run, run.best.round)))


def random_search(ground: Landscape, asked: RunSpec) -> Found:
    """Genomes in random order, none twice, through the same gates, measurements and keep rule; no planner and no memory."""
    order = list(ground.genomes)
    Random(f"{asked.seed}/random").shuffle(order)
    incumbent: Speedup | None = None
    at, share, reached = None, list[float](), 0.0
    for number, genome in enumerate(order[: asked.budget.rounds], start=1):
        if ground.works(genome):
            seen = ground.measured(genome, f"{number:03d}/evaluate/1/1")
            if improves(seen, incumbent, asked.policy.minimum_effect):
                incumbent, reached = seen, ground.gain(genome)
        if at is None and incumbent is not None and good(ground, asked, reached):
            at = number
        share.append(reached / ground.gain(ground.optimum))
    return Found(None, None, at, tuple(share))
