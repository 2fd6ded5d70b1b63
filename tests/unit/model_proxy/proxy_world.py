"""A model proxy in a thread, before scripted providers."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import openai
from aiohttp import web
from scripted_provider import Provider

from sartor_agents.backends.conversation.accounting import Price
from sartor_agents.model_proxy.config import EndpointConfig, ProxyConfig, TranscriptConfig
from sartor_agents.model_proxy.ledger import Ledger
from sartor_agents.model_proxy.service import Service
from sartor_agents.transcripts.events import TranscriptEvent
from sartor_agents.transcripts.store import read_transcript
from sartor_api.search.grants import Allowance, Grant

GRANT_KEY = b"k" * 32
PRICE = Price(input=Decimal(1), output=Decimal(10), cached_input=Decimal("0.1"))
STEP = "003/implement/1"
CLIENT = httpx2.Client(timeout=60.0, limits=httpx2.Limits(max_keepalive_connections=0))
"""For all calls: to make one takes as long as several of them, since it reads the certificates of all authorities."""


def grant(**changed: Any) -> Grant:
    values: dict[str, Any] = {
        "run": "editor", "role": "implementer", "step": STEP, "models": ("scripted-1",), "expires": time.time() + 600,
    }  # fmt: skip
    return Grant(**(values | changed))


def tokens(count: int) -> Allowance:
    return Allowance(tokens=count)


@dataclass
class Proxy:
    """A context manager; `ask` speaks to it as an agent does."""

    folder: Path
    providers: tuple[Provider, ...]
    changed: dict[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = ()

    def config(self) -> ProxyConfig:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "grant-key").write_bytes(GRANT_KEY)
        endpoints: list[EndpointConfig] = []
        for number, provider in enumerate(self.providers):
            file = self.folder / f"key-{number}"
            file.write_text((self.keys[number] if self.keys else provider.key) + "\n")
            endpoints.append(EndpointConfig(url=provider.url, key_file=file))
        values: dict[str, Any] = {
            "state": self.folder / "state",
            "grant_key_file": self.folder / "grant-key",
            "endpoints": tuple(endpoints),
            "prices": {"scripted-1": PRICE},
            "maximum_output_tokens": 1000,
            "silence": 30.0,  # a busy machine is no silent provider
            "transcripts": TranscriptConfig(),
        }
        return ProxyConfig(**(values | self.changed))

    def __enter__(self) -> "Proxy":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="model proxy", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)
        return self

    async def _start(self) -> None:
        self._runner = web.AppRunner(Service(self.config(), GRANT_KEY).application(), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    def stop(self) -> None:
        """As SIGTERM ends it."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    # --- as an agent --------------------------------------------------------------------------------------------------

    def client(self, given: Grant | None = None) -> openai.OpenAI:
        token = (given or grant()).signed(GRANT_KEY)
        return openai.OpenAI(base_url=self.url, api_key=token, max_retries=0, timeout=60.0, http_client=CLIENT)

    def ask(self, call: str | None = None, given: Grant | None = None, **body: Any) -> httpx2.Response:
        """One call of the Responses protocol, as bytes and headers."""
        headers = {"Authorization": f"Bearer {(given or grant()).signed(GRANT_KEY)}"}
        if call is not None:
            headers["Sartor-Call"] = call
        content = {"model": "scripted-1", "input": "Go.", "stream": True} | body
        path = "/chat/completions" if "messages" in body else "/responses"
        if "messages" in body:
            content.pop("input")
        return CLIENT.post(self.url + path, json=content, headers=headers)

    # --- what it keeps ------------------------------------------------------------------------------------------------

    def transcript(self, step: str = "003-implement-1", run: str = "editor") -> list[TranscriptEvent]:
        return list(read_transcript(self.folder / "state" / "transcripts" / run / f"{step}.jsonl"))

    def books(self) -> dict[str, Any]:
        operator = grant(role="operator").signed(GRANT_KEY)
        response = CLIENT.get(self.url + "/sartor/books", headers={"Authorization": f"Bearer {operator}"})
        return json.loads(response.text)

    def ledger(self) -> Ledger:
        """The books of a proxy that has ended."""
        return Ledger(self.folder / "state" / "ledger.sqlite")
