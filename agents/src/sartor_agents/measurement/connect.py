"""The way to a server that is judged or measured: wait until it is up, ask which model it serves."""

import asyncio
import time
from typing import Protocol

from .client import LoadClient, UnreachableError, discover_model, healthy
from .messages import Endpoint, FailureClass, Reason
from .tokens import TokenCounter

_POLL = 0.25


class Timeouts(Protocol):
    """Seconds that one request may take, and that its stream may stand still."""

    @property
    def request_timeout(self) -> float: ...
    @property
    def stall_timeout(self) -> float: ...


class NotUpError(Exception):
    """A server does not answer; `reason` and `failure_class` say whose fault that is."""

    def __init__(self, reason: Reason, failure_class: FailureClass, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.failure_class = failure_class


async def connect(
    endpoint: Endpoint, name: str, counter: TokenCounter, timeouts: Timeouts, *, startup: float = 0.0
) -> LoadClient:
    """A client of the server called `name`, which has `startup` seconds to come up. Raises `NotUpError`."""
    try:
        await _wait(endpoint, startup)
        model = await discover_model(endpoint)
    except UnreachableError as error:
        reason, blamed = (
            (Reason.CANDIDATE_UNREACHABLE, FailureClass.CANDIDATE)
            if name == "candidate"
            else (Reason.BASELINE_UNREACHABLE, FailureClass.INFRASTRUCTURE)
        )
        raise NotUpError(reason, blamed, f"the {name} is not up: {error}") from None
    return LoadClient(
        endpoint.model_copy(update={"name": name}),
        model=model,
        counter=counter,
        request_timeout=timeouts.request_timeout,
        stall_timeout=timeouts.stall_timeout,
    )


async def _wait(endpoint: Endpoint, seconds: float) -> None:
    """Wait until /health answers 200: a server that is slow to start is not slow to answer. Raises `UnreachableError`."""
    limit = time.monotonic() + seconds
    while not await healthy(endpoint):
        if time.monotonic() >= limit:
            waited = f" for {seconds:g} s" if seconds else ""
            raise UnreachableError(f"{endpoint.url}/health has not answered 200{waited}")
        await asyncio.sleep(min(_POLL, max(0.0, limit - time.monotonic())))
