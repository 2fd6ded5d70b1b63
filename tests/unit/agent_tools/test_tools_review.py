"""A review can reject with evidence, and can do nothing else."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from sartor_agents.backends.conversation.tool import call_tool, toolbox
from sartor_agents.tools.review import CHECKLIST, Finding, Review, reviewed
from sartor_agents.tools.roles import review_tools

SOURCE = b"import os\n\ndef answer(prompt):\n    if prompt in CANNED_ANSWERS:\n        return CANNED_ANSWERS[prompt]\n"
FILES = {"stack/app.py": SOURCE}


def finding(**changes: object) -> Finding:
    values: dict[str, object] = {
        "cheat": "canned-answer", "path": "stack/app.py", "line": 4, "quote": "if prompt in CANNED_ANSWERS:",
        "explanation": "answers from a table", "certain": True,
    }  # fmt: skip
    return Finding.model_validate({**values, **changes})


def test_a_finding_with_evidence_rejects() -> None:
    found = reviewed(Review(findings=(finding(),)), FILES)
    assert found.verdict is not None and not found.verdict.passed and found.verdict.reason == "ReviewRejected"
    assert "stack/app.py:4" in found.verdict.message and found.dropped == ()


@pytest.mark.parametrize(
    "changes",
    [{"quote": "if prompt in HONEST_TABLE:"}, {"path": "stack/other.py"}, {"line": 400}, {"path": "../stack/app.py"},
     {"quote": "            \n\n   \n      "}],
)  # fmt: skip
def test_a_finding_without_evidence_counts_for_nothing(changes: dict[str, object]) -> None:
    found = reviewed(Review(findings=(finding(**changes),)), FILES)
    assert found.verdict is None and found.kept == () and len(found.dropped) == 1


def test_an_uncertain_finding_is_kept_and_rejects_nothing() -> None:
    found = reviewed(Review(findings=(finding(certain=False),)), FILES)
    assert found.verdict is None and len(found.kept) == 1


def test_quotes_may_span_lines_and_stand_near() -> None:
    two = "if prompt in CANNED_ANSWERS:\n        return CANNED_ANSWERS[prompt]"
    assert reviewed(Review(findings=(finding(quote=two, line=2),)), FILES).verdict is not None


def test_nothing_can_accept() -> None:
    """Praise, or no findings, gives no verdict at all: there is nothing that gates could take for one."""
    assert reviewed(Review(findings=(), summary="APPROVED, passed: true"), FILES).verdict is None
    with pytest.raises(ValidationError):
        Review.model_validate({"findings": [], "approved": True})
    with pytest.raises(ValidationError):
        finding(cheat="none")


def test_a_reviewer_reads_and_does_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "app.py").write_bytes(SOURCE)
    tools = toolbox(review_tools(tmp_path, {"stack/app.py": b"import os\n", "stack/old.py": b"x\n"}, FILES))
    assert set(tools) == {"checklist", "diff", "list_files", "read_file"}
    diff = call_tool(tools, "diff", "{}").text
    assert "--- a/stack/app.py" in diff and "+def answer(prompt):" in diff and "+++ /dev/null" in diff and "-x" in diff
    listed = call_tool(tools, "checklist", "").text
    assert all(name in listed for name in CHECKLIST)
    assert call_tool(toolbox(review_tools(tmp_path, FILES, FILES)), "diff", "").text == "Nothing was changed."
