"""A measurement computed again from its raw samples, by the code that measured it.

Windows are put together from samples and journal, pairs are judged again, and the stop rule is fed pair by pair: so a pair
that was dropped without a reason, a look that was not planned, an end that came too early or too late shows, and so does
every figure that does not follow from the samples.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, JsonValue

from sartor_agents.measurement.journal import Journal, JournalError, PairNote, window_run
from sartor_agents.measurement.messages import Reason
from sartor_agents.measurement.pairs import (
    MeasurementFailure,
    Pair,
    candidate_first,
    judge_pair,
    too_many,
)
from sartor_agents.measurement.results import PairTable, speedup
from sartor_agents.measurement.samples import Sample
from sartor_agents.measurement.sequential import Conclusion, StopRule
from sartor_agents.run.guardrails import broken_guardrail
from sartor_agents.scenarios import Stage
from sartor_api.search.records import GuardrailLimit, Measurement

CLOSE = 1e-9
"""Relative difference of two figures that are the same."""
ARMS = ("candidate", "baseline")


@dataclass(frozen=True)
class Replay:
    """What the samples say: the table of valid pairs, the last conclusion, and everything that is wrong on the way."""

    table: PairTable
    conclusion: Conclusion | None
    problems: tuple[str, ...]


def replay(journal: Journal, samples: Sequence[Sample], wanted: Sequence[Stage], seed: str) -> Replay:
    """Feed the pairs of a journal to the stop rule as the evaluator did; `wanted` are the stages of every window."""
    policy = journal.asked.policy
    problems = list(_strays(journal, samples))
    table = PairTable(wanted)
    try:
        rule = StopRule(policy)
    except ValueError as error:
        return Replay(table, None, (*problems, f"the policy of the measurement cannot have been used: {error}"))
    stages = {stage.name: stage for stage in wanted}
    by_window: dict[tuple[int, str], list[Sample]] = {}
    for sample in samples:
        by_window.setdefault((sample.window, sample.arm), []).append(sample)
    conclusion: Conclusion | None = None
    void: list[Pair] = []
    longest, before = 0.0, 0.0
    for number, note in enumerate(journal.pairs):
        if conclusion is not None and conclusion.stop is not None:
            problems.append(f"pair {number} was measured after the stop rule had ended the measurement")
            break
        try:
            pair = _pair(note, stages, by_window)
        except JournalError as error:
            problems.append(str(error))
            continue
        problems += _judged(number, note, pair, journal, seed)
        longest, before = max(longest, note.elapsed - before), note.elapsed
        if note.void is not None:
            void.append(pair)
            continue
        table.pairs.append(pair)
        try:
            conclusion = rule.look(table.combined()) or conclusion
        except ValueError as error:
            problems.append(f"the ratio of pair {number} cannot be computed: {error}")
            return Replay(table, None, tuple(problems))
    conclusion, ending = _ending(journal, rule, table, conclusion, longest, before)
    problems += ending
    if (journal.ended.pairs, journal.ended.void) != (len(table.pairs), len(void)):
        problems.append(
            f"the journal ends with {journal.ended.pairs} valid and {journal.ended.void} void pairs, "
            f"its lines have {len(table.pairs)} and {len(void)}"
        )
    if (failure := too_many(void, policy)) is not None:
        problems.append(f"the measurement should have been invalid ({failure.reason.value}): {failure}")
    return Replay(table, conclusion, tuple(problems))


def _strays(journal: Journal, samples: Sequence[Sample]) -> Iterator[str]:
    """Samples that belong to no pair, pairs that are not in order."""
    for number, note in enumerate(journal.pairs):
        if note.index != number:
            yield f"pair {number} of the journal has the number {note.index}: a pair was dropped, added or moved"
            return
    if strange := {s.arm for s in samples} - set(ARMS):
        yield f"the samples have an arm {sorted(strange)[0]!r}; there are candidate and baseline"
    windows = {s.window for s in samples}
    if missing := set(range(len(journal.pairs))) - windows:
        yield f"pair {min(missing)} of the journal has no samples"
    if more := windows - set(range(len(journal.pairs))):
        yield f"there are samples of pair {min(more)}, which the journal does not have: a pair was dropped"


def _pair(note: PairNote, stages: Mapping[str, Any], samples: Mapping[tuple[int, str], list[Sample]]) -> Pair:
    mine, theirs = (
        window_run(window, arm, note.index, stages, samples.get((note.index, arm), ()))
        for arm, window in (("candidate", note.candidate), ("baseline", note.baseline))
    )
    return Pair(mine, theirs, Reason(note.void) if note.void in set(Reason) else None, note.why)


def _judged(number: int, note: PairNote, pair: Pair, journal: Journal, seed: str) -> Iterator[str]:
    """Whether the pair counts, or does not, by the rules; and whether its windows were run in the order drawn by lot."""
    drawn = "candidate" if candidate_first(seed, number) else "baseline"
    if note.first != drawn:
        yield f"pair {number} says that the {note.first} was measured first; by lot it was the {drawn}"
    begun = {run.arm: [sample.sent for sample in run.samples] for run in (pair.candidate, pair.baseline)}
    if all(begun.values()):
        second = ARMS[ARMS[0] == note.first]
        if max(begun[note.first]) > min(begun[second]):
            yield f"in pair {number} requests of the {note.first} were sent after the {second}'s window had begun"
    if note.void is not None and note.void not in set(Reason):
        yield f"pair {number} is void for {note.void!r}, which is no reason"
    policy = journal.asked.policy
    try:
        void, why = judge_pair(pair.candidate, pair.baseline, policy)
    except MeasurementFailure as failure:
        yield f"pair {number} fails the candidate ({failure.reason.value}): {failure}"
        return
    if void is not None and note.void is None:
        yield f"pair {number} counts in the bundle, but is void ({void.value}): {why}"
    if note.void is not None and void is None:
        yield f"pair {number} is void in the bundle for {note.void}, but its samples show nothing of it: it was dropped"
    elif note.void is not None and void is not None and note.void != void.value:
        yield f"pair {number} is void in the bundle for {note.void}; by its samples it is for {void.value}: {why}"


def _ending(
    journal: Journal, rule: StopRule, table: PairTable, conclusion: Conclusion | None, longest: float, elapsed: float
) -> tuple[Conclusion | None, list[str]]:
    """The conclusion that the rule ends with, and what is wrong with how the journal says that it ended."""
    stop = conclusion.stop if conclusion is not None else None
    if stop is not None:
        said = (
            []
            if journal.ended.stop == stop
            else [f"the stop rule ends with {stop!r}, the journal says {journal.ended.stop!r}"]
        )
        return conclusion, said
    problems: list[str] = []
    try:
        conclusion = rule.close(table.combined()) if table.pairs else None
    except ValueError as error:
        return None, [f"the ratio of the pairs cannot be computed: {error}"]
    if conclusion is None:
        problems.append(f"{len(table.pairs)} valid pairs are fewer than any measurement may end with ({rule.fewest})")
    policy = journal.asked.policy
    if policy.wall_clock - elapsed > longest + policy.wall_clock * _RESERVE:
        problems.append(
            f"the measurement ended ({journal.ended.stop!r}) after {elapsed:.0f} of {policy.wall_clock:.0f} s although the "
            "stop rule asked for more pairs: pairs were left out, or it was ended when the figure pleased"
        )
    return conclusion, problems


_RESERVE = 0.2
"""Share of the wall clock that an evaluator may keep for checking answers, and a little more."""


def claims(
    found: Replay, claimed: Measurement, journal: Journal, seed: str, limits: Sequence[GuardrailLimit]
) -> Iterator[str]:
    """Every figure of the record that does not follow from the samples."""
    if not claimed.valid or claimed.speedup is None:
        yield "the record claims no speed-up"
        return
    if found.conclusion is None:
        yield "the samples carry no interval, so nothing can be claimed"
        return
    table, policy = found.table, journal.asked.policy
    computed: dict[str, Any] = {
        "speedup": speedup(found.conclusion.interval),
        "conditions": list(table.results(policy, StopRule(policy).alpha)),
        **table.surroundings(),
    }
    stated: dict[str, Any] = {
        "speedup": claimed.speedup,
        "conditions": list(claimed.conditions),
        **{name: claimed.fingerprint.get(name) for name in table.surroundings()},
    }
    yield from differences("", plain(stated), plain(computed))
    broken = broken_guardrail(limits, claimed.conditions, table.guardrails(policy.confidence, seed))
    if broken is not None:
        yield f"a guardrail is broken: {broken}"


def plain(value: Any) -> JsonValue:
    """A value as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def differences(where: str, stated: JsonValue, computed: JsonValue) -> Iterator[str]:
    """Where two values differ, figure by figure."""
    if isinstance(stated, dict) and isinstance(computed, dict):
        for key in sorted({*stated, *computed}):
            if key not in stated or key not in computed:
                yield f"{where}{key} is {'missing' if key not in stated else 'not what the samples have'}"
            else:
                yield from differences(f"{where}{key}.", stated[key], computed[key])
    elif isinstance(stated, list) and isinstance(computed, list):
        if len(stated) != len(computed):
            yield f"{where.rstrip('.')} has {len(stated)} entries, the samples give {len(computed)}"
            return
        for number, (one, other) in enumerate(zip(stated, computed, strict=True)):
            yield from differences(f"{where}{number}.", one, other)
    elif not same(stated, computed):
        yield f"{where.rstrip('.')} is stated as {_short(stated)}; the samples give {_short(computed)}"


def same(stated: JsonValue, computed: JsonValue) -> bool:
    """Equal, figures up to `CLOSE`; NaN equals nothing."""
    numbers = (int, float)
    if isinstance(stated, numbers) and isinstance(computed, numbers) and not isinstance(stated, bool):
        return math.isclose(stated, computed, rel_tol=CLOSE, abs_tol=1e-12)
    return stated == computed


def _short(value: JsonValue) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)[:60]
