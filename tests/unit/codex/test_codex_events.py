"""Lines of `codex exec --json`, as 0.169.0 writes them, and as nobody should."""

import json

import pytest

from sartor_agents.backends.codex.events import (
    LONGEST_TEXT,
    Changed,
    Ended,
    Lines,
    Other,
    Problem,
    Ran,
    Said,
    Started,
    Thought,
    Tokens,
    read_event,
)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('{"type":"thread.started","thread_id":"01a2"}', Started("01a2")),
        ('{"type":"item.completed","item":{"id":"i","type":"agent_message","text":"done"}}', Said("done")),
        ('{"type":"item.completed","item":{"id":"i","type":"reasoning","text":"hm"}}', Thought("hm")),
        ('{"type":"item.completed","item":{"type":"command_execution","command":"ls","aggregated_output":"a","exit_code":3}}',
         Ran("ls", "a", 3)),
        ('{"type":"item.completed","item":{"type":"file_change","changes":[{"path":"a.py","kind":"add"}]}}',
         Changed(("a.py",))),
        ('{"type":"item.completed","item":{"type":"error","message":"odd"}}', Problem("odd")),
        ('{"type":"error","message":"Reconnecting"}', Problem("Reconnecting")),
        ('{"type":"turn.failed","error":{"message":"gone"}}', Problem("gone", final=True)),
        ('{"type":"turn.completed","usage":{"input_tokens":9,"cached_input_tokens":4,'
         '"output_tokens":2,"reasoning_output_tokens":1}}',
         Ended(Tokens(9, 4, 2, 1))),
        ('{"type":"turn.started"}', Other("turn.started")),
        ('{"type":"item.completed","item":{"type":"new_thing"}}', Other("item.completed/new_thing")),
        ('{"type":"item.completed"}', Other("item.completed")),
        ('{"type":"turn.completed","usage":{"input_tokens":-5,"output_tokens":"many"}}', Ended(Tokens())),
        ('{"type":"turn.completed"}', Ended(Tokens())),
        ('{"type":7}', None), ("[]", None), ("not JSON", None), ("", None), ("[" * 100_000, None),
    ],
)  # fmt: skip
def test_a_line_is_an_event_or_none(line: str, event: object) -> None:
    assert read_event(line) == event


def test_texts_are_bounded_and_answers_are_whole() -> None:
    output = {"type": "item.completed", "item": {"type": "command_execution", "aggregated_output": "x" * 100_000}}
    read = read_event(json.dumps(output))
    assert isinstance(read, Ran) and len(read.output) < LONGEST_TEXT + 10
    answer = {"type": "item.completed", "item": {"type": "agent_message", "text": "x" * 100_000}}
    assert read_event(json.dumps(answer)) == Said("x" * 100_000)


def test_lines_out_of_pieces() -> None:
    lines = Lines(longest=10)
    assert lines.add(b"ab") == [] and lines.add(b"c\nde\nf") == ["abc", "de"]
    assert lines.add(b"\n" + b"x" * 11) == ["f"]
    assert lines.add(b"yyy\nok\n") == ["ok"]
