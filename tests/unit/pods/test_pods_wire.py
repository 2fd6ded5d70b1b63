"""What crosses the border between operator and pods: it fits, it comes back, and both sides mean the same."""

import inspect
import re
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_agents.baselines import find
from sartor_agents.pods import contract, model
from sartor_api.search.records import (
    BaselineRecord,
    FailureClass,
    GridPoint,
    Implementation,
    Judgement,
    Plan,
    StepResult,
    Verdict,
)
from sartor_api.search.wire import LONGEST_REPORT, ReportError, StepReport, failed, read_report, report_text
from sartor_operator.pods import common, jobs

text = st.text(max_size=3000)
verdicts = st.builds(
    lambda m, e: Verdict(
        gate="greedy", passed=False, reason="R", message=m, failure_class=FailureClass.CANDIDATE, evidence={"e": e}
    ),
    text,
    text,
)
results = st.one_of(
    verdicts,
    st.lists(verdicts, min_size=1, max_size=6).map(lambda v: Judgement(verdicts=tuple(v))),
    st.builds(Implementation, summary=text),
    st.builds(
        lambda h, c: Plan(round=1, action="build", hypothesis="h" + h, changes=tuple(c)),
        text,
        st.lists(text, max_size=9),
    ),
    st.lists(text, min_size=1, max_size=9).map(
        lambda m: BaselineRecord(
            engine="vllm",
            version="1",
            chosen="p0",
            grid=tuple(GridPoint(name=f"p{n}", message=one) for n, one in enumerate(m)),
            fingerprint={"cpu": m[0]},
        )
    ),
)


@given(result=results)
def test_any_report_fits_and_keeps_what_is_decided_by(result: StepResult) -> None:
    report = StepReport(step="001/judge/1/1", result=result, commit="a" * 40)
    said = report_text(report)
    assert len(said.encode()) <= LONGEST_REPORT
    back = read_report(said)
    assert (back.step, back.commit, back.result.kind) == (report.step, report.commit, report.result.kind)
    match result, back.result:
        case Judgement(), Judgement():
            assert [(v.reason, v.passed, v.failure_class) for v in back.result.verdicts] == [
                (v.reason, v.passed, v.failure_class) for v in result.verdicts
            ]
        case BaselineRecord(), BaselineRecord():
            assert "p0" in [point.name for point in back.result.grid]
        case _:
            pass


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("no", "is no step report"),
        ('{"step": "x"}', "result: Field required"),
        ('{"step": "' + "x" * 5000, "cut at 4096 bytes?"),
    ],
)
def test_what_is_no_report_says_why(said: str, words: str) -> None:
    with pytest.raises(ReportError, match=re.escape(words)):
        read_report(said)


def test_a_report_that_cannot_fit_is_an_error() -> None:
    result = failed("plan", "R", "m", FailureClass.PROVIDER)
    with pytest.raises(ValueError, match="does not fit"):
        report_text(StepReport(step="x" * 5000, result=result))


def test_every_variable_that_the_operator_sets_is_known() -> None:
    known = {name for module in (contract, find, model) for name in variables(module)} | {"SARTOR_ROLE"}
    assert {name for module in (jobs, common) for name in variables(module)} <= known


def variables(module: ModuleType) -> set[str]:
    """Names of environment variables in a module's text."""
    return set(re.findall(r"SARTOR_[A-Z_]*[A-Z]", inspect.getsource(module)))
