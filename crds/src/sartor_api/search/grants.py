"""Grants: who a caller is and what it may spend, as a signed token that an agent sends as its API key.

Whoever starts a step (the operator, `sartor run`) signs its grant; the model proxy checks the signature, and keeps nothing.
An agent can neither make one nor widen its own, and one that leaks is worth no more than what is left of its step's budget
until it expires.
"""

import base64
import binascii
import hashlib
import hmac
import json
from decimal import Decimal
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sartor_api.search.base import Cost
from sartor_api.search.records import Budget

PREFIX = "sartor-grant-"
SHORTEST_KEY = 32
"""Bytes of the key that grants are signed with."""
OPERATOR = "operator"
"""The role that may read a proxy's books."""


class GrantError(Exception):
    """The token is no valid grant; the message says why, without anything of the token."""


class Allowance(BaseModel):
    """What may be spent; None is no limit of that kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int | None = Field(default=None, ge=0)
    money: Decimal | None = Field(default=None, ge=0)


class Grant(BaseModel):
    """`step` names the step in every life of it (`003/implement/1`). `models` are those that may be asked.

    Limits are checked together: what this step, this role in this run, and the run spend in all. `expires` is Unix time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(min_length=1, max_length=200)
    role: str = Field(min_length=1, max_length=64)
    step: str = Field(min_length=1, max_length=200)
    models: tuple[str, ...] = Field(min_length=1)
    expires: float
    of_step: Allowance = Allowance()
    of_role: Allowance = Allowance()
    of_run: Allowance = Allowance()

    def signed(self, key: bytes) -> str:
        """The token. Raises `ValueError` for a key that is too short to protect anything."""
        if len(key) < SHORTEST_KEY:
            raise ValueError(f"a key for grants has at least {SHORTEST_KEY} bytes")
        body = self.model_dump_json().encode()
        return f"{PREFIX}{_text(body)}.{_text(hmac.digest(key, body, hashlib.sha256))}"

    @classmethod
    def read(cls, token: str, key: bytes, *, now: float) -> Self:
        """The grant in a token. Raises `GrantError`."""
        body_text, dot, signature = token.removeprefix(PREFIX).partition(".")
        if not token.startswith(PREFIX) or not dot or len(token) > 16_384:
            raise GrantError("the API key is no grant of this proxy")
        try:
            body, given = _bytes(body_text), _bytes(signature)
        except (binascii.Error, ValueError):
            raise GrantError("the grant is damaged") from None
        if not hmac.compare_digest(given, hmac.digest(key, body, hashlib.sha256)):
            raise GrantError("the grant was not signed by this proxy's key")
        try:
            grant = cls.model_validate(json.loads(body))
        except (ValidationError, ValueError):
            raise GrantError("the grant is of another version") from None
        if now >= grant.expires:
            raise GrantError("the grant has expired; its step's time is over")
        return grant


LONGER_SECONDS = 300.0
"""What a grant is good for beyond its step's deadline."""


def step_grant(
    step_id: str, *, run: str, role: str, model: str, reserve: Cost, budget: Budget, expires: float
) -> Grant:
    """The grant of one execution of a step (`003/implement/1/2`: the second one of the first attempt).

    A step may spend what was reserved for it, once for each time that it was begun: what a lost execution had reserved is
    charged to the run anyway. The run may spend its budget, whatever its steps say that they used.
    """
    step, _, execution = step_id.rpartition("/")
    times = int(execution)
    return Grant(
        run=run,
        role=role,
        step=step,
        models=(model,),
        expires=expires,
        of_step=Allowance(
            tokens=reserve.tokens * times if reserve.tokens else None,
            money=Decimal(str(reserve.money)) * times if reserve.money else None,
        ),
        of_run=Allowance(tokens=budget.tokens, money=None if budget.money is None else Decimal(str(budget.money))),
    )


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
