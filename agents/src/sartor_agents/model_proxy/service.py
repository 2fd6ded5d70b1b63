"""The proxy over HTTP: two paths to a model, a list of models, its health, and the books for whoever operates it."""

import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping

import aiohttp
from aiohttp import web

from sartor_agents.backends.access import BUDGET_SPENT, CALL_HEADER, RECORDED_HEADER
from sartor_agents.model_proxy.calls import JSON, Calls, error_body
from sartor_agents.model_proxy.config import ProxyConfig
from sartor_agents.model_proxy.endpoints import Endpoints
from sartor_agents.model_proxy.flight import BrokenError, Flight
from sartor_agents.model_proxy.ledger import BudgetError, Ledger, Recorded
from sartor_agents.model_proxy.policy import PATHS, RequestRefusedError, admit
from sartor_agents.run.errors import StorageError
from sartor_agents.transcripts.redact import Redactor
from sartor_agents.transcripts.store import TranscriptStore
from sartor_api.search.grants import OPERATOR, Grant, GrantError


class Service:
    """One proxy. Raises `ConfigError` at once when a key is missing, rather than at the first call."""

    def __init__(self, config: ProxyConfig, grant_key: bytes, *, environment: Mapping[str, str] = os.environ) -> None:
        self._config, self._grant_key, self._environment = config, grant_key, environment
        self._recent: deque[float] = deque()
        for endpoint in config.endpoints:
            endpoint.key(environment)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=self._config.maximum_request_bytes)
        for path in PATHS:
            app.router.add_post(path, self._ask)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/sartor/books", self._books)
        app.router.add_get("/v1/sartor/spent", self._spent)
        app.router.add_get("/health", self._health)
        app.cleanup_ctx.append(self._run)
        return app

    async def _run(self, _: web.Application) -> AsyncGenerator[None]:
        config = self._config
        timeout = aiohttp.ClientTimeout(
            total=config.call, sock_connect=config.connect, connect=config.connect, sock_read=config.silence
        )
        async with aiohttp.ClientSession(
            timeout=timeout, auto_decompress=False, trust_env=False, connector=aiohttp.TCPConnector(limit=64)
        ) as session:
            self._endpoints = Endpoints(config.endpoints, session, environment=self._environment)
            redact = Redactor(self._endpoints.secrets())
            self._ledger = Ledger(config.state / "ledger.sqlite", recorded_bytes=config.recorded_bytes)
            store = TranscriptStore(
                config.state / "transcripts",
                keep=config.transcripts.keep,
                maximum_bytes=config.transcripts.maximum_bytes,
                redact=redact,
            )
            self._calls = Calls(
                config, self._ledger, self._endpoints, store, redact, now=time.time, clock=time.monotonic
            )
            yield
            await self._calls.close()
            self._ledger.close()

    # --- a call -------------------------------------------------------------------------------------------------------

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        try:
            grant = self._grant(request)
            raw = await request.read()
            admitted = admit(
                PATHS[request.path],
                raw,
                grant,
                call=request.headers.get(CALL_HEADER),
                most_output=self._config.maximum_output_tokens,
            )
            if (wait := self._too_soon()) is not None:
                return _error(429, "the profile's calls per minute are used up", "rate_limit_exceeded", wait)
            made = self._calls.make(grant, admitted)
        except GrantError as error:
            return _error(401, str(error), "invalid_grant")
        except RequestRefusedError as error:
            return _error(400, str(error), "request_refused", param=error.param)
        except BudgetError as error:
            return _error(402, str(error), BUDGET_SPENT)
        except StorageError as error:
            return _error(507, str(error), "storage")
        if isinstance(made, Recorded):
            headers = {RECORDED_HEADER: "1", "Content-Type": made.content_type}
            return web.Response(body=made.body, status=made.status, headers=headers)
        return await _relay(request, made)

    def _grant(self, request: web.Request) -> Grant:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise GrantError("send the grant as a bearer token (as the API key)")
        return Grant.read(token.strip(), self._grant_key, now=time.time())

    def _too_soon(self) -> float | None:
        """Seconds until a call may be made, or None when it may (and is counted)."""
        limit, now = self._config.requests_per_minute, time.monotonic()
        if limit is None:
            return None
        while self._recent and self._recent[0] <= now - 60.0:
            self._recent.popleft()
        if len(self._recent) >= limit:
            return self._recent[0] + 60.0 - now
        self._recent.append(now)
        return None

    # --- the rest -----------------------------------------------------------------------------------------------------

    async def _models(self, request: web.Request) -> web.Response:
        try:
            grant = self._grant(request)
        except GrantError as error:
            return _error(401, str(error), "invalid_grant")
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "sartor"} for name in grant.models]
        return web.json_response({"object": "list", "data": models})

    async def _books(self, request: web.Request) -> web.Response:
        try:
            grant = self._grant(request)
        except GrantError as error:
            return _error(401, str(error), "invalid_grant")
        if grant.role != OPERATOR:
            return _error(403, "only the operator reads the books", "forbidden")
        spent = {run: self._ledger.spent(run) for run in self._ledger.runs()}
        return web.json_response(
            {
                "endpoints": [
                    {"url": one.url, "state": one.breaker.state, "message": one.breaker.message}
                    for one in self._endpoints.all
                ],
                "runs": {run: {"tokens": one.tokens, "money": str(one.amount)} for run, one in spent.items()},
                "lost": self._ledger.lost,
            }
        )

    async def _spent(self, request: web.Request) -> web.Response:
        """What the caller's step spent, from calls that began at `since` (Unix seconds) or later."""
        try:
            grant = self._grant(request)
            since = float(request.query.get("since", "0"))
        except GrantError as error:
            return _error(401, str(error), "invalid_grant")
        except ValueError:
            return _error(400, "since has to be a number of seconds", "invalid_request", param="since")
        spent = self._ledger.spent(grant.run, step=grant.step, since=since)
        return web.json_response({"tokens": spent.tokens, "money": str(spent.amount)})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")


async def _relay(request: web.Request, flight: Flight) -> web.StreamResponse:
    """Pass a flight on as it comes; one that breaks off breaks the caller's connection off too."""
    try:
        head = await flight.head()
        headers = {"Content-Type": head.content_type}
        if head.retry_after is not None:
            headers["Retry-After"] = f"{head.retry_after:.0f}"
        response = web.StreamResponse(status=head.status, headers=headers)
        await response.prepare(request)
        async for piece in flight.pieces():
            await response.write(piece)
        await response.write_eof()
        return response
    except BrokenError:
        if request.transport is not None:
            request.transport.close()
        return web.Response(status=502)


def _error(
    status: int, message: str, code: str, retry_after: float | None = None, *, param: str | None = None
) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:.0f}"}
    return web.Response(body=error_body(message, code, param), status=status, content_type=JSON, headers=headers)
