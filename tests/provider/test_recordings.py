"""Every recording in `recordings/` is still understood: sent again as it was asked, its answers are read as `openai` reads
them in a run. How to add one: docs/agents/models.md.
"""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from scripted_provider import Provider
from scripted_provider.recording import Replay

from sartor_agents.backends.conversation.messages import Answer, End
from sartor_agents.backends.openai import chat, responses
from sartor_agents.backends.openai.model import sent
from sartor_agents.backends.openai.wire import told
from sartor_agents.transcripts.redact import REDACTED, Redactor

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.jsonl"))
APIS = {"responses", "chat"}


def exchanges(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ask(client: openai.OpenAI, exchange: dict[str, Any]) -> Answer:
    protocol = responses if exchange["api"] == "responses" else chat
    return protocol.answer(map(told, sent(client, protocol.PATH, exchange["request"], {})), "1")


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_its_answers_are_read(path: Path) -> None:
    replay = Replay(path)
    recorded = exchanges(path)
    model = recorded[0]["request"]["model"]
    with Provider(replay, model=model) as provider:
        client = openai.OpenAI(base_url=provider.url, api_key=provider.key, max_retries=0)
        answers = [ask(client, one) for one in recorded]
    assert replay.left == 0 and provider.refused == []
    for answer in answers:
        assert answer.text or answer.calls or answer.end in (End.CUT, End.FILTERED, End.REFUSED)
        assert answer.use.input > 0 and answer.use.output > 0, "the provider reports what it counted"
        for call in answer.calls:
            assert call.id and call.name


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_it_holds_no_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert Redactor()(text) == text, f"something in it looks like a credential; replace it by {REDACTED}"
    assert len(text) < 2 << 20, "one conversation of a few turns is enough"


def test_both_protocols_are_there() -> None:
    assert {one["api"] for path in RECORDINGS for one in exchanges(path)} == APIS
