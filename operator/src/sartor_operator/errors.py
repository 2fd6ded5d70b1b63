"""What a request to the API server can come to, named by what has to be done next.

```
ApiError
├── TransientError      the same request may succeed later: unreachable, overloaded, 5xx; it was repeated for a while
├── ConflictError       what was decided from is not what is there: look again
│   └── ExpiredError    a watch or list has to begin anew (410)
├── NotFoundError       the object, or its namespace, is gone
├── AlreadyExistsError  the name is taken
└── RefusedError        the request is wrong or not allowed; repeating it changes nothing
```
"""


class ApiError(Exception):
    """A request failed. `status` is the HTTP code (0: no answer), `reason` the API server's word."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class TransientError(ApiError):
    """The same request may succeed later."""


class ConflictError(ApiError):
    """The object changed in between."""


class ExpiredError(ConflictError):
    """The resource version is too old to go on from."""


class NotFoundError(ApiError):
    """There is no such object."""


class AlreadyExistsError(ApiError):
    """There is such an object."""


class RefusedError(ApiError):
    """The API server will not do it."""


def error_for(status: int, reason: str, message: str, retry_after: float | None) -> ApiError:
    """The error that an answer stands for."""
    kind: type[ApiError]
    if status == 404:
        kind = NotFoundError
    elif status == 409:
        kind = AlreadyExistsError if reason == "AlreadyExists" else ConflictError
    elif status == 410:
        kind = ExpiredError
    elif status in (408, 425, 429) or status >= 500:
        kind = TransientError
    else:
        kind = RefusedError
    return kind(f"{status} {reason}: {message}", status=status, reason=reason, retry_after=retry_after)


class PortError(Exception):
    """A port of this process cannot be had. Nothing that the API server said."""
