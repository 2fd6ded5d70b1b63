"""When an endpoint is asked, and when it is left alone: a circuit breaker, as a pure state machine over passed-in time.

Closed, it is asked. After `FAILURES` failures in a row it opens for `FIRST_PAUSE` seconds, twice as long each time, at most
`LONGEST_PAUSE`; a provider's own `Retry-After` is kept to if it is longer. After the pause one call is let through: if it
succeeds the breaker closes, if it fails it opens again. A refused key opens it at once: asking again only makes noise.
"""

from dataclasses import dataclass
from typing import Literal

FAILURES = 3
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
REFUSED_PAUSE = 60.0

State = Literal["Available", "RateLimited", "Failing", "Unauthorized", "QuotaSpent"]
"""As `AgentProfile.status.endpoints` names them."""


@dataclass
class Breaker:
    """Of one endpoint. `message` is what it said last."""

    state: State = "Available"
    message: str = ""
    failures: int = 0
    opened: int = 0
    until: float = 0.0
    probing: bool = False

    def wait(self, now: float) -> float:
        """Seconds until it may be asked; 0 when it may. A probe under way counts as a second."""
        if self.until > now:
            return self.until - now
        return 1.0 if self.probing else 0.0

    def begin(self, now: float) -> None:
        """A call is made; `wait` was 0. One that is made after a pause is the probe."""
        self.probing = self.until > 0.0

    def succeeded(self) -> None:
        self.state, self.message, self.failures, self.opened, self.until, self.probing = (
            "Available",
            "",
            0,
            0,
            0.0,
            False,
        )

    def failed(self, message: str, now: float, *, retry_after: float | None = None) -> None:
        """A call failed. With `retry_after` the provider limits the rate, and is left alone at once."""
        self.message = message
        self.failures += 1
        limited = retry_after is not None
        self.state = "RateLimited" if limited else "Failing"
        if limited or self.probing or self.failures >= FAILURES:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**self.opened)
            if retry_after is not None:
                # A limit that is over at once is no reason for a pause of our own.
                pause = retry_after if self.failures < FAILURES else max(pause, retry_after)
            self.until = now + pause
            self.opened += 1
        self.probing = False

    def refused(self, state: Literal["Unauthorized", "QuotaSpent"], message: str, now: float) -> None:
        """It takes no call of this account, until somebody does something about it."""
        self.state, self.message, self.probing = state, message, False
        self.until = now + REFUSED_PAUSE

    def released(self) -> None:
        """The call ended without saying anything about the endpoint (its caller's own fault)."""
        self.probing = False
