"""A recorded conversation plays back as it was, and notices when something else is asked."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from scripted_provider import Call, Provider, Seen, Turn, responses
from scripted_provider.recording import Replay

from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.model_proxy.__main__ import export
from sartor_agents.model_proxy.config import EndpointConfig, ProxyConfig
from sartor_agents.model_proxy.ledger import Ledger, Recorded
from sartor_api.search.grants import Grant

TOOLS: Any = [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}]


def converse(url: str, key: str, result: str) -> list[str]:
    """Two turns; gives what the model said."""
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)
    given: Any = [{"role": "user", "content": "Begin."}]
    said = []
    for _ in range(2):
        with client.responses.stream(model="scripted-1", input=given, tools=TOOLS, store=False) as stream:
            final = stream.get_final_response()
        said.append(final.output_text)
        for item in final.output:
            given.append(item.model_dump(exclude_none=True))
            if item.type == "function_call":
                given.append({"type": "function_call_output", "call_id": item.call_id, "output": result})
    return said


def program(seen: Seen) -> Turn:
    return Turn(text="Done.") if seen.results else Turn(text="I look.", calls=(Call("look", {}),))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """What the proxy would export of such a conversation."""
    config = ProxyConfig(
        state=tmp_path / "state",
        grant_key_file=tmp_path / "k",
        endpoints=(EndpointConfig(url="http://127.0.0.1:1/v1"),),
    )
    ledger = Ledger(tmp_path / "state" / "ledger.sqlite")
    grant = Grant(run="r", role="planner", step="001/plan/1", models=("scripted-1",), expires=0.0)
    with Provider(program) as provider:
        converse(provider.url, provider.key, "took 1.5 s")
        for number, seen in enumerate(provider.seen, 1):
            events = responses.events(program(seen), number, "scripted-1", provider.paid[number - 1])
            stream = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events)
            made = ledger.reserve(
                grant, f"c{number}", model="scripted-1", api="responses", tokens=1, money=1,
                request=json.dumps(seen.body).encode(), now=0.0,
            )  # fmt: skip
            assert isinstance(made, int)
            answer = Recorded(200, "text/event-stream", stream.encode())
            ledger.record(made, TokenUse(1, 0, 1), 1, answer, endpoint="e", estimated=False, now=1.0)
    ledger.close()
    assert export(config, "r", tmp_path / "recording.jsonl") == 0
    return tmp_path / "recording.jsonl"


def test_it_plays_as_it_was_though_commands_take_other_times(recording: Path) -> None:
    replay = Replay(recording)
    assert replay.left == 2
    with Provider(replay) as provider:
        assert converse(provider.url, provider.key, "took 1.7 s") == ["I look.", "Done."]
    assert replay.left == 0


def test_another_question_is_noticed(recording: Path) -> None:
    with Provider(Replay(recording)) as provider:
        client = openai.OpenAI(base_url=provider.url, api_key=provider.key, max_retries=0)
        with pytest.raises(openai.ConflictError, match="no such conversation"):
            client.responses.create(model="scripted-1", input="Something else.", store=False)
        more: Any = [{"role": "user", "content": "Begin."}, {"role": "user", "content": "And more."}]
        with pytest.raises(openai.ConflictError, match="1 entries then, 2 now"):
            client.responses.create(model="scripted-1", input=more, store=False)
