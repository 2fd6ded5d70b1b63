"""The whole stack with real weights: a chain checkpoint, whose text is known in advance, through the native decoder."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import OpenAI
from tokenizers import Tokenizer

from sartor_agents.checkpoints import ChainFacts
from sartor_agents.checkpoints.make import make
from sartor_agents.judge.reference import Reference

from .composed import for_checkpoint

pytestmark = pytest.mark.slow  # compiles the decoder


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    make("chain", request.param, "tiny", 0, folder)
    return folder


@pytest.fixture(scope="module")
def client(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = for_checkpoint(tmp_path_factory.mktemp("composed"), model, SPECULATION="prediction", THREADS=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "stack", "serve", "--model", str(model), "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready.startswith("READY ")
    try:
        yield OpenAI(base_url=ready.split()[1] + "/v1", api_key="none", max_retries=0, timeout=60)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_every_way_of_asking_gives_the_known_text(model: Path, client: OpenAI) -> None:
    chain = json.loads((model / "chain.json").read_text())
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    token = chain["firstWord"] + 7
    prompt, walk = [token], []
    for _ in range(120):
        token = chain["successor"][token]
        walk.append(token)
    text = tokenizer.decode(walk)
    replaced = [t if i % 5 else chain["firstWord"] + i for i, t in enumerate(walk)]
    shifted = walk[:40] + walk[55:]
    for content in (None, text, tokenizer.decode(replaced), tokenizer.decode(shifted)):
        extra = {"ignore_eos": True}
        if content is not None:
            extra["prediction"] = {"type": "content", "content": content}
        wishes = {"model": client.models.list().data[0].id, "prompt": prompt, "max_tokens": 120, "temperature": 0}
        whole = client.completions.create(**wishes, extra_body=extra)
        assert whole.choices[0].text == text
        chunks = client.completions.create(**wishes, extra_body=extra, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == text
        assert whole.usage is not None
        if content == text:
            details = whole.usage.completion_tokens_details
            assert details is not None
            assert (details.accepted_prediction_tokens or 0) > 60


def test_logprobs_are_the_models_own_alone_in_a_batch_and_in_verification_rows(model: Path, client: OpenAI) -> None:
    facts, tokenizer = ChainFacts.load(model), Tokenizer.from_file(str(model / "tokenizer.json"))
    name = client.models.list().data[0].id

    def ask(word: int, prediction: list[int] | None = None) -> Any:
        extra: dict[str, Any] = {"ignore_eos": True, "return_tokens_as_token_ids": True}
        if prediction is not None:
            extra["prediction"] = {"type": "content", "content": tokenizer.decode(prediction)}
        answer = client.completions.create(
            model=name, prompt=[word], max_tokens=40, temperature=0, logprobs=3, extra_body=extra
        )
        if prediction == facts.walk(word, 40):
            assert answer.usage is not None and answer.usage.completion_tokens_details is not None
            assert (answer.usage.completion_tokens_details.accepted_prediction_tokens or 0) > 20
        return answer.choices[0].logprobs

    words = [facts.first_word + 11 * i for i in range(8)]
    alone = [ask(word) for word in words]
    reference = Reference(model)
    for word, shown in zip(words, alone, strict=True):
        walk = facts.walk(word, 40)
        assert shown.tokens == [f"token_id:{token}" for token in walk]
        exact = reference.check([word], walk).logprobs
        # What rounding to bf16 moves is hundredths here; another row's logprobs, or another position's, are nats away.
        assert np.abs(np.asarray(shown.token_logprobs) - exact).max() < 0.1
        assert [next(iter(top)) for top in shown.top_logprobs] == shown.tokens
        assert {len(top) for top in shown.top_logprobs} == {3}
    mixed = [t if i % 5 else facts.first_word + i for i, t in enumerate(facts.walk(words[0], 40))]
    for prediction in (facts.walk(words[0], 40), mixed):
        assert ask(words[0], prediction) == alone[0]
    with ThreadPoolExecutor(len(words)) as pool:
        assert list(pool.map(ask, words)) == alone


def test_sampling_with_a_seed_does_not_depend_on_the_prediction(client: OpenAI) -> None:
    def text(content: str | None) -> str:
        answer = client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=40,
            temperature=1.5,
            seed=11,
            **({"prediction": {"type": "content", "content": content}} if content else {}),  # type: ignore[arg-type]
        )
        return answer.choices[0].message.content or ""

    plain = text(None)
    assert plain
    assert text(plain) == plain
    assert text("something else entirely") == plain
