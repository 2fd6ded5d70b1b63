"""A stack's logprobs against real vLLM's, field by field: one checkpoint in fp32, the same requests to both."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tokenizers import Tokenizer

from sartor_agents.baselines import VllmEngine
from sartor_agents.baselines.environment import VllmEnvironment, existing_environment
from sartor_agents.baselines.grid import grid
from sartor_agents.checkpoints import cache_folder, make
from sartor_agents.run.servers import RunningServer, free_port

from .composed import for_checkpoint
from .test_detokenize import BYTE_LEVEL, DETOKENIZERS, FALLBACK, WORDS

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

# Both compute in fp32; a sum of n terms in another order differs by about sqrt(n) 2^-24 of it, over some tens of sums in
# turn. The decoder's own tests hold fp32 logits (up to 5) to 2e-5 of the largest; a logprob moves at most twice as far.
TOLERANCE = 2e-4
EOS = 2


@pytest.fixture(scope="module")
def environment() -> VllmEnvironment:
    found = existing_environment(cache_folder())
    if found is None:
        pytest.skip("vLLM's environment was not made (sartor baseline setup)")
    return found


class Pair:
    """vLLM and a stack, asked the same."""

    def __init__(self, vllm: str, stack: str) -> None:
        self._clients = [httpx.Client(base_url=url, timeout=120, trust_env=False) for url in (vllm, stack)]

    def ask(self, path: str, body: dict[str, Any]) -> list[httpx.Response]:
        """Theirs, ours."""
        common = {"model": "model", "max_tokens": 24, "temperature": 0}
        common |= {"prompt": "one two"} if path == "completions" else {"messages": [{"role": "user", "content": "one"}]}
        return [client.post(f"/v1/{path}", json={**common, **body}) for client in self._clients]

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture(scope="module")
def pair(environment: VllmEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    model = make("random", "llama", "tiny", 0, folder / "model", dtype="float32").path
    arguments = ("--enforce-eager", "--dtype", "float32")
    plain = grid("chat", "documentedGrid", arguments=arguments, cores=1, native_bf16=True)[0]
    engine = VllmEngine(environment, model, "model", 512, [plain], folder / "home", folder / "cache")
    stack = for_checkpoint(folder / "stack", model, DTYPE="float32", SPECULATION="prediction", THREADS=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "stack", "serve", "--model", str(model), "--port", "0"],
        cwd=stack,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        with RunningServer(engine.server(plain, free_port()), folder / "log") as server:
            ready = process.stdout.readline()
            made = Pair(f"http://127.0.0.1:{server.spec.port}", ready.split()[1])
            yield made
            made.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


COMPLETIONS: list[dict[str, Any]] = [
    {},
    {"logprobs": None},
    {"logprobs": 0},
    {"logprobs": 1},
    {"logprobs": 5},
    {"logprobs": 20},
    {"logprobs": 2.0},
    {"logprobs": True},
    {"logprobs": 2, "logit_bias": {"300": 100}},  # chosen against the model's wish
    {"logprobs": 2, "logit_bias": {str(7 + 0xE6): 100}},  # the first byte of three, again and again
    {"logprobs": 2, "logit_bias": {str(EOS): 100}},
    {"logprobs": 2, "logit_bias": {str(EOS): 100}, "ignore_eos": True, "max_tokens": 3},
    {"logprobs": 2, "logit_bias": {str(EOS): 100}, "ignore_eos": True, "max_tokens": 3, "skip_special_tokens": False},
    {"logprobs": 2, "return_tokens_as_token_ids": True},
    {"logprobs": 2, "return_token_ids": True, "max_tokens": 4},
    {"logprobs": 1, "prompt": ["one", "two three"]},
    {"logprobs": 1, "stop": ["e", "a", "o"]},
    {"logprobs": 1, "stop": ["e", "a", "o"], "include_stop_str_in_output": True},
    {"logprobs": 1, "max_tokens": 1},
]
CHATS: list[dict[str, Any]] = [
    {},
    {"logprobs": False},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": None},
    {"logprobs": True, "top_logprobs": 0},
    {"logprobs": True, "top_logprobs": 1},
    {"logprobs": True, "top_logprobs": 5},
    {"logprobs": True, "top_logprobs": 20},
    {"logprobs": True, "top_logprobs": 2, "logit_bias": {"300": 100}},
    {"logprobs": True, "top_logprobs": 2, "logit_bias": {str(7 + 0xE6): 100}},
    {"logprobs": True, "top_logprobs": 2, "logit_bias": {str(EOS): 100}},
    {"logprobs": True, "top_logprobs": 2, "return_tokens_as_token_ids": True},
    {"logprobs": True, "top_logprobs": 1, "stop": ["e", "a", "o"]},
]
REQUESTS = [*(("completions", body) for body in COMPLETIONS), *(("chat/completions", body) for body in CHATS)]


def alike(theirs: Any, ours: Any, where: str = "") -> None:
    """The same keys (of alternatives: in the same order), the same values; logprobs within the tolerance."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        assert sorted(ours) == sorted(theirs), where
        if "top_logprobs[" in where:
            assert list(ours) == list(theirs), where
        for name in theirs:
            if name not in ("id", "created", "system_fingerprint"):
                alike(theirs[name], ours[name], f"{where}.{name}")
    elif isinstance(theirs, list) and isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for place, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            alike(a, b, f"{where}[{place}]")
    elif isinstance(theirs, float):
        assert isinstance(ours, float) and abs(ours - theirs) < TOLERANCE, where
    elif theirs == "" and isinstance(ours, str) and set(ours) == {"\ufffd"}:
        pass  # bytes that never become a character: vLLM's text leaves them out, a stack's shows that they were there
    else:
        assert (type(ours), ours) == (type(theirs), theirs), where


