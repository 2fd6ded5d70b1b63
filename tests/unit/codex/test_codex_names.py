"""Names of Codex' calls: the same for the same conversation in another life, and for no other."""

import json
from typing import Any

from sartor_agents.backends.codex.names import call_name

TALK: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Spent: 0. Write the stack."}]},
    {"type": "message", "role": "assistant", "id": "m1", "content": [{"type": "output_text", "text": "I begin."}]},
    {"type": "function_call", "id": "f1", "call_id": "c1", "name": "exec_command", "arguments": '{"cmd": "ls"}'},
    {"type": "function_call_output", "call_id": "c1", "output": "Wall time: 0.1\nProcess exited with code 0\nfiles"},
]


def name(items: list[dict[str, Any]], conversation: str = "plan/1", **more: Any) -> str | None:
    body = {"model": "m", "tools": [{"name": "exec_command"}], "input": items, "prompt_cache_key": "thread", **more}
    return call_name(conversation, json.dumps(body).encode())


def changed(place: int, **values: Any) -> list[dict[str, Any]]:
    return [{**item, **values} if number == place else item for number, item in enumerate(TALK)]


def test_what_another_life_has_differently_is_the_same_call() -> None:
    same = [
        name(TALK, prompt_cache_key="other"), name(changed(0, content="Spent: 7000. Write the stack.")),
        name(changed(1, id="m9")), name(changed(2, call_id="c9", id="f9")),
        name(changed(3, output="Wall time: 7.9\nProcess exited with code 0\nfiles")),
        name(changed(3, output=[{"type": "input_text", "text": "Process exited with code 0"}])),
    ]  # fmt: skip
    assert set(same) == {name(TALK)}


def test_what_is_another_conversation_is_another_call() -> None:
    others = [
        name(TALK, conversation="plan/2"), name(TALK[:2]), name([]), name(TALK, model="n"), name(TALK, tools=[]),
        name(changed(1, content=[{"type": "output_text", "text": "I end."}])),
        name(changed(2, arguments='{"cmd": "rm -r stack"}')), name(changed(2, name="other")),
        name(changed(3, output="Process exited with code 2\nfiles")),
    ]  # fmt: skip
    assert len({*others, name(TALK)}) == len(others) + 1


def test_what_is_no_request_has_no_name() -> None:
    assert [call_name("c", body) for body in (b"", b"{", b"[1]", b"[" * 100_000)] == [None] * 4
    assert call_name("c", b'{"input": "text"}') == call_name("c", b'{"input": [1, null]}')
