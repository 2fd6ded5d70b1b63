"""Everything that can be wrong with a request, in vLLM's shape, so that clients need not care who answers."""

from http import HTTPStatus


class RequestError(Exception):
    """An answer other than 200. The message says what was wrong and what would be right."""

    status = HTTPStatus.BAD_REQUEST
    kind = "BadRequestError"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> dict[str, object]:
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": int(self.status),
            }
        }


class BadRequestError(RequestError):
    """400: the request cannot mean anything."""


class UnknownModelError(RequestError):
    """404: another model than the one served."""

    status = HTTPStatus.NOT_FOUND
    kind = "NotFoundError"


class NoSuchRouteError(RequestError):
    """404 or 405: nothing is served there."""

    kind = "Not Found"

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status
        self.kind = status.phrase


class TooLargeError(RequestError):
    """413: the body is larger than this server reads."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "Request Entity Too Large"


class UnsupportedError(RequestError):
    """501: right for the baseline, but this stack has none behind it."""

    status = HTTPStatus.NOT_IMPLEMENTED
    kind = "NotImplementedError"


class UnavailableError(RequestError):
    """503: the queue is full, the server is going away, or the decoder has failed."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "ServiceUnavailableError"


class FailedError(RequestError):
    """500: the request was right and the server failed."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    kind = "InternalServerError"


class BaselineError(RequestError):
    """502: the request was handed over, and the baseline did not answer."""

    status = HTTPStatus.BAD_GATEWAY
    kind = "BadGatewayError"


class OutsideEnvelope(Exception):  # noqa: N818 - it says so itself
    """Not an error to the user: the request is for the baseline. `reason` labels the hand-over metric."""

    def __init__(self, reason: str, otherwise: RequestError) -> None:
        super().__init__(reason)
        self.reason = reason
        self.otherwise = otherwise  # the answer when there is no baseline
