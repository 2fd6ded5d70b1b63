"""A small OpenAI-compatible server over `transformers`: `python -m sartor_agents.baselines.transformers_server`.

The baseline of last resort. It decodes one request at a time with the library's own cache; it is correct, not fast, and a
speed-up over it is always reported as one over `transformers`. On a CUDA device it does what the library offers for speed:
a static cache, and decode steps that are compiled and recorded as graphs.
"""

import argparse
import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from aiohttp import web
from jinja2 import TemplateError
from tokenizers.decoders import DecodeStream
from transformers import AutoModelForCausalLM, AutoTokenizer, StaticCache

from sartor_agents.baselines.transformers_request import BadRequestError, Call, parse

MAX_BODY_BYTES = 16 << 20
WARM_UP_TOKENS = 4
"""The first comes from the prompt; the others compile a step, record it and replay it."""
_CPU = torch.device("cpu")


@dataclass
class Generator:
    """The model, and greedy or sampled decoding of one sequence at a time."""

    model: Any
    tokenizer: Any
    eos: frozenset[int]
    device: torch.device = _CPU
    static: Any = None
    """The one cache that every request uses in turn, or None."""
    step: Any = None
    """A forward pass of one token over the static cache."""
    static_tokens: int = 0

    @classmethod
    def load(cls, model_dir: Path, dtype: str, device: str = "cpu", static_tokens: int = 0) -> "Generator":
        """`static_tokens`: positions of a static cache; 0 for the library's growing one."""
        model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype))
        model = model.to(device)
        eos = model.generation_config.eos_token_id
        found = eos if isinstance(eos, list) else [] if eos is None else [eos]
        eos = frozenset(cast(list[int], found))
        made = cls(model.eval(), AutoTokenizer.from_pretrained(model_dir), eos, torch.device(device))
        if made.device.type == "cuda":
            torch.backends.cuda.enable_cudnn_sdp(False)  # as a stack: it makes a plan for every length of a prompt
        if static_tokens:
            made.static_tokens = static_tokens
            made.static = StaticCache(config=model.config, max_cache_len=static_tokens)
            compiled = made.device.type == "cuda"
            made.step = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True) if compiled else model
        return made

    def prompt_ids(self, call: Call) -> list[int]:
        if call.messages is not None:
            try:
                return self.tokenizer.apply_chat_template(call.messages, add_generation_prompt=True, return_dict=False)
            except (TemplateError, TypeError) as error:
                raise BadRequestError(f"the chat template does not take these messages: {error}") from error
        if isinstance(call.prompt, str):
            return self.tokenizer(call.prompt)["input_ids"]
        assert call.prompt is not None
        vocab = int(self.model.config.vocab_size)
        if wrong := [token for token in call.prompt if not 0 <= token < vocab]:
            raise BadRequestError(f"token id {wrong[0]} is out of the vocabulary (0 to {vocab - 1})")
        return list(call.prompt)

    def check_length(self, prompt: int, max_tokens: int) -> None:
        """Raises `BadRequestError` for what the model has no positions for."""
        if prompt == 0:
            raise BadRequestError("the prompt is empty")
        longest = int(self.model.config.max_position_embeddings)
        if self.static is not None:
            longest = min(longest, self.static_tokens)
        if prompt + max_tokens > longest:
            raise BadRequestError(
                f"This model's maximum context length is {longest} tokens; the request has {prompt} in the prompt "
                f"and asks for {max_tokens} more. Please reduce the length of either."
            )

    def tokens(self, prompt: list[int], call: Call) -> Iterator[int]:
        """Generated token ids, up to `max_tokens`, the end-of-text token not included."""
        seed = call.seed if call.seed is not None else torch.seed() % (1 << 63)
        random = torch.Generator(self.device).manual_seed(seed)
        ids, cache = torch.tensor([prompt], device=self.device), self.static
        if cache is not None:
            cache.reset()
        for number in range(call.max_tokens):
            run = self.step if number and self.step is not None else self.model
            with torch.no_grad():  # left before each token is handed out: a mode belongs to a thread
                out = run(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                logits = out.logits[0, -1].float()
                if call.temperature > 0:
                    token = int(torch.multinomial(torch.softmax(logits / call.temperature, -1), 1, generator=random))
                else:
                    token = int(logits.argmax())
            cache = out.past_key_values
            if token in self.eos and not call.ignore_eos:
                return
            yield token
            ids = torch.tensor([[token]], device=self.device)


class Server:
    def __init__(self, generator: Generator, name: str) -> None:
        self._generator = generator
        self._name = name
        self._turn = asyncio.Lock()
        # One thread for all steps: recorded graphs belong to the thread that recorded them.
        self._thread = ThreadPoolExecutor(1, "generator")
        self._finished: Counter[str] = Counter()
        self._prompt_tokens = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.on_startup.append(self._warm_up)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        return app

    async def _warm_up(self, _: web.Application) -> None:
        """Where steps are compiled, which takes longer than a client waits for a token: before anybody is served."""
        if self._generator.step is None:
            return
        call = Call({"prompt": [0], "max_tokens": WARM_UP_TOKENS, "temperature": 0, "ignore_eos": True}, chat=False)
        tokens = self._generator.tokens([0], call)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, lambda: sum(1 for _ in tokens))

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        lines = ["# TYPE vllm:request_success_total counter"]
        for reason in ("length", "abort"):
            labels = f'model_name="{self._name}",finished_reason="{reason}"'
            lines.append(f"vllm:request_success_total{{{labels}}} {self._finished[reason]}")
        lines.append("# TYPE vllm:prompt_tokens_total counter")
        lines.append(f'vllm:prompt_tokens_total{{model_name="{self._name}"}} {self._prompt_tokens}')
        return web.Response(text="\n".join(lines) + "\n")

    async def _models(self, _: web.Request) -> web.Response:
        entry = {"id": self._name, "object": "model", "created": int(time.time()), "owned_by": "transformers"}
        return web.json_response({"object": "list", "data": [entry]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            call = parse(await request.read(), chat=request.path.startswith("/v1/chat"), model=self._name)
            prompt = self._generator.prompt_ids(call)
            self._generator.check_length(len(prompt), call.max_tokens)
        except BadRequestError as error:
            body = {"error": {"message": str(error), "type": "BadRequestError", "param": None, "code": error.status}}
            return web.json_response(body, status=error.status)
        reason = "abort"  # counted too, which vLLM does not always do: work that somebody hung up on is work
        try:
            async with self._turn:
                self._prompt_tokens += len(prompt)
                if call.stream:
                    response = await self._stream(request, call, prompt)
                    reason = "length"
                    return response
                pieces = [piece async for piece in self._pieces(call, prompt)]
                reason = "length"
        finally:
            self._finished[reason] += 1
        text, count = "".join(piece for piece, _ in pieces), pieces[-1][1] if pieces else 0
        body = self._envelope(call, text, self._reason(call, count), whole=True)
        return web.json_response({**body, "usage": _usage(len(prompt), count)})

    async def _stream(self, request: web.Request, call: Call, prompt: list[int]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count = 0
        async for piece, so_far in self._pieces(call, prompt):
            count = so_far
            await response.write(_event(self._envelope(call, piece, None, whole=False)))
        await response.write(_event(self._envelope(call, "", self._reason(call, count), whole=False)))
        if call.include_usage:
            last = {**self._envelope(call, "", None, whole=False), "choices": [], "usage": _usage(len(prompt), count)}
            await response.write(_event(last))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _pieces(self, call: Call, prompt: list[int]) -> AsyncIterator[tuple[str, int]]:
        """Text as it becomes complete characters, with the count of tokens so far. A cancelled request stops here."""
        decode = DecodeStream(skip_special_tokens=True)
        tokens = self._generator.tokens(prompt, call)
        backend = self._generator.tokenizer.backend_tokenizer
        loop, count = asyncio.get_running_loop(), 0
        while (token := await loop.run_in_executor(self._thread, next, tokens, None)) is not None:
            count += 1
            yield decode.step(backend, token) or "", count

    def _reason(self, call: Call, count: int) -> str:
        return "length" if count >= call.max_tokens else "stop"

    def _envelope(self, call: Call, text: str, reason: str | None, *, whole: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if call.messages is None:
            kind, choice["text"] = "text_completion", text
        elif whole:
            kind, choice["message"] = "chat.completion", {"role": "assistant", "content": text}
        else:
            kind, choice["delta"] = "chat.completion.chunk", {"content": text}
        return {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self._name,
            "choices": [choice],
        }


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--static-tokens", type=int, default=0, help="positions of a static cache; 0: a growing one")
    options = parser.parse_args()
    generator = Generator.load(options.model, options.dtype, options.device, options.static_tokens)
    server = Server(generator, options.name)
    web.run_app(server.app(), host=options.host, port=options.port, print=None)


if __name__ == "__main__":
    main()
