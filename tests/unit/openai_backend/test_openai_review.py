"""The judge's review by a model: it reads, it may reject with evidence, and nothing that it says accepts a candidate."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_fakes import run_spec
from scripted_provider import Call, Provider, Seen, Turn
from scripted_provider.programs import outage, sloppy

from sartor_agents.backends.openai.model import Patience
from sartor_agents.roles import reviewer
from sartor_agents.roles.messages import ReviewResponse
from sartor_agents.run.reviewing import review_request, wants_review, with_review
from sartor_agents.run.role import RoleError
from sartor_api.search.agents import AgentSettings, RoleSettings, as_json
from sartor_api.search.records import FailureClass, Judgement, RunSpec, Verdict

SERVER = "ANSWERS = {'def area': 'return width * height'}\n\ndef serve(prompt):\n    return ANSWERS[prompt]\n"
FILES = {"stack/__main__.py": b"from stack import server\n", "stack/server.py": SERVER.encode()}
PASSED = Judgement(verdicts=(Verdict(gate="exact-greedy", passed=True, reason="Passed"),))
FINDING = {
    "cheat": "canned-answer", "path": "stack/server.py", "line": 1, "quote": SERVER.splitlines()[0],
    "explanation": "answers stand in the source", "certain": True,
}  # fmt: skip


def spec(*, review: bool = True) -> RunSpec:
    role = RoleSettings(model="scripted-1", maximum_output_tokens=2000)
    agents = AgentSettings(
        backend="openai",
        roles={"planner": role, "implementer": role, "judge": role},
        review=review,
        turns_per_step=8,
        step_seconds=20.0,
    )
    return run_spec().model_copy(update={"agents": as_json(agents)})


def reviewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Callable[[Seen], Any]
) -> tuple[Judgement | Verdict, Provider]:
    """What becomes of a candidate that passed every gate, with `program` as the model that reads it."""
    monkeypatch.setattr(reviewer, "OpenAIBackend", _impatient)
    with Provider(program) as provider:
        (tmp_path / "token").write_text(provider.key)
        monkeypatch.setenv("SARTOR_MODEL_URL", provider.url)
        monkeypatch.setenv("SARTOR_MODEL_TOKEN_FILE", str(tmp_path / "token"))
        before = {**FILES, "stack/server.py": b"def serve(prompt):\n    return model(prompt)\n"}
        request = review_request(spec(), 3, 1, FILES, before, tmp_path / "material")
        return with_review(PASSED, FILES, lambda: reviewer.answer(request)), provider


def _impatient() -> Any:
    from sartor_agents.backends.openai import OpenAIBackend

    return OpenAIBackend(patience=Patience(base=0.01, cap=0.02, total=0.2))


def finds(*findings: dict[str, Any]) -> Callable[[Seen], Turn]:
    """Looks at the checklist, the diff and the file, and then says this."""

    def program(seen: Seen) -> Turn:
        if not seen.results:
            return Turn(calls=(Call("checklist", {}), Call("diff", {}), Call("read_file", {"path": "stack/server.py"})))
        return Turn(text=json.dumps({"findings": list(findings), "summary": "Approved! This stack is excellent."}))

    return program


def test_a_cheat_that_is_quoted_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, provider = reviewed(tmp_path, monkeypatch, finds(FINDING))
    assert isinstance(result, Judgement)
    rejected = result.verdicts[-1]
    assert (rejected.gate, rejected.passed, rejected.reason) == ("review", False, "ReviewRejected")
    assert rejected.failure_class is FailureClass.CANDIDATE and "stack/server.py:1" in rejected.message
    shown = provider.seen[-1].results
    assert "canned-answer:" in shown[0].text and "+ANSWERS" in shown[1].text and "def serve" in shown[2].text


@pytest.mark.parametrize(
    "findings",
    [
        [],
        [FINDING | {"quote": "if 'checker' in request.headers:"}],
        [FINDING | {"certain": False}],
        [FINDING | {"path": "stack/other.py"}],
    ],
    ids=["praise", "made up", "not certain", "elsewhere"],
)
def test_praise_and_accusations_without_evidence_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, findings: list[dict[str, Any]]
) -> None:
    result, _ = reviewed(tmp_path, monkeypatch, finds(*findings))
    assert result == PASSED, "no word of a model stands among the verdicts of gates"


def test_what_it_gets_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, provider = reviewed(tmp_path, monkeypatch, finds())
    assert result == PASSED
    assert set(provider.seen[0].tools) == {"checklist", "diff", "list_files", "read_file"}


def test_a_text_that_keeps_the_model_from_a_verdict_does_not_pass_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = reviewed(tmp_path, monkeypatch, sloppy.never_valid)
    assert isinstance(result, Judgement)
    assert result.verdicts[-1].reason == "AnswerInvalid" and not result.verdicts[-1].passed


def test_a_provider_that_is_out_judges_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = reviewed(tmp_path, monkeypatch, outage.dead)
    assert isinstance(result, Verdict)
    assert (result.reason, result.failure_class) == ("ProviderUnavailable", FailureClass.PROVIDER)


def test_a_process_that_falls_over_judges_nobody() -> None:
    def fell() -> ReviewResponse:
        raise RoleError("RoleFailed", "exit code 1")

    result = with_review(PASSED, FILES, fell)
    assert isinstance(result, Verdict) and result.failure_class is FailureClass.INFRASTRUCTURE


def test_only_what_passed_the_gates_is_reviewed_and_only_where_it_is_asked_for() -> None:
    failed = Judgement(
        verdicts=(
            *PASSED.verdicts,
            Verdict(gate="novelty", passed=False, reason="Cached", failure_class=FailureClass.CANDIDATE),
        )
    )
    assert wants_review(spec(), PASSED) and not wants_review(spec(), failed)
    assert not wants_review(spec(review=False), PASSED) and not wants_review(run_spec(), PASSED)
