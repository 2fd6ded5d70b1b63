"""`chat`: independent short prompts, answers of fixed length, throughput at each concurrency.

Contract: `/v1/completions` (default) or `/v1/chat/completions`, streamed, greedy. Objective: output tokens/s in fixed
windows, geometric mean over the concurrencies; open-loop rates and a replayed trace are reported beside it. With
`find_peak` the highest concurrency that both sides sustain is one of the concurrencies. Lengths are drawn per request, so
that concurrent requests do not run in lock-step, and fixed by `ignore_eos`, so that no side can gain by stopping early.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sartor_agents.measurement.messages import ChatParameters
from sartor_agents.measurement.samples import GenerationRequest, Purpose
from sartor_agents.measurement.seeds import derive

from .base import Arrival, Envelope, Metric, Oracle, ScenarioError, Stage
from .text import TextSource
from .trace import TraceRequest, cut, timed

_ROOM = 64  # tokens of a prompt beyond what was drawn: marks of a template, a salt that splits otherwise


class Chat:
    """The chat scenario over a text source."""

    name = "chat"
    metric: Metric = "outputTokensPerSecond"

    def __init__(
        self,
        parameters: ChatParameters,
        text: TextSource,
        seed: str,
        template: "ChatTemplate | None",
        trace: Sequence[TraceRequest] = (),
    ) -> None:
        if parameters.api == "chat" and template is None:
            raise ScenarioError("the model has no chat template; use api: completions")
        self._parameters = parameters
        self._text = text
        self._seed = seed
        self._template = template
        closed = [
            Stage(name=f"c{c}", kind="timed", conditions=(f"c{c}",), concurrency=c) for c in parameters.concurrencies
        ]
        opened = [
            Stage(name=f"rate{r:g}", kind="timed", conditions=(f"rate{r:g}",), request_rate=r, in_objective=False)
            for r in parameters.request_rates
        ]
        self._trace = timed(trace, parameters.replay_speed) if parameters.replay_speed is not None else []
        self.stages = (*closed, *opened, *([self._replayed_stage()] if self._trace else ()))
        self.sweep = self._sweep if parameters.find_peak else None
        self.count_tolerance = 0.0 if text.canonical else 0.25
        sample = [self._replayed(request, f"envelope/{at}", "envelope") for at, request in self._trace]
        self.envelope = Envelope(
            input_tokens=max([self._largest(parameters.prompt_tokens), *(len(r.prompt_ids) for r in sample)]) + _ROOM,
            output_tokens=max([self._largest(parameters.output_tokens), *(r.output_tokens for r in sample)]),
            concurrency=max(parameters.concurrencies),
        )

    def stream(self, stage: Stage, purpose: Purpose, window: int) -> Iterator[GenerationRequest]:
        rng = derive(self._seed, "chat", stage.name, purpose, window)
        spread, number = self._parameters.spread, 0

        def draw(mean: int) -> int:
            return max(1, round(mean * (1 + spread * (2 * rng.random() - 1))))

        while True:
            ids = self._text.passage(rng, draw(self._parameters.prompt_tokens))
            tokens = draw(self._parameters.output_tokens)
            if purpose == "warmup":
                # Any part of an answer: slots that begin together go on in different phases, as under lasting load.
                tokens = max(1, round(tokens * rng.random()))
            yield self._request(f"{purpose}/{stage.name}/{window}/{number}", stage.name, self._text.decode(ids), tokens)
            number += 1

    def prompt_ids(self, body: Mapping[str, Any]) -> tuple[int, ...]:
        if self._template is not None and "messages" in body:
            return self._template.ids(body["messages"])
        return self._text.ids_of(body["prompt"])

    async def prepare(self, requests: Sequence[GenerationRequest], oracle: Oracle) -> list[GenerationRequest]:
        return list(requests)

    def _request(self, name: str, condition: str, prompt: str, tokens: int) -> GenerationRequest:
        body: dict[str, Any] = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        if self._parameters.api == "completions" or self._template is None:
            path, ids = "/v1/completions", self._text.ids_of(prompt)
            body["prompt"] = prompt
        else:
            messages = [{"role": "user", "content": prompt}]
            path, ids = "/v1/chat/completions", self._template.ids(messages)
            body["messages"] = messages
        return GenerationRequest(name, condition, path, body, ids, tokens)

    def _sweep(self, concurrency: int) -> Stage:
        name = f"peak-c{concurrency}"
        return Stage(name=name, kind="timed", conditions=(name,), concurrency=concurrency)

    def _replayed_stage(self) -> Stage:
        rate = len(self._trace) / max(self._trace[-1][0], 1.0)
        return Stage("replay", "timed", ("replay",), request_rate=rate, replay=self._replay, in_objective=False)

    def _replay(self, window: int, warm_for: float, total: float) -> list[Arrival]:
        salt = derive(self._seed, "replay", window).bytes(8).hex()
        part = cut(self._trace, window, warm_for, total)
        arrivals: list[Arrival] = []
        for number, (due, request) in enumerate(part):
            purpose: Purpose = "warmup" if due < warm_for else "scored"
            arrivals.append((due, self._replayed(request, f"{purpose}/replay/{window}/{number}", salt), purpose))
        return arrivals

    def _replayed(self, request: TraceRequest, name: str, salt: str) -> GenerationRequest:
        tokens = request.output_tokens or self._parameters.output_tokens
        body: dict[str, Any] = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        if request.prompt is not None:
            prompt = f"# {salt}\n{request.prompt}"
            body["prompt"] = prompt
            return GenerationRequest(name, "replay", "/v1/completions", body, self._text.ids_of(prompt), tokens)
        if self._template is None:
            raise ScenarioError(f"line {request.line} of the trace has messages, and the model has no chat template")
        first, *others = request.messages
        messages = [{**first, "content": f"# {salt}\n{first['content']}"}, *others]
        body["messages"] = messages
        return GenerationRequest(name, "replay", "/v1/chat/completions", body, self._template.ids(messages), tokens)

    def _largest(self, mean: int) -> int:
        return round(mean * (1 + self._parameters.spread)) + 1


class ChatTemplate:
    """A model's chat template, rendered as `transformers` does (sandboxed Jinja)."""

    def __init__(self, source: str, tokens: Mapping[str, str], text: TextSource) -> None:
        # Imported here: only this contract needs it.
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

        def refuse(message: str) -> None:
            raise ScenarioError(f"the chat template refuses these messages: {message}")

        functions: dict[str, Any] = environment.globals  # pyright: ignore[reportAssignmentType]
        functions["raise_exception"] = refuse
        self._template = environment.from_string(source)
        self._tokens = tokens
        self._text = text

    def ids(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Token ids of the prompt that the messages become, generation prompt included."""
        rendered = self._template.render(messages=messages, add_generation_prompt=True, **self._tokens)
        ids = self._text.ids_of(rendered)
        # A template that writes the first special token itself gets it once, as servers send it.
        return ids[1:] if len(ids) > 1 and ids[0] == ids[1] else ids

    @classmethod
    def load(cls, model_dir: Path, text: TextSource) -> "ChatTemplate | None":
        """The template of a model folder, or None when it has none. Raises `ScenarioError` on a damaged file."""
        try:
            config: dict[str, Any] = json.loads((model_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
            separate = model_dir / "chat_template.jinja"
            source = separate.read_text(encoding="utf-8") if separate.is_file() else config.get("chat_template")
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ScenarioError(f"{model_dir}/tokenizer_config.json cannot be read: {error}") from None
        if not isinstance(source, str):
            return None
        tokens = {
            key: value["content"] if isinstance(value, dict) else value
            for key, value in config.items()
            if key in ("bos_token", "eos_token", "unk_token", "pad_token") and value is not None
        }
        return cls(source, tokens, text)
