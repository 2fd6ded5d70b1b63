"""What an error of the `openai` SDK means: try again, make the conversation shorter, leave something out, or give up."""

import email.utils
import math
import time
from collections.abc import Mapping

import openai

from sartor_agents.backends.access import BUDGET_SPENT, NO_MONEY, PROVIDER_OUT
from sartor_agents.backends.conversation.messages import ContextTooLongError
from sartor_agents.backends.protocol import BackendError
from sartor_api.search.records import FailureClass


class TransientError(Exception):
    """The provider has trouble that passes. `retry_after` are the seconds that it asks to wait for, if it says so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnsupportedError(Exception):
    """The endpoint does not know the parameter `feature` of `FEATURES`, which can be left out."""

    def __init__(self, feature: str, message: str) -> None:
        super().__init__(message)
        self.feature = feature


FEATURES: Mapping[str, tuple[str, ...]] = {
    "cache_key": ("prompt_cache_key",),
    "schema": ("response_format", "text.format", "json_schema", "text"),
    "reasoning_content": ("include", "reasoning.encrypted_content"),
    "effort": ("reasoning_effort", "reasoning.effort", "reasoning"),
    "parallel": ("parallel_tool_calls",),
    "completion_tokens": ("max_completion_tokens",),
    "usage": ("stream_options", "include_usage"),
    "store": ("store",),
}
"""What is sent where it is understood, by the parameters' names in an endpoint's complaint, the most telling first."""

_TOO_LONG_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})
_TOO_LONG = ("context length", "context window", "maximum context", "too many tokens", "prompt is too long")
_TRANSIENT_CODES = frozenset({"server_error", "rate_limit_exceeded", "vector_store_timeout", "overloaded", "timeout"})
TOO_LONG_ANSWER = "answer_too_long"
"""The code by which the model proxy says that an answer had no end."""


def translated(error: Exception) -> Exception:
    """The same as `TransientError`, `UnsupportedError`, `ContextTooLongError` or `BackendError`; others as they are."""
    match error:
        case openai.APITimeoutError():
            return TransientError("the provider did not answer in time")
        case openai.APIConnectionError():
            return TransientError("the connection to the provider was lost or could not be made")
        case openai.APIStatusError():
            return _status(error)
        case openai.APIError():
            return _said(str(error.code or ""), error.message)
        case ValueError() | AttributeError() | TypeError() | KeyError():
            # The SDK does not check what it reads, so an answer of another shape shows when it is used.
            return TransientError(f"the provider's answer is garbled ({str(error)[:200]})")
        case _:
            return error


def failed_answer(code: str, message: str) -> Exception:
    """What an error inside of an answer means, in which the provider says how it came to its end."""
    return _said(code, message)


def _said(code: str, message: str) -> Exception:
    if _too_long(code, message):
        return ContextTooLongError(message)
    if code in NO_MONEY:
        return BackendError("ProviderQuotaSpent", f"the provider says: {message}", FailureClass.PROVIDER)
    if code == TOO_LONG_ANSWER:
        return BackendError("AnswerTooLong", f"the model wrote {message}", FailureClass.CANDIDATE)
    if code in _TRANSIENT_CODES or not code:
        return TransientError(f"the provider broke off: {message[:300]}")
    return BackendError("ProviderFailed", f"the provider broke off: {message[:300]} ({code})", FailureClass.PROVIDER)


def _status(error: openai.APIStatusError) -> Exception:
    code, message = str(error.code or ""), _message(error)
    status = error.status_code
    if code == TOO_LONG_ANSWER:
        return _said(code, message)
    if code == BUDGET_SPENT:
        return BackendError("BudgetSpent", message, FailureClass.CANDIDATE)
    if code in NO_MONEY:
        return BackendError("ProviderQuotaSpent", f"the provider says: {message}", FailureClass.PROVIDER)
    answered = (
        f"no provider answers: {message}" if code == PROVIDER_OUT else f"the provider answered {status}: {message}"
    )
    if status in (408, 409, 425, 429) or status >= 500:
        return TransientError(answered, _retry_after(error.response.headers))
    if _too_long(code, message) or status == 413:
        return ContextTooLongError(message)
    if status in (400, 422) and (feature := _unsupported(error.param, message)) is not None:
        return UnsupportedError(feature, message)
    reason = {401: "Unauthorized", 403: "Unauthorized", 404: "ModelNotFound"}.get(status, "RequestRefused")
    return BackendError(reason, answered, FailureClass.INFRASTRUCTURE)


def _message(error: openai.APIStatusError) -> str:
    """What the provider says, in one line that fits on a screen; an error page of a gateway is no message."""
    text = " ".join(error.message.split()).removeprefix(f"Error code: {error.status_code} - ")
    if "<html" in text.lower():
        return "an error page of a gateway"
    return text[:300]


def _too_long(code: str, message: str) -> bool:
    return code in _TOO_LONG_CODES or any(words in message.lower() for words in _TOO_LONG)


def _unsupported(param: str | None, message: str) -> str | None:
    for feature, names in FEATURES.items():
        if param is not None and param.split("[")[0] in names:
            return feature
    if param is not None:
        return None
    text = message.lower()
    return next((feature for feature, names in FEATURES.items() if any(name in text for name in names)), None)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of `retry-after-ms` or `Retry-After` (RFC 9110: seconds, or a date)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            when = email.utils.parsedate_tz(text)
            if when is None:
                continue
            seconds = email.utils.mktime_tz(when) - time.time()
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
