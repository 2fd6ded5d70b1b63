"""One cheat and its twin on the range, held against the registry."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from redteam_range import Range, Shot
from redteam_registry import Cheat, Denied, Rejected, Worthless
from redteam_stacks import candidate

from sartor_api.search.records import GuardrailLimit, StepKind

STEPS = {"judge": StepKind.JUDGE, "evaluate": StepKind.EVALUATE, "confirm": StepKind.CONFIRM}


def parameters(cheats: Iterable[Cheat]) -> list[Any]:
    """Cheats as parameters of a test. One that still gets through fails the suite as soon as it does not any more."""
    return [
        pytest.param(cheat, id=cheat.name, marks=[pytest.mark.xfail(reason=cheat.open)] if cheat.open else [])
        for cheat in cheats
    ]


@dataclass(frozen=True)
class Seen:
    """What was seen of a cheat: in a word, with what the gate said, and how long its gate took in seconds."""

    outcome: str
    message: str
    seconds: float


def shoot(open_range: Range, cheat: Cheat, *, planted: bool) -> Shot:
    """The candidate at the gate that the registry names, started as often as it says; the last start counts."""
    guardrails: tuple[GuardrailLimit, ...] = ()
    if cheat.guardrail is not None:
        metric, at_most = cheat.guardrail
        guardrails = (GuardrailLimit(metric=metric, at_most=at_most),)
    files = candidate(cheat.name, open_range.model, cheat.scenario, planted=planted)
    shot: Shot | None = None
    for _ in range(cheat.starts):
        shot = open_range.shoot(STEPS[cheat.gate], files, cheat.scenario, guardrails=guardrails, **cheat.policy)
    assert shot is not None
    return shot


def try_cheat(open_range: Range, cheat: Cheat) -> Seen:
    """The cheat must meet with what the registry says. Raises `AssertionError`."""
    shot = shoot(open_range, cheat, planted=True)
    match cheat.meets:
        case Rejected(reason):
            assert shot.reason == reason, f"{cheat.name}: {shot.reason}: {shot.message}"
            return Seen(f"rejected: {reason}", shot.message, shot.seconds)
        case Denied(reason):
            assert shot.reason == reason, f"{cheat.name}: {shot.reason}: {shot.message}"
            attempts = [line for line in shot.log.splitlines() if line.startswith("ATTEMPT ")]
            done = [line for line in attempts if line.endswith(": DONE")]
            assert attempts and not done, f"{cheat.name}: {done or 'it attempted nothing'}"
            return Seen(f"{len(attempts)} attempts denied", attempts[0].removeprefix("ATTEMPT "), shot.seconds)
        case Worthless(limit):
            twin = shoot(open_range, cheat, planted=False)
            gain = _rate(shot) / _rate(twin)
            assert gain <= limit, f"{cheat.name}: {gain:.2f} times the tokens/s of its twin"
            return Seen(f"gains nothing: {gain:.2f} times its twin", "", shot.seconds)


def try_twin(open_range: Range, cheat: Cheat) -> Seen:
    """The same code without the cheat must pass. Raises `AssertionError`."""
    shot = shoot(open_range, cheat, planted=False)
    # A slow twin is honest too: it has to be measured, not to win.
    assert shot.reason in (None, "NoGain"), f"{cheat.name}'s twin: {shot.reason}: {shot.message}"
    return Seen("accepted" if shot.reason is None else "measured, no gain", shot.message, shot.seconds)


def _rate(shot: Shot) -> float:
    """Tokens per second, geometric mean over conditions not needed: the range has one."""
    assert shot.reason in (None, "NoGain"), f"{shot.reason}: {shot.message}"
    return shot.measurement.conditions[0].candidate.metric
