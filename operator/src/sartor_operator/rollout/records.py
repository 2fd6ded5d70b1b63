"""One line of a gateway's access log as a record of one request.

Envoy writes a line when a request has *ended*, with the names of `FIELDS` and without what does not apply. Nothing is made
up here: a value that is missing, or is not what its field can hold, is None, and a line that is no record of a request is
None as a whole. Operators and flags: Envoy's documentation, *Access logging* and *Response code details*.

All lengths of time are seconds. Envoy writes them in whole milliseconds, cut off, from a monotonic clock; only `started` is
wall-clock time, in microseconds.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, cast

from sartor_api.serving_rollout import ServingRolloutSpec

FIELDS = (
    "start_time",
    "request_id",
    "contour_config_namespace",
    "contour_config_name",
    "upstream_cluster",
    "upstream_host",
    "upstream_request_attempt_count",
    "response_code",
    "response_code_details",
    "response_flags",
    "request_duration",
    "response_duration",
    "response_tx_duration",
    "duration",
    "bytes_received",
    "bytes_sent",
    "protocol",
    "content_type",
    "handover",
)
"""What is read of a line. Others may be in it."""

LONGEST = 1 << 20
"""Characters of a line; more is no record of ours."""

_CLUSTER = re.compile(r"(?P<namespace>[a-z0-9-]+)_(?P<service>[a-z0-9-]+)_(?P<port>[0-9]{1,5})")
_NOTHING = "-"
"""How Envoy writes that there is nothing where it must write something."""


class End(StrEnum):
    """How the answer ended, on its way to the client."""

    WHOLE = "whole"
    """Its last byte was sent; whatever it said."""
    CUT_BY_SERVER = "cutByServer"
    """It began, and the server broke off."""
    CUT_BY_CLIENT = "cutByClient"
    """The client went away before the last byte, or before the first."""
    CUT_BY_GATEWAY = "cutByGateway"
    """It began, and the gateway ended it: a timeout."""
    UNKNOWN = "unknown"
    """The line does not tell."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The Service that a request was sent to."""

    namespace: str
    service: str
    port: int


class Named(Protocol):
    """What names the two arms of a rollout."""

    @property
    def namespace(self) -> str: ...
    @property
    def spec(self) -> ServingRolloutSpec: ...


def backends(of: Named) -> tuple[Backend, Backend]:
    """Baseline and candidate, as the gateway names them."""
    baseline, candidate = of.spec.baseline, of.spec.candidate
    return (
        Backend(of.namespace, baseline.service, baseline.port),
        Backend(of.namespace, candidate.service, candidate.port),
    )


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, as the gateway saw it."""

    started: float
    """Unix seconds at which its first byte came."""
    end: End
    duration: float | None = None
    """From its first byte to the last one of the answer, or to the cut."""
    first_byte: float | None = None
    """To the first byte of the server's answer, which is its status line: when that goes out is the server's choice. None
    for an answer of the gateway's own, and where none came."""
    request_read: float | None = None
    """Until the request had come in whole."""
    answer_sent: float | None = None
    """From `first_byte` to the last byte sent; None where the answer was cut."""
    request_id: str | None = None
    route: tuple[str, str] | None = None
    """(namespace, name) of the HTTPRoute."""
    backend: Backend | None = None
    """None where no Service was chosen, and where the name of the cluster is not NAMESPACE_SERVICE_PORT."""
    host: str | None = None
    """Address and port of the endpoint; None where there was none to choose."""
    attempts: int | None = None
    status: int | None = None
    """None where no answer began."""
    details: str | None = None
    flags: frozenset[str] | None = None
    """Empty: the gateway says that there is nothing to say. None: the line does not say."""
    bytes_in: int | None = None
    bytes_out: int | None = None
    """Of the bodies."""
    protocol: str | None = None
    content_type: str | None = None
    handover: str | None = None
    """What the server said of a hand-over; None also where it was silent about one."""

    @property
    def streamed(self) -> bool | None:
        """Whether the answer was a stream of events; None where its type is not known."""
        if self.content_type is None:
            return None
        return self.content_type.partition(";")[0].strip().lower() == "text/event-stream"


