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
        self._offsets = [0] * count  # characters already shown, for `text_offset`
        self._echoed = [not generation.echo] * count
        self._plain = (
            generation.params.logprobs is None and not generation.return_token_ids and not generation.continuous_usage
        )
        self.shows_tokens = not self._plain  # whether a chunk without text is worth sending
        mark = "\x00"
        template = self._frame([self._chunk_choice(0, mark, None, None, None)])
        head, tail = json.dumps(template, ensure_ascii=False).split(json.dumps(mark))
        self._head, self._tail = f"data: {head}", f"{tail}\n\n"

    # Streams.

    def opening(self, usage: Usage) -> list[bytes]:
        """Chunks before the first token: chat announces its role."""
        if not self._chat:
            return []
        chunks: list[bytes] = []
        for index in range(len(self._offsets)):
            frame = self._frame([self._chunk_choice(index, "", None, None, None)])
            frame["choices"][0]["delta"]["role"] = "assistant"
            if self._generation.return_token_ids:
                frame["prompt_token_ids"] = self._prompt(index)
            chunks.append(self._event(frame, usage if self._generation.continuous_usage else None))
        return chunks

    def chunk(self, index: int, choice: Choice, usage: Usage) -> bytes:
        """One SSE event with what `choice` gained."""
        text = self._take_echo(index) + "".join(choice.text)
        if self._plain and index == 0 and choice.finish is None:
            return f"{self._head}{json.dumps(text)}{self._tail}".encode()
        logprobs = self._logprobs(index, choice)
        entry = self._chunk_choice(index, text, logprobs, choice.finish, choice.stop_reason)
        if self._generation.return_token_ids:
            entry["token_ids"] = choice.tokens
            if not self._chat:
                entry["prompt_token_ids"] = self._prompt(index) if not self._offsets[index] else None
        self._offsets[index] += len(text)
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
        frame |= {"prompt_logprobs": None} if self._chat else {}
        if self._chat:
            frame["prompt_token_ids"] = self._prompt(0) if self._generation.return_token_ids else None
        frame["kv_transfer_params"] = None
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
                "tool_calls": [],
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
        return entry

    # Parts.

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": self._created,
            "model": spec.SERVED_MODEL_NAME,
            "choices": choices,
        }

    def _chunk_choice(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None,
        finish: str | None,
        stop_reason: str | int | None,
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {"index": index}
        if self._chat:
            entry["delta"] = {"content": text}
        else:
            entry["text"] = text
        entry |= {"logprobs": logprobs, "finish_reason": finish, "stop_reason": stop_reason}
        return entry

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
        if self._generation.params.logprobs is None:
            return None
        if self._chat:
            return {"content": [self._chat_logprob(entry) for entry in choice.logprobs]}
        offset = self._offsets[index]
        offsets: list[int] = []
        for entry in choice.logprobs:
            offsets.append(offset)
            offset += len(self._spelling(entry.token))
        return {
            "text_offset": offsets,
            "token_logprobs": [_finite(entry.logprob) for entry in choice.logprobs],
            "tokens": [self._spelling(entry.token) for entry in choice.logprobs],
            "top_logprobs": [
                {self._spelling(token): _finite(value) for token, value in _with_chosen(entry)}
                for entry in choice.logprobs
            ],
        }

    def _chat_logprob(self, entry: TokenLogprobs) -> dict[str, Any]:
        return self._chat_token(entry.token, entry.logprob) | {
            "top_logprobs": [self._chat_token(token, value) for token, value in entry.top]
        }

    def _chat_token(self, token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._spelling(token),
            "logprob": _finite(logprob),
            "bytes": list(self._detokenizer.token_bytes(token)),
        }

    def _spelling(self, token: int) -> str:
        if self._generation.tokens_as_ids:
            return f"token_id:{token}"
        return self._detokenizer.token_bytes(token).decode("utf-8", "replace")


def _with_chosen(entry: TokenLogprobs) -> list[tuple[int, float]]:
    """vLLM's completions report the chosen token among the alternatives even when it is not one of the best."""
    rest = [pair for pair in entry.top if pair[0] != entry.token]
    return [(entry.token, entry.logprob), *rest]


def _finite(logprob: float) -> float:
    """JSON has no infinity; vLLM's floor."""
    return max(logprob, -9999.0)
