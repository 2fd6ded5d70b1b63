"""Deltas to OpenAI's JSON: whole answers and SSE chunks, field for field as vLLM sends them.

A chunk of a stream differs from the next in little but its text, so what stays the same is encoded once per request.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from . import spec
from .detokenize import Detokenizer
from .protocol import Generation
from .sampling import TokenLogprobs
from .sequence import Delta

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Choice:
    """What one choice has produced so far (or since the last chunk)."""

    text: list[str] = field(default_factory=list[str])
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprobs] = field(default_factory=list[TokenLogprobs])
    finish: str | None = None
    stop_reason: str | int | None = None

    def add(self, delta: Delta) -> None:
        self.text.append(delta.text)
        self.tokens += delta.tokens
        self.logprobs += delta.logprobs
        self.finish = delta.finish
        self.stop_reason = delta.stop_reason


@dataclass(slots=True)
class Usage:
    """Token counts of a whole request, in tokens."""

    prompt: int
    completion: int = 0
    accepted: int = 0
    rejected: int = 0

    def add(self, delta: Delta) -> None:
        self.completion += len(delta.tokens)
        self.accepted += delta.accepted
        self.rejected += delta.rejected

    def to_json(self) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
            "prompt_tokens_details": None,
        }
        if spec.SPECULATION == "prediction":
            usage["completion_tokens_details"] = {
                "accepted_prediction_tokens": self.accepted,
                "rejected_prediction_tokens": self.rejected,
            }
        return usage


class Writer:
    """Writes one request's answer. `request_id` and `created` (Unix seconds) are the same in every chunk."""

    def __init__(self, generation: Generation, request_id: str, created: int, detokenizer: Detokenizer) -> None:
        self._generation = generation
        self._detokenizer = detokenizer
        self._chat = generation.endpoint == "chat"
        self._id = request_id
        self._created = created
        count = len(generation.prompts) * generation.n
        self._begun = [False] * count
        self._offsets = [0] * count  # characters of the tokens whose logprobs were shown
        self._before: list[list[int]] = [[] for _ in range(count)]  # the last of those tokens
        self._echoed = [not generation.echo] * count
        self._plain = (
            generation.params.logprobs is None and not generation.return_token_ids and not generation.continuous_usage
        )
        self.shows_tokens = not self._plain  # whether a chunk without text is worth sending
        mark = "\x00"
        template = self._frame([self._chunk_choice(0, mark, None, Choice())])
        head, tail = json.dumps(template, ensure_ascii=False).split(json.dumps(mark))
        self._head, self._tail = f"data: {head}", f"{tail}\n\n"

    # Streams.

    def opening(self, usage: Usage) -> list[bytes]:
        """Chunks before the first token: chat announces its role."""
        if not self._chat:
            return []
        chunks: list[bytes] = []
        for index in range(len(self._offsets)):
            delta = {"role": "assistant", "content": ""}
            frame = self._frame([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])
            frame["prompt_token_ids"] = self._prompt(index) if self._generation.return_token_ids else None
            frame["prompt_text"] = None
            chunks.append(self._event(frame, usage if self._generation.continuous_usage else None))
        return chunks

    def chunk(self, index: int, choice: Choice, usage: Usage) -> bytes:
        """One SSE event with what `choice` gained."""
        text = self._take_echo(index) + "".join(choice.text)
        if self._plain and index == 0 and choice.finish is None:
            return f"{self._head}{json.dumps(text)}{self._tail}".encode()
        entry = self._chunk_choice(index, text, self._logprobs(index, choice), choice)
        self._begun[index] = True
        return self._event(self._frame([entry]), usage if self._generation.continuous_usage else None)

    def closing(self, usage: Usage) -> list[bytes]:
        """Chunks after the last token."""
        if not self._generation.include_usage:
            return [DONE]
        return [self._event(self._frame([]), usage), DONE]

    # Whole answers.

    def whole(self, choices: list[Choice], usage: Usage) -> bytes:
        frame = self._frame([self._whole_choice(index, choice) for index, choice in enumerate(choices)])
        frame["object"] = "chat.completion" if self._chat else "text_completion"
        frame |= {"service_tier": None, "system_fingerprint": None, "usage": usage.to_json()}
        if self._chat:
            tokens = self._prompt(0) if self._generation.return_token_ids else None
            frame |= {"prompt_logprobs": None, "prompt_token_ids": tokens, "prompt_text": None}
        frame |= {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        return json.dumps(frame).encode()

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        text = self._take_echo(index) + "".join(choice.text)
        entry: dict[str, Any] = {"index": index}
        if self._chat:
            entry["message"] = {
                "role": "assistant",
                "content": text,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "reasoning": None,
            }
        else:
            entry["text"] = text
        entry["logprobs"] = self._logprobs(index, choice)
        entry["finish_reason"] = choice.finish
        entry["stop_reason"] = choice.stop_reason
        wanted = self._generation.return_token_ids
        entry["token_ids"] = choice.tokens if wanted else None
        if not self._chat:
            entry["prompt_logprobs"] = None
            entry["prompt_token_ids"] = self._prompt(index) if wanted else None
        return entry | {"routed_experts": None}

    # Parts.

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": self._created,
            "model": spec.SERVED_MODEL_NAME,
            "choices": choices,
        }

    def _chunk_choice(self, index: int, text: str, logprobs: dict[str, Any] | None, choice: Choice) -> dict[str, Any]:
        entry: dict[str, Any] = {"index": index}
        entry |= {"delta": {"content": text}} if self._chat else {"text": text}
        entry |= {"logprobs": logprobs, "finish_reason": choice.finish}
        wanted = self._generation.return_token_ids
        if not self._chat:
            entry["stop_reason"] = choice.stop_reason
            entry["prompt_token_ids"] = self._prompt(index) if wanted and not self._begun[index] else None
        elif choice.finish is not None:
            entry["stop_reason"] = choice.stop_reason
        return entry | {"token_ids": choice.tokens if wanted else None}

    def _event(self, frame: dict[str, Any], usage: Usage | None) -> bytes:
        if usage is not None:
            frame["usage"] = usage.to_json()
        return f"data: {json.dumps(frame)}\n\n".encode()

    def _prompt(self, index: int) -> list[int]:
        return self._generation.prompts[index // self._generation.n].tokens

    def _take_echo(self, index: int) -> str:
        if self._echoed[index]:
            return ""
        self._echoed[index] = True
        prompt = self._generation.prompts[index // self._generation.n]
        return prompt.text if prompt.text is not None else self._detokenizer.decode(prompt.tokens)

    def _logprobs(self, index: int, choice: Choice) -> dict[str, Any] | None:
        """As vLLM 0.32 spells and orders them (`_create_completion_logprobs`, `_create_chat_logprobs`)."""
        count = self._generation.params.logprobs
        if count is None:
            return None
        before = self._before[index]
        entries: list[dict[str, Any]] = []
        for entry in choice.logprobs:
            shown = _with_chosen(entry)
            spelled = [(self._detokenizer.spell(token, before), token, _finite(value)) for token, value in shown]
            entries.append(self._chat_logprob(spelled, count) if self._chat else self._completion_logprob(spelled))
            before = [*before[-3:], entry.token]
        self._before[index] = before
        if self._chat:
            return {"content": entries}
        offsets: list[int] = []
        for entry in entries:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(entry["tokens"])
        columns = {name: [entry[name] for entry in entries] for name in ("token_logprobs", "tokens", "top_logprobs")}
        return {"text_offset": offsets, **columns}

    def _completion_logprob(self, spelled: list[tuple[str, int, float]]) -> dict[str, Any]:
        top = {self._name(text, token): value for text, token, value in spelled}
        text, token, value = spelled[0]
        return {"token_logprobs": value, "tokens": self._name(text, token), "top_logprobs": top}

    def _chat_logprob(self, spelled: list[tuple[str, int, float]], count: int) -> dict[str, Any]:
        names = [self._name(text, token) for text, token, _ in spelled]
        values = [value for *_, value in spelled]
        top = [
            {"token": name, "logprob": value, "bytes": list(name.encode())}
            for name, value in zip(names[:count], values, strict=False)
        ]
        return {"token": names[0], "logprob": values[0], "bytes": list(spelled[0][0].encode()), "top_logprobs": top}

    def _name(self, text: str, token: int) -> str:
        return f"token_id:{token}" if self._generation.tokens_as_ids else text


def _with_chosen(entry: TokenLogprobs) -> list[tuple[int, float]]:
    """vLLM puts the chosen token first, whether or not it is one of the best."""
    return [(entry.token, entry.logprob), *(pair for pair in entry.top if pair[0] != entry.token)]


def _finite(logprob: float) -> float:
    """JSON has no infinity; vLLM's floor."""
    return max(logprob, -9999.0)