def parse(line: str | bytes) -> RequestRecord | None:
    """The record in a line; None for a line of something else, or a damaged one."""
    content = _object(line)
    if content is None:
        return None
    started = _number(content.get("start_time"))
    if started is None:
        return None
    status, flags = _count(content.get("response_code")), _flags(content.get("response_flags"))
    details = _text(content.get("response_code_details"))
    answer_sent = _seconds(content.get("response_tx_duration"))
    first_byte = _seconds(content.get("response_duration"))
    return RequestRecord(
        started=started,
        end=end_of(flags, details, began=first_byte is not None, sent=answer_sent is not None),
        duration=_seconds(content.get("duration")),
        first_byte=first_byte,
        request_read=_seconds(content.get("request_duration")),
        answer_sent=answer_sent,
        request_id=_text(content.get("request_id")),
        route=_route(content),
        backend=backend_of(_text(content.get("upstream_cluster"))),
        host=_text(content.get("upstream_host")),
        attempts=_count(content.get("upstream_request_attempt_count")),
        status=status or None,
        details=details,
        flags=flags,
        bytes_in=_count(content.get("bytes_received")),
        bytes_out=_count(content.get("bytes_sent")),
        protocol=_text(content.get("protocol")),
        content_type=_text(content.get("content_type")),
        handover=_text(content.get("handover")),
    )


CLIENT_FLAGS = frozenset({"DC", "DR"})
SERVER_FLAGS = frozenset({"UC", "UR", "UPE", "LR"})
TIMEOUT_FLAGS = frozenset({"UT", "SI", "DT", "UMSDR"})


def end_of(flags: frozenset[str] | None, details: str | None, *, began: bool, sent: bool) -> End:
    """How an answer ended. `began`: a first byte of the server's was seen; `sent`: the time of the last byte is known.

    Flags come first, being few and documented as stable; details are not stable and only fill in.
    """
    details = details or ""
    if flags is None:
        return End.UNKNOWN
    if flags & CLIENT_FLAGS or details.startswith("downstream_remote_disconnect"):
        return End.CUT_BY_CLIENT
    if not began:
        # An answer of the gateway's own is short and goes out at once; where it has none to give, it has no status.
        own = details and details != "via_upstream" and not details.startswith("downstream_")
        return End.WHOLE if own else End.UNKNOWN
    if flags & SERVER_FLAGS or details.startswith("upstream_reset_after_response_started"):
        return End.CUT_BY_SERVER
    if flags & TIMEOUT_FLAGS:
        return End.CUT_BY_GATEWAY
    return End.WHOLE if sent and details == "via_upstream" else End.UNKNOWN


def backend_of(cluster: str | None) -> Backend | None:
    """The Service in Contour's name of a cluster. Names of Services and namespaces hold no underscore."""
    found = _CLUSTER.fullmatch(cluster or "")
    if found is None or not 1 <= int(found["port"]) <= 65535:
        return None
    return Backend(found["namespace"], found["service"], int(found["port"]))


def _object(line: str | bytes) -> Mapping[str, Any] | None:
    if len(line) > LONGEST:
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):  # undecodable bytes are a ValueError too
        return None
    return cast(Mapping[str, Any], content) if isinstance(content, dict) else None


def _number(value: object) -> float | None:
    """A number, or text that is one; finite and not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _count(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _seconds(value: object) -> float | None:
    """From milliseconds."""
    milliseconds = _number(value)
    return None if milliseconds is None else milliseconds / 1000


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value not in ("", _NOTHING) else None


def _flags(value: object) -> frozenset[str] | None:
    if not isinstance(value, str) or not value:
        return None
    return frozenset() if value == _NOTHING else frozenset(flag for flag in value.split(",") if flag)


def _route(content: Mapping[str, Any]) -> tuple[str, str] | None:
    namespace, name = _text(content.get("contour_config_namespace")), _text(content.get("contour_config_name"))
    return (namespace, name) if namespace and name else None
