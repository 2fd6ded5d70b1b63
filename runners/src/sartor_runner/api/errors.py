"""What the API server answers when it does not do what was asked."""

from sartor_runner.errors import RunnerError


class ApiError(RunnerError):
    """A refusal by the server: HTTP status and the reason of its `Status` object (`NotFound`, `Conflict`, …)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class UnreachableError(RunnerError):
    """No answer: the server is down, or the network between. Try again later."""


class ExpiredError(RunnerError):
    """A watch cannot go on from its resource version (410): list again."""
