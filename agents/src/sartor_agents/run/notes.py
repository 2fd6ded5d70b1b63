"""Rounds and ratios in a few words, the same wherever they are shown."""

from sartor_api.search.records import (
    BaselineRecord,
    Implementation,
    Judgement,
    Measurement,
    Plan,
    Speedup,
    StepRecord,
    StepResult,
    Verdict,
)
from sartor_api.search.state import Round


def interval(speedup: Speedup | None) -> str:
    """`2.31x [2.24, 2.38] (n=12)`, or a dash."""
    if speedup is None:
        return "-"
    return f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}] (n={speedup.n})"


def outcome(current: Round) -> str:
    """What became of a round, in a few words."""
    if current.kept:
        return "kept"
    if current.plan is not None and current.plan.action != "build":
        return {"return": "returned", "stop": "stopped"}[current.plan.action]
    if current.measurement is not None:
        return "dropped: no gain over the incumbent"
    if current.failure is not None:
        return f"rejected: {current.failure.reason}"
    return "open"


def subject(record: StepRecord) -> str:
    """The subject line of a record's commit."""
    failure = record.failure
    what = f"failed: {failure.reason}" if failure else _said(record.result)
    where = f"Round {record.round}: " if record.round else ""
    return f"{where}{record.step.value} {what}"[:100].replace("\n", " ")


def _said(result: StepResult) -> str:
    match result:
        case Plan():
            return f"{result.action}: {result.hypothesis}"
        case Implementation():
            return result.content_hash[:12]
        case Measurement():
            return interval(result.speedup)
        case BaselineRecord():
            return f"{result.engine} {result.version}, {result.chosen or 'default'}"
        case Judgement():
            return "passed"
        case Verdict():
            return result.reason
