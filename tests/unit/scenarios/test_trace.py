"""The owner's trace: what a replay keeps of it (times, lengths, shared beginnings), and what not (repetition)."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sartor_agents.measurement.messages import ChatParameters, ChatScenario
from sartor_agents.scenarios import Scenario, ScenarioError, open_scenario
from sartor_agents.scenarios.trace import TraceRequest, cut, read_trace, timed

SEED = "ab" * 32
WORDS = "the quick brown fox jumps over the lazy dog "


def line(at: float | None, **body: Any) -> str:
    return json.dumps({**({} if at is None else {"at": at}), "body": {"prompt": WORDS * 3, "max_tokens": 20, **body}})


def scenario(model: Path, tmp_path: Path, lines: list[str], **parameters: Any) -> Scenario:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    values = {"concurrencies": (1,), "replay_speed": 1.0, **parameters}
    return open_scenario(ChatScenario(parameters=ChatParameters(**values)), model, SEED, trace=path)[0]


def entries(*times: float) -> list[tuple[float, TraceRequest]]:
    return timed([TraceRequest(n, at, "x", (), None) for n, at in enumerate(times, 1)], 1.0)


def test_times_count_from_the_first_request_and_follow_the_speed() -> None:
    requests = [TraceRequest(n, at, "x", (), None) for n, at in enumerate([107.0, 100.0, 103.0], 1)]
    assert [(at, request.line) for at, request in timed(requests, 2.0)] == [(0.0, 2), (1.5, 3), (3.5, 1)]


def test_windows_walk_through_the_trace_and_begin_again() -> None:
    trace = entries(0, 1, 2, 3, 4, 5, 6, 7)
    parts = [[(due, request.line) for due, request in cut(trace, window, 0.5, 3.0)] for window in range(4)]
    assert parts == [[(0, 1), (1, 2), (2, 3)], [(0, 4), (1, 5), (2, 6)], [(0, 7), (1, 8)], [(0, 1), (1, 2), (2, 3)]]


def test_a_gap_in_the_trace_is_passed_over() -> None:
    trace = entries(0, 1, 49, 50)
    assert [request.line for _, request in cut(trace, 1, 0.5, 3.0)] == [3, 4]


def test_a_trace_that_is_too_thin_says_what_to_do() -> None:
    with pytest.raises(ScenarioError, match="raise replaySpeed"):
        cut(entries(0, 9.5, 18.5), 0, 1.0, 3.0)


def test_a_replay_keeps_times_and_lengths_and_repeats_nothing(chain_model: Path, tmp_path: Path) -> None:
    lines = [line(0.0), line(0.5, max_tokens=7), line(1.25), line(1.25, max_tokens=None)]
    one = scenario(chain_model, tmp_path, lines, output_tokens=33)
    stage = one.stages[-1]
    assert (stage.name, stage.is_open, stage.in_objective) == ("replay", True, False)
    assert stage.replay is not None
    first, again, second = stage.replay(0, 0.4, 2.0), stage.replay(0, 0.4, 2.0), stage.replay(1, 0.4, 2.0)
    assert [(due, request.output_tokens, purpose) for due, request, purpose in first] == [
        (0.0, 20, "warmup"), (0.5, 7, "scored"), (1.25, 20, "scored"), (1.25, 33, "scored"),
    ]  # fmt: skip
    assert first == again
    # Within a window prompts share what the owner's share; between windows nothing.
    texts = [[request.body["prompt"] for _, request, _ in part] for part in (first, second)]
    assert len(set(texts[0])) == 1 and texts[0][0] != texts[1][0]
    assert texts[0][0].endswith(WORDS * 3)
    assert all(request.length_is_forced and request.body["temperature"] == 0 for _, request, _ in first)
    assert one.envelope.output_tokens >= 33 and one.envelope.input_tokens >= len(first[0][1].prompt_ids)


def test_messages_are_replayed_as_messages(chain_model: Path, tmp_path: Path) -> None:
    body = {"body": {"messages": [{"role": "user", "content": WORDS * 4}], "max_tokens": 9}, "at": 0.1}
    replay = scenario(chain_model, tmp_path, [json.dumps(body)]).stages[-1].replay
    assert replay is not None
    ((due, request, _),) = replay(0, 0.0, 2.0)
    assert (due, request.path, request.output_tokens) == (0.0, "/v1/chat/completions", 9)
    (message,) = request.body["messages"]
    assert message["role"] == "user" and message["content"].endswith("\n" + WORDS * 4) and "prompt" not in request.body


def test_messages_need_a_chat_template(chain_model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "model"
    shutil.copytree(chain_model, bare)
    settings = bare / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": None}))
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ScenarioError, match="line 1 of the trace has messages, and the model has no chat template"):
        scenario(bare, tmp_path, [json.dumps({"body": {"messages": [{"role": "user", "content": WORDS}]}, "at": 0.0})])


def test_a_replay_needs_a_trace_with_times(chain_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="line 2 of the trace has no `at`"):
        scenario(chain_model, tmp_path, [line(0.0), line(None)])
    with pytest.raises(ScenarioError, match="needs a trace"):
        open_scenario(ChatScenario(parameters=ChatParameters(replay_speed=1.0)), chain_model, SEED)


def test_without_times_a_trace_is_still_text(chain_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(line(None) + "\n" + json.dumps({"prompt": WORDS * 2}))
    assert [request.text for request in read_trace(path)] == [WORDS * 3, WORDS * 2]
    assert len(open_scenario(ChatScenario(), chain_model, SEED, trace=path)[0].stages) == 2
