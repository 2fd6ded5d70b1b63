"""The operator asks a model proxy: its own grants, bounded time, and no answer instead of an error."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from sartor_api.search.grants import OPERATOR, Allowance, Grant
from sartor_api.search.records import Cost
from sartor_operator.books import ProviderState, ProxyBooks

KEY = "5a" * 32
NOW = 1_800_000_000.0
STEP = Grant(run="r", role="implementer", step="001/implement/1", models=("m",), expires=NOW + 60, of_step=Allowance())
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def ask(handler: Handler, question: Callable[[ProxyBooks, str], Awaitable[object]]) -> object:
    async def both() -> object:
        app = web.Application()
        app.router.add_get("/v1/sartor/{what}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with aiohttp.ClientSession() as session:
            address = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            found = await question(ProxyBooks(lambda: session, lambda: NOW), address)
        await runner.cleanup()
        return found

    return asyncio.run(both())


def granted(request: web.Request) -> Grant:
    scheme, _, token = request.headers["Authorization"].partition(" ")
    assert scheme == "Bearer"
    return Grant.read(token, KEY.encode(), now=NOW)


def spent(books: ProxyBooks, address: str) -> Awaitable[object]:
    return books.spent(address, STEP, KEY, 1750.5)


def providers(books: ProxyBooks, address: str) -> Awaitable[object]:
    return books.providers(address, KEY)


def test_what_a_step_spent_is_asked_with_its_own_grant() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert granted(request) == STEP and request.match_info["what"] == "spent" and request.query["since"] == "1750.5"
        return web.json_response({"tokens": 41_000, "money": "0.125"})

    assert ask(answer, spent) == Cost(tokens=41_000, money=0.125)


def test_how_providers_do_is_asked_as_the_operator() -> None:
    async def answer(request: web.Request) -> web.Response:
        grant = granted(request)
        assert grant.role == OPERATOR and grant.expires == NOW + 60
        return web.json_response({"endpoints": [{"url": "u", "state": "Failing", "message": "HTTP 500"}], "runs": {}})

    assert ask(answer, providers) == (ProviderState(state="Failing", message="HTTP 500"),)


@pytest.mark.parametrize("question", [spent, providers])
@pytest.mark.parametrize(
    ("status", "body"),
    [(200, "no json"), (200, '{"tokens": -1, "money": 0, "endpoints": [{"state": "Fine"}]}'), (401, "{}"), (302, ""),
     (500, '{"tokens": 7, "money": 0, "endpoints": []}'),
     (200, "x" * (2 << 20))],
    ids=["garbage", "untrue", "refused", "moved", "failed", "endless"],
)  # fmt: skip
def test_what_cannot_be_used_is_no_answer(status: int, body: str, question: Callable[..., Awaitable[object]]) -> None:
    async def answer(_: web.Request) -> web.Response:
        headers = {"Location": "http://127.0.0.1:9/"} if status == 302 else None
        return web.Response(status=status, text=body, headers=headers)

    assert ask(answer, question) is None


def test_nobody_there_is_no_answer() -> None:
    async def both() -> object:
        async with aiohttp.ClientSession() as session:
            return await ProxyBooks(lambda: session, lambda: NOW).providers("http://127.0.0.1:9/v1", KEY)

    assert asyncio.run(both()) is None
