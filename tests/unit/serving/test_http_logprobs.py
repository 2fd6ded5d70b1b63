"""`logprobs` on the wire: what a client reads, whole and streamed. `test_vllm_logprobs.py` holds it against real vLLM."""

from typing import Any

import numpy as np
import pytest

from . import toy
from .serve import Running

TEXT = toy.make_tokenizer()
PROMPT = TEXT.encode("the quick").ids


def logprobs_of(context: list[int]) -> np.ndarray:
    """The toy decoder's own, by definition."""
    row = toy.toy_logits(context, toy.scattered(context), toy.VOCAB).astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def merged(events: list[Any], part: str) -> dict[str, list[Any]]:
    """The logprobs of a stream's first choice, its chunks behind each other."""
    found: dict[str, list[Any]] = {}
    for event in events:
        choice = event["choices"][0]
        if choice["logprobs"] is not None:
            for name, values in choice["logprobs"].items():
                found.setdefault(name, []).extend(values)
            assert choice["logprobs"] and (choice[part] is not None)
    return found


def test_a_completion(server: Running) -> None:
    wish = {"max_tokens": 6, "logprobs": 2}
    answer = server.completion(return_token_ids=True, return_tokens_as_token_ids=True, **wish).json()["choices"][0]
    shown, context = answer["logprobs"], list(PROMPT)
    assert list(shown) == ["text_offset", "token_logprobs", "tokens", "top_logprobs"]
    for token, value, top in zip(answer["token_ids"], shown["token_logprobs"], shown["top_logprobs"], strict=True):
        exact = logprobs_of(context)
        assert value == pytest.approx(exact[token], abs=1e-5)
        best = np.argsort(-exact)[:2]
        assert list(top) == [f"token_id:{other}" for other in best]
        assert list(top.values()) == pytest.approx(exact[best].tolist(), abs=1e-5)
        context.append(token)
    values = shown["token_logprobs"]
    shown = server.completion(**wish).json()["choices"][0]["logprobs"]
    assert (shown["token_logprobs"], [next(iter(top)) for top in shown["top_logprobs"]]) == (values, shown["tokens"])
    ends = np.cumsum([len(token) for token in shown["tokens"]]).tolist()
    assert shown["text_offset"] == [0, *ends[:-1]]
    assert server.completion(max_tokens=6).json()["choices"][0]["logprobs"] is None


def test_alternatives_that_are_spelled_alike_share_a_key(server: Running) -> None:
    """As in vLLM: bytes of unfinished characters are all spelled as nothing. Names by id stay apart."""
    wish = {"max_tokens": 40, "logprobs": 20}
    spelled = server.completion(**wish).json()["choices"][0]["logprobs"]["top_logprobs"]
    named = server.completion(return_tokens_as_token_ids=True, **wish).json()["choices"][0]["logprobs"]["top_logprobs"]
    assert {len(top) for top in named} == {20}
    assert any("" in top and len(top) < 20 for top in spelled)


def test_none_of_the_others_is_wished_for(server: Running) -> None:
    shown = server.completion(max_tokens=3, logprobs=0).json()["choices"][0]["logprobs"]
    assert [list(top.values()) for top in shown["top_logprobs"]] == [[value] for value in shown["token_logprobs"]]
    content = server.chat(max_tokens=3, logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in content] == [[]] * 3


def test_the_chosen_token_comes_first_though_others_are_likelier(server: Running) -> None:
    """Logprobs are the model's own; the bias moves only the choice. Chat shows as many as asked for, it among them."""
    wish = {"max_tokens": 3, "logit_bias": {"9": 100}}
    shown = server.completion(logprobs=2, **wish).json()["choices"][0]["logprobs"]
    name = TEXT.decode([9])
    assert shown["tokens"] == [name] * 3
    for value, top in zip(shown["token_logprobs"], shown["top_logprobs"], strict=True):
        assert next(iter(top)) == name and top[name] == value
        assert len(top) == 3 and all(other > value for other in list(top.values())[1:])
    for entry in server.chat(logprobs=True, top_logprobs=2, **wish).json()["choices"][0]["logprobs"]["content"]:
        assert next(top["token"] for top in entry["top_logprobs"]) == name == entry["token"]
        assert len(entry["top_logprobs"]) == 2 and entry["top_logprobs"][1]["logprob"] > entry["logprob"]


def test_a_chat(server: Running) -> None:
    content = server.chat(max_tokens=5, logprobs=True, top_logprobs=3).json()["choices"][0]["logprobs"]["content"]
    for entry in content:
        assert list(entry) == ["token", "logprob", "bytes", "top_logprobs"]
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert entry["top_logprobs"][0] == {name: entry[name] for name in ("token", "logprob", "bytes")}
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert values == sorted(values, reverse=True) and len(values) == 3


def test_names_may_be_ids(server: Running) -> None:
    wish = {"max_tokens": 3, "return_tokens_as_token_ids": True, "return_token_ids": True}
    answer = server.completion(logprobs=1, **wish).json()["choices"][0]
    names = [f"token_id:{token}" for token in answer["token_ids"]]
    assert answer["logprobs"]["tokens"] == names
    assert [list(top) for top in answer["logprobs"]["top_logprobs"]] == [[name] for name in names]
    assert answer["logprobs"]["text_offset"] == [0, len(names[0]), len(names[0]) + len(names[1])]


@pytest.mark.parametrize("extra", [{}, {"stop": ["q"]}, {"return_token_ids": True}], ids=["plain", "stop", "ids"])
def test_a_stream_has_the_logprobs_of_the_whole_answer(server: Running, extra: dict[str, Any]) -> None:
    """Also where a chunk has tokens and no text: half a character, or what may become a stop string."""
    wish = {"max_tokens": 40, **extra}
    whole = server.completion(logprobs=3, **wish).json()["choices"][0]["logprobs"]
    events = server.events("/v1/completions", prompt="the quick", logprobs=3, **wish)
    assert merged(events, "text") == whole
    assert "" in whole["tokens"], "some token must leave a character unfinished"
    messages = [{"role": "user", "content": "hello"}]
    content = server.chat(logprobs=True, top_logprobs=2, **wish).json()["choices"][0]["logprobs"]["content"]
    parts = server.events("/v1/chat/completions", messages=messages, logprobs=True, top_logprobs=2, **wish)
    assert merged(parts, "delta") == {"content": content}


def test_every_choice_has_its_own(server: Running) -> None:
    prompts = ["the lazy", "größe 日本"]
    alone = [server.completion(prompt=prompt, max_tokens=12, logprobs=2).json()["choices"][0] for prompt in prompts]
    both = server.completion(prompt=prompts, max_tokens=12, logprobs=2).json()["choices"]
    assert [choice["logprobs"] for choice in both] == [choice["logprobs"] for choice in alone]


def test_a_prediction_changes_no_logprob(server: Running) -> None:
    plain = server.completion(max_tokens=24, logprobs=2).json()["choices"][0]
    before = server.metric("vllm:spec_decode_num_draft_tokens_total")
    for content in (plain["text"], plain["text"][::-1]):
        wish = {"prediction": {"type": "content", "content": content}}
        assert server.completion(max_tokens=24, logprobs=2, **wish).json()["choices"][0] == plain
    assert server.metric("vllm:spec_decode_num_draft_tokens_total") > before
