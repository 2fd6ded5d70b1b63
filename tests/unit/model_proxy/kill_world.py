"""Lives of a proxy that are killed before their n-th write. Forked, since a start of Python for each would take minutes; the
provider's thread, which the fork leaves behind, is idle then.
"""

import asyncio
import json
import multiprocessing
import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from proxy_world import GRANT_KEY

from sartor_agents.model_proxy.config import ProxyConfig
from sartor_agents.model_proxy.service import Service
from sartor_agents.transcripts.store import TranscriptStore

FORKS = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Life:
    """`about` is what it was about to write when it was killed."""

    answer: str | None
    killed: bool
    about: str


def life(config: str, token: str, *, die_before: int) -> Life:
    """Start a proxy, make one call, end; killed before write `die_before` (0: never)."""
    here, there = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_live, args=(config, token, die_before, there))
    process.start()
    there.close()
    told: dict[str, str] = {}
    try:
        while True:
            told |= here.recv()
    except EOFError:
        pass
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL), told
    return Life(told.get("answer"), process.exitcode != 0, told.get("about", ""))


def recorded(state: Path) -> bool:
    """Whether an answer was recorded before the kill."""
    file = state / "ledger.sqlite"
    if not file.exists():
        return False
    with closing(sqlite3.connect(file)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'calls'").fetchone():
            return False
        return bool(db.execute("SELECT count(*) FROM calls WHERE state = 'recorded'").fetchone()[0])


def _live(config: str, token: str, die_before: int, tell: Connection) -> None:
    writes = 0

    def write(what: str) -> None:
        nonlocal writes
        writes += 1
        if writes == die_before:
            tell.send({"about": what})
            os.kill(os.getpid(), signal.SIGKILL)

    connect, append = sqlite3.connect, TranscriptStore.append

    def watched(*arguments: Any, **named: Any) -> sqlite3.Connection:
        db = connect(*arguments, **named)
        db.set_trace_callback(write)
        return db

    def told(store: TranscriptStore, run: str, step: str, event: Any) -> None:
        write(f"transcript: {event.kind}")
        append(store, run, step, event)

    sqlite3.connect = watched  # type: ignore[assignment]
    TranscriptStore.append = told  # type: ignore[method-assign]
    tell.send({"answer": asyncio.run(_call(ProxyConfig.model_validate_json(config), token))})


async def _call(config: ProxyConfig, token: str) -> str:
    runner = web.AppRunner(Service(config, GRANT_KEY).application(), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/responses"
    headers = {"Authorization": f"Bearer {token}", "Sartor-Call": "c1"}
    body = {"model": "scripted-1", "input": "Go.", "stream": True}
    async with aiohttp.ClientSession() as session, session.post(url, data=json.dumps(body), headers=headers) as answer:
        text = await answer.text()
    await runner.cleanup()
    return text
