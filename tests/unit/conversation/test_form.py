"""The final answer: found among words, completed by what is fixed, and refused with what to mend."""

import pytest

from sartor_agents.backends.conversation.form import Form, FormError
from sartor_api.search.records import Implementation, Plan

FORM = Form("plan", Plan, {"kind": "plan", "round": 3})
GOOD = '{"action": "stop", "hypothesis": "h {1}"}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Here it is:\n```json\n{GOOD}\n```\nDone.",
        f"I thought of {{this}} and of {{'that': 1}}.\n{GOOD}",
        f'First {{"action": "build", "hypothesis": "draft"}}, but then: {GOOD}',
        '{"action": "stop", "hypothesis": "h {1}", "round": 99, "kind": "verdict"}',
    ],
)
def test_the_record_is_found(text: str) -> None:
    assert FORM.read(text) == Plan(round=3, action="stop", hypothesis="h {1}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("no braces", "no valid JSON object"),
        ('{"action": "stop"', "no valid JSON object"),
        ("{" * 100_000, "no valid JSON object"),
        ('{"a":' * 5_000, "no valid JSON object"),
        ('{"action": "stop"}', "hypothesis: Field required"),
        ('{"action": "fly", "hypothesis": "h", "wings": 2}', "wings: Extra inputs"),
        ('{"action": "stop", "hypothesis": "h", "changes": ["\\udc00"]}', "half of a surrogate pair"),
        ('{"action": "return", "hypothesis": "h"}', "names the commit to return to"),
    ],
)
def test_what_is_wrong_is_told(text: str, told: str) -> None:
    with pytest.raises(FormError, match=told):
        FORM.read(text)


def test_the_schema_shows_what_is_to_be_filled_in() -> None:
    shown = FORM.schema().schema
    assert "round" not in shown["properties"]  # type: ignore[operator]
    assert shown["required"] == ["action", "hypothesis"]
    fixed = {"kind": "implementation", "commit": "", "content_hash": "", "lines": None}
    implementation = Form("implementation", Implementation, fixed)
    assert set(implementation.schema().schema["properties"]) == {"skills_used", "summary"}  # type: ignore[arg-type]
    assert implementation.read('{"summary": "s", "commit": "f00"}').commit == ""
