"""What the model proxies have in their books, asked over HTTP with grants that the operator signs for itself.

    GET {proxy}/v1/sartor/books             how the providers do
    GET {proxy}/v1/sartor/spent?since=…     what one step spent from then on

A proxy that does not answer is no error: whoever asks has an answer without it, the more careful one.
"""

import logging
from collections.abc import Callable
from typing import Literal, Protocol

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sartor_api.search.grants import OPERATOR, Grant
from sartor_api.search.records import Cost

LOG = logging.getLogger(__name__)
LONGEST_BYTES = 1 << 20
GRANT_SECONDS = 60.0
_TIMEOUT = aiohttp.ClientTimeout(total=5.0, connect=2.0)


class ProviderState(BaseModel):
    """How one provider answered last."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: Literal["Available", "RateLimited", "Failing", "Unauthorized", "QuotaSpent"]
    message: str = ""


class _Books(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    endpoints: tuple[ProviderState, ...] = Field(max_length=8)


class _Spent(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    tokens: int = Field(ge=0)
    money: float = Field(ge=0)


class Books(Protocol):
    """Asks the proxies. `address` is a proxy's own (`http://HOST:PORT/v1`), `key` that of its grants."""

    async def providers(self, address: str, key: str) -> tuple[ProviderState, ...] | None:
        """How they do, in the profile's order; None where nobody says."""
        ...

    async def spent(self, address: str, grant: Grant, key: str, since: float) -> Cost | None:
        """What the grant's step spent since then (Unix seconds); None where nobody says."""
        ...


class NoBooks:
    """Nobody says anything."""

    async def providers(self, address: str, key: str) -> tuple[ProviderState, ...] | None:
        return None

    async def spent(self, address: str, grant: Grant, key: str, since: float) -> Cost | None:
        return None


class ProxyBooks:
    """The proxies' own answers. `session` belongs to whoever made it; `now` is Unix time."""

    def __init__(self, session: Callable[[], aiohttp.ClientSession], now: Callable[[], float]) -> None:
        self._session, self._now = session, now

    async def providers(self, address: str, key: str) -> tuple[ProviderState, ...] | None:
        grant = Grant(
            run=OPERATOR, role=OPERATOR, step=OPERATOR, models=(OPERATOR,), expires=self._now() + GRANT_SECONDS
        )
        found = await self._get(f"{address}/sartor/books", grant, key)
        try:
            return None if found is None else _Books.model_validate_json(found).endpoints
        except ValidationError:
            LOG.warning("%s/sartor/books: the answer cannot be read", address)
            return None

    async def spent(self, address: str, grant: Grant, key: str, since: float) -> Cost | None:
        found = await self._get(f"{address}/sartor/spent?since={since}", grant, key)
        try:
            said = None if found is None else _Spent.model_validate_json(found)
        except ValidationError:
            LOG.warning("%s/sartor/spent: the answer cannot be read", address)
            return None
        return None if said is None else Cost(tokens=said.tokens, money=said.money)

    async def _get(self, url: str, grant: Grant, key: str) -> bytes | None:
        headers = {"User-Agent": "sartor-operator", "Authorization": f"Bearer {grant.signed(key.encode())}"}
        try:
            async with self._session().get(url, headers=headers, timeout=_TIMEOUT, allow_redirects=False) as answer:
                body = await answer.content.read(LONGEST_BYTES)
                if answer.status == 200:
                    return body
                LOG.warning("%s: %s", url, answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            LOG.warning("%s: %s", url, error or type(error).__name__)
        return None
