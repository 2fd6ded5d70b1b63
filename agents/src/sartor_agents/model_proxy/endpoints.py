"""The providers, in order of preference: the next one takes over while one is out."""

import asyncio
import email.utils
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from pydantic import BaseModel, ValidationError

from sartor_agents.backends.access import NO_MONEY, PROVIDER_OUT
from sartor_agents.model_proxy.breaker import Breaker
from sartor_agents.model_proxy.config import ConfigError, EndpointConfig
from sartor_agents.model_proxy.policy import Api

SUFFIX: Mapping[Api, str] = {"responses": "/responses", "chat": "/chat/completions"}
TRANSIENT = frozenset({408, 409, 425, 429})
"""Statuses that another endpoint, or another time, may mend; so are all from 500 on."""
UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""There was no connection, so nothing was sent."""
LONGEST_ERROR = 64 << 10


@dataclass
class Endpoint:
    """One provider and how it does."""

    config: EndpointConfig
    breaker: Breaker = field(default_factory=Breaker)

    @property
    def url(self) -> str:
        return self.config.url.rstrip("/")


class _Problem(BaseModel):
    code: str | None = None


class _Refusal(BaseModel):
    error: _Problem


class OutError(Exception):
    """No endpoint can be asked now. `status`, `code` and `retry_after` (seconds) are what the caller is told."""

    def __init__(self, message: str, status: int, code: str, retry_after: float) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


class RefusedByProviderError(Exception):
    """The provider refuses the request itself; no other would take it. `body` is what it said."""

    def __init__(self, status: int, content_type: str, body: bytes) -> None:
        super().__init__(f"the provider answered {status}")
        self.status, self.content_type, self.body = status, content_type, body


class Endpoints:
    """Asks the first endpoint that can be asked, and goes on to the next one when it fails before it answers."""

    def __init__(
        self,
        configs: Sequence[EndpointConfig],
        session: aiohttp.ClientSession,
        *,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.all = tuple(Endpoint(config) for config in configs)
        self._session, self._environment, self._clock = session, environment, clock

    def secrets(self) -> tuple[str, ...]:
        """The keys, for redaction. Raises `ConfigError`."""
        return tuple(key for one in self.all if (key := one.config.key(self._environment)))

    async def open(
        self, api: Api, body: bytes, *, unanswered: Callable[[], None] = lambda: None
    ) -> tuple[Endpoint, aiohttp.ClientResponse]:
        """A response whose head says that an answer follows. Raises `OutError` and `RefusedByProviderError`.

        `unanswered` is told of each provider that took the request and was lost before it answered: it may have read it.
        Whoever calls tells the endpoint's breaker how the answer ended, and closes the response.
        """
        message = "no provider can be asked"
        for endpoint in self.all:
            if endpoint.breaker.wait(self._clock()) > 0:
                message = endpoint.breaker.message or message
                continue
            endpoint.breaker.begin(self._clock())
            try:
                response = await self._ask(endpoint, api, body)
            except ConfigError as error:
                endpoint.breaker.refused("Unauthorized", str(error), self._clock())
                message = str(error)
                continue
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                message = f"{endpoint.url}: {type(error).__name__}: {error}"[:300]
                endpoint.breaker.failed(message, self._clock())
                if not isinstance(error, UNSENT):
                    unanswered()
                continue
            except asyncio.CancelledError:
                endpoint.breaker.released()
                raise
            if response is not None:
                return endpoint, response
            message = endpoint.breaker.message
        raise self._out(message)

    async def _ask(self, endpoint: Endpoint, api: Api, body: bytes) -> aiohttp.ClientResponse | None:
        """The response, or None when the endpoint cannot answer now and its breaker was told."""
        key = endpoint.config.key(self._environment)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if endpoint.config.organization:
            headers["OpenAI-Organization"] = endpoint.config.organization
        # Redirects would carry the key to wherever a provider says.
        response = await self._session.post(
            endpoint.url + SUFFIX[api], data=body, headers=headers, allow_redirects=False
        )
        if response.status == 200:
            return response
        async with response:
            said = await response.content.read(LONGEST_ERROR)
        now = self._clock()
        told = f"{endpoint.url}: HTTP {response.status}"
        if response.status in (401, 403):
            endpoint.breaker.refused("Unauthorized", f"{told}: the key was refused", now)
            return None
        if _code(said) in NO_MONEY:
            endpoint.breaker.refused("QuotaSpent", f"{told}: the account cannot pay ({_code(said)})", now)
            return None
        if response.status in TRANSIENT or response.status >= 500 or 300 <= response.status < 400:
            waits = retry_after(response.headers) if response.status in (429, 503) else None
            if response.status == 429 and waits is None:
                waits = 1.0
            endpoint.breaker.failed(told, now, retry_after=waits)
            return None
        endpoint.breaker.released()
        raise RefusedByProviderError(response.status, response.content_type, said)

    def _out(self, message: str) -> OutError:
        now = self._clock()
        waits = [max(0.0, one.breaker.wait(now)) for one in self.all]
        states = {one.breaker.state for one in self.all}
        if states == {"Unauthorized"}:
            return OutError(message, 401, PROVIDER_OUT, 0.0)
        if states <= {"Unauthorized", "QuotaSpent"}:
            return OutError(message, 402, "insufficient_quota", 0.0)
        limited = states <= {"RateLimited", "Unauthorized", "QuotaSpent"}
        return OutError(message, 429 if limited else 503, PROVIDER_OUT, min(waits))


def _code(body: bytes) -> str:
    """The code of an error as OpenAI's services write it; empty where it has none."""
    try:
        return _Refusal.model_validate_json(body).error.code or ""
    except ValidationError:
        return ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of `Retry-After` (RFC 9110: seconds, or a date); None where there is none that makes sense."""
    text = headers.get("Retry-After")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        when = email.utils.parsedate_tz(text)
        if when is None:
            return None
        seconds = email.utils.mktime_tz(when) - time.time()
    return min(max(0.0, seconds), 86_400.0) if math.isfinite(seconds) else None
