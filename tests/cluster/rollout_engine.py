"""An engine that answers at a known pace, for rollouts at a real Gateway.

    python rollout_engine.py ADDRESS PORT NAME [JOURNAL]

`POST /v1/completions`, streamed or not; the text follows from the prompt, so two engines agree unless told otherwise. A line
is printed when it serves. Beside that, for the test alone:

- `POST /behave`, JSON of `Behaviour`: what it does from the next request on.
- `GET /requests`: JSON, of each request its id, when it came (Unix seconds), whether it was failed on purpose; one that came
  twice is there twice. It knows of this life only; a line of JSON for each in the file JOURNAL outlives it, however it ends.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import sys
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web

PREFILL_SECONDS, GAP_SECONDS = 0.02, 0.01


@dataclass(frozen=True)
class Behaviour:
    """`fail`: share of requests that are answered 500. `hang`: of those to which it begins an answer and never goes on.
    `slow`: by how much all times are longer. `differ`: share of prompts to which it answers something else than the others
    would."""

    fail: float = 0.0
    hang: float = 0.0
    slow: float = 1.0
    differ: float = 0.0


def share_of(text: str) -> float:
    """A number in [0, 1) that a text always has."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def words(prompt: str, count: int, *, other: bool) -> list[str]:
    """The tokens of an answer."""
    begin = "other" if other else "same"
    return [f" {begin}{int(1000 * share_of(f'{number} {prompt}'))}" for number in range(count)]


class Engine:
    def __init__(self, seed: str, journal: str | None = None) -> None:
        self._random = random.Random(seed)
        self._journal = None if journal is None else os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._behaviour = Behaviour()
        self._requests: list[tuple[str, float, bool]] = []

    async def complete(self, request: web.Request) -> web.StreamResponse:
        came, behaviour = time.time(), self._behaviour
        failed, hangs = self._random.random() < behaviour.fail, self._random.random() < behaviour.hang
        self._note((request.headers.get("X-Request-Id", ""), came, failed or hangs))
        asked: dict[str, Any] = await request.json()
        if failed:
            return web.json_response({"error": {"message": "planted"}}, status=500)
        if hangs:
            return await _hang(request)
        prompt = str(asked["prompt"])
        tokens = words(prompt, int(asked["max_tokens"]), other=share_of(f"differ {prompt}") < behaviour.differ)
        due = asyncio.get_running_loop().time() + PREFILL_SECONDS * behaviour.slow
        gap = GAP_SECONDS * behaviour.slow
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(tokens)}
        if not asked.get("stream"):
            await _until(due + gap * len(tokens))
            choice = {"index": 0, "text": "".join(tokens), "finish_reason": "length"}
            return web.json_response({"choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await _until(due)
        with contextlib.suppress(ConnectionResetError):  # the client has gone
            await response.prepare(request)
            for number, token in enumerate(tokens):
                await _until(due + gap * number)
                end = "length" if number + 1 == len(tokens) else None
                await response.write(_event({"choices": [{"index": 0, "text": token, "finish_reason": end}]}))
            if (asked.get("stream_options") or {}).get("include_usage"):
                await response.write(_event({"choices": [], "usage": usage}))
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        return response

    def _note(self, request: tuple[str, float, bool]) -> None:
        self._requests.append(request)
        if self._journal is not None:
            os.write(self._journal, json.dumps(request).encode() + b"\n")

    async def behave(self, request: web.Request) -> web.Response:
        self._behaviour = Behaviour(**await request.json())
        return web.json_response({"at": time.time()})

    async def requests(self, _: web.Request) -> web.Response:
        return web.json_response(self._requests)


async def _hang(request: web.Request) -> web.StreamResponse:
    """The head of an answer, and nothing more until the client goes."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await asyncio.Event().wait()
    return response


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))


async def main(address: str, port: int, name: str, journal: str | None = None) -> None:
    engine = Engine(name, journal)
    app = web.Application()
    app.router.add_post("/v1/completions", engine.complete)
    app.router.add_post("/behave", engine.behave)
    app.router.add_get("/requests", engine.requests)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