def whole(answer: httpx.Response) -> Any:
    """The answer less what only a stack with predictions says of them."""
    assert answer.status_code == 200, answer.text
    content = answer.json()
    content["usage"].pop("completion_tokens_details", None)
    return content


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=lambda value: str(value)[:70])
def test_a_whole_answer(pair: Pair, path: str, body: dict[str, Any]) -> None:
    theirs, ours = (whole(answer) for answer in pair.ask(path, body))
    alike(theirs, ours)


def joined(answer: httpx.Response) -> list[list[Any]]:
    """For each choice: the frames of its chunks (the keys at every level) by what a chunk is, and what they hold together.
    Not the `system_fingerprint` of vLLM's last chunk: a stack has none, and says null in whole answers.

    Several steps may share a chunk when a client is slow to read, so lists and texts are put behind each other.
    """
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    choices: dict[int, list[Any]] = {}
    for event in map(json.loads, lines[:-1]):
        (choice,) = event["choices"]
        frames, held = choices.setdefault(choice["index"], [{}, {}])
        delta = list(choice["delta"]) if "delta" in choice else []
        names = list(choice["logprobs"]) if choice["logprobs"] is not None else []
        form = [
            sorted(event.keys() - {"system_fingerprint"}),
            sorted(choice),
            delta,
            names,
            event["object"],
            event["model"],
        ]
        kind = "last" if choice["finish_reason"] else "role" if "role" in delta else "middle"
        if form not in frames.setdefault(kind, []):
            frames[kind].append(form)
        for name, values in (choice["logprobs"] or {}).items():
            held.setdefault(name, []).extend(values)
        text = choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
        held["text"] = held.get("text", "") + text
        held["end"] = [choice["finish_reason"], choice["stop_reason"]] if choice["finish_reason"] else None
        for name in ("prompt_token_ids", "token_ids"):
            if choice.get(name):
                held.setdefault(name, []).extend(choice[name])
    return [choices[index] for index in sorted(choices)]


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=lambda value: str(value)[:70])
def test_a_stream(pair: Pair, path: str, body: dict[str, Any]) -> None:
    theirs, ours = (joined(answer) for answer in pair.ask(path, {**body, "stream": True}))
    for frames in (sides[0] for sides in (*theirs, *ours)):
        assert frames.keys() - {"middle"} == ({"role", "last"} if "chat" in path else {"last"})
    for (frames, _), (others, _) in zip(theirs, ours, strict=True):
        if "middle" not in frames or "middle" not in others:  # all of an answer came with its last chunk
            frames.pop("middle", None)
            others.pop("middle", None)
    alike(theirs, ours)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("completions", {"logprobs": -1}),
    ("completions", {"logprobs": -2}),
    ("completions", {"logprobs": 21}),
    ("completions", {"logprobs": "3"}),
    ("completions", {"logprobs": []}),
    ("completions", {"logprobs": 1.5}),
    ("chat/completions", {"top_logprobs": 2}),
    ("chat/completions", {"top_logprobs": -1}),
    ("chat/completions", {"logprobs": True, "top_logprobs": -1}),
    ("chat/completions", {"logprobs": True, "top_logprobs": -2}),
    ("chat/completions", {"logprobs": True, "top_logprobs": 21}),
    ("chat/completions", {"logprobs": True, "top_logprobs": "3"}),
    ("chat/completions", {"logprobs": "perhaps"}),
    ("chat/completions", {"logprobs": 2}),
]


