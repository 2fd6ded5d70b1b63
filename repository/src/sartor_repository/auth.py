"""From a token to who is calling: TokenReview, then the pod that the token is bound to.

The audience keeps tokens for the API server out of here and ours out of there. A positive answer is kept for
`KEPT_SECONDS` at most, and never beyond the token's own expiry; refusals are asked again each time. The API server being
away is no refusal: `UnavailableError` becomes an answer that says to try again.
"""

import base64
import binascii
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sartor_repository.policy import Caller, Role

KEPT_SECONDS = 60.0
MOST_KEPT = 1024
LONGEST_TOKEN = 8192

ACCOUNTS: Mapping[str, Role] = {
    "sartor-planner": Role.PLANNER,
    "sartor-implementer": Role.IMPLEMENTER,
    "sartor-judge": Role.JUDGE,
    "sartor-evaluator": Role.EVALUATOR,
}
"""Service accounts of the roles, in the namespace of each run."""

RUN_LABEL = "sartor.dev/run"
STEP_LABEL = "sartor.dev/step"
POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"


class DeniedError(Exception):
    """The token says nobody who may come in; the message is a sentence without the token."""


class UnavailableError(Exception):
    """Who calls, or whether a run exists, cannot be found out now."""


@dataclass(frozen=True)
class Review:
    """What TokenReview says of a token."""

    authenticated: bool
    username: str = ""
    audiences: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    error: str = ""


@dataclass(frozen=True)
class Pod:
    """What counts of a pod."""

    uid: str
    labels: Mapping[str, str]


class Facts(Protocol):
    """What is asked of the API server. Every method may raise `UnavailableError`; all are safe to repeat."""

    async def review(self, token: str, audience: str) -> Review: ...

    async def pod(self, namespace: str, name: str) -> Pod | None: ...

    async def run_exists(self, namespace: str, run: str) -> bool: ...


class Authenticator(Protocol):
    """Who holds a token. Raises `DeniedError` or `UnavailableError`."""

    async def __call__(self, token: str) -> Caller: ...


class TokenAuthenticator:
    """`Authenticator` by service-account tokens. `operators` are full names that may read everything."""

    def __init__(
        self,
        facts: Facts,
        *,
        audience: str,
        operators: frozenset[str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._facts = facts
        self._audience = audience
        self._operators = operators
        self._now = now
        self._kept: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    async def __call__(self, token: str) -> Caller:
        if not token or len(token) > LONGEST_TOKEN or not token.isascii():
            raise DeniedError("the password is no service-account token")
        key, now = hashlib.sha256(token.encode()).digest(), self._now()
        kept = self._kept.get(key)
        if kept is not None and now < kept[0]:
            return kept[1]
        self._kept.pop(key, None)
        caller = await self._ask(token)
        until = min(now + KEPT_SECONDS, expiry(token))
        if now < until:
            self._kept[key] = (until, caller)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return caller

    async def _ask(self, token: str) -> Caller:
        review = await self._facts.review(token, self._audience)
        if not review.authenticated or self._audience not in review.audiences:
            hint = f" ({review.error})" if review.error else ""
            raise DeniedError(
                f"the token is not valid for audience {self._audience}{hint}; "
                f"use a service-account token that was made for it and has not expired"
            )
        if review.username in self._operators:
            return Caller(review.username, Role.OPERATOR)
        namespace, account = service_account(review.username)
        role = ACCOUNTS.get(account)
        if namespace is None or role is None:
            raise DeniedError(f"{review.username} is no role of a run; roles are {', '.join(ACCOUNTS)}")
        names, uids = review.extra.get(POD_NAME, ()), review.extra.get(POD_UID, ())
        if len(names) != 1 or len(uids) != 1:
            return Caller(review.username, role, namespace)
        pod = await self._facts.pod(namespace, names[0])
        if pod is None or pod.uid != uids[0]:
            raise DeniedError(f"pod {namespace}/{names[0]} of this token is gone")
        run, step = pod.labels.get(RUN_LABEL), pod.labels.get(STEP_LABEL)
        return Caller(review.username, role, namespace, run, step)


def service_account(username: str) -> tuple[str | None, str]:
    """Namespace and name in `system:serviceaccount:NAMESPACE:NAME`; (None, username) for anybody else."""
    parts = username.split(":")
    if len(parts) == 4 and parts[:2] == ["system", "serviceaccount"]:
        return parts[2], parts[3]
    return None, username


def expiry(token: str) -> float:
    """When a token (a JWT that was found valid) ends, Unix seconds; 0 where it does not say, so it is not kept."""
    parts = token.split(".")
    if len(parts) != 3:
        return 0.0
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return 0.0
    end = claims.get("exp") if isinstance(claims, dict) else None
    return float(end) if isinstance(end, int | float) else 0.0