@pytest.mark.parametrize(("path", "body"), REFUSED, ids=lambda value: str(value)[:70])
def test_what_vllm_refuses_is_refused(pair: Pair, path: str, body: dict[str, Any]) -> None:
    theirs, ours = pair.ask(path, body)
    assert (theirs.status_code, ours.status_code) == (400, 400), (theirs.text, ours.text)
    assert list(ours.json()["error"]) == list(theirs.json()["error"])
    said = theirs.json()["error"]["message"]
    if "validation error" not in said or "Value error" in said:  # pydantic's own words are not repeated
        assert ours.json()["error"]["message"] in said


ORACLE = """
import json, sys
from transformers import PreTrainedTokenizerFast
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.logprobs import LogprobsProcessor
tokenizer = PreTrainedTokenizerFast(tokenizer_file=sys.argv[1], clean_up_tokenization_spaces=False)
made = LogprobsProcessor(tokenizer, [], None, 0.0, 0, None)
for line in sys.stdin:
    before, tokens = json.loads(line)
    print(json.dumps(made._verify_tokens(convert_ids_list_to_tokens(tokenizer, tokens), tokens, before)))
"""


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, FALLBACK, WORDS], ids=["byte-level", "byte-fallback", "words"])
def test_tokens_are_spelled_as_vllm_spells_them(
    environment: VllmEnvironment, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Any four tokens ahead of any other; half of them from real text, where characters are completed."""
    numbers = np.random.default_rng(3)
    size = tokenizer.get_vocab_size()
    text = tokenizer.encode("größe 日本語 🙂 ab ö日 a b  a " * 8, add_special_tokens=False).ids
    cases: list[tuple[list[int], list[int]]] = []
    for i in range(2000):
        if i % 2:
            at = int(numbers.integers(len(text) - 5))
            cases.append((text[at : at + i % 5], [text[at + i % 5], int(numbers.integers(size))]))
        else:
            cases.append((numbers.integers(0, size, i % 5).tolist(), numbers.integers(0, size, 3).tolist()))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    result = subprocess.run(
        [str(environment.python), "-c", ORACLE, str(tmp_path / "tokenizer.json")],
        input="\n".join(map(json.dumps, cases)),
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8", "VLLM_NO_USAGE_STATS": "1"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    expected = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
    detokenizer = DETOKENIZERS[id(tokenizer)]
    assert [[detokenizer.spell(token, before) for token in tokens] for before, tokens in cases] == expected
