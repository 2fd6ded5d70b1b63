"""The API server's audit log, read: who did what, and above all who wrote.

Every request leaves one event when it has been answered (a watch one more when it starts); requests are logged with their
metadata, without bodies (https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/).
"""

import json
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
COMPLETE = "ResponseComplete"


@dataclass(frozen=True)
class AuditEvent:
    """One answered request."""

    verb: str
    user: str
    agent: str
    """User-Agent of the client."""
    group: str
    """API group; empty for the core group."""
    resource: str
    """Plural, with the subresource behind a slash: `pods`, `pods/status`; empty for paths that are no resources."""
    namespace: str
    name: str
    code: int
    """HTTP status of the answer."""
    received: datetime
    answered: datetime

    @property
    def is_write(self) -> bool:
        """Whether it asked for a change, granted or not."""
        return self.verb in WRITES


def parse(line: str) -> AuditEvent | None:
    """The event of one line; None for stages other than the answer's. Raises `ValueError` for what is no event."""
    event: dict[str, Any] = json.loads(line)
    if event["stage"] != COMPLETE:
        return None
    about: dict[str, str] = event.get("objectRef") or {}
    resource, below = about.get("resource", ""), about.get("subresource")
    return AuditEvent(
        verb=event["verb"],
        user=event["user"].get("username", ""),
        agent=event.get("userAgent", ""),
        group=about.get("apiGroup", ""),
        resource=f"{resource}/{below}" if below else resource,
        namespace=about.get("namespace", ""),
        name=about.get("name", ""),
        code=int((event.get("responseStatus") or {}).get("code", 0)),
        received=datetime.fromisoformat(event["requestReceivedTimestamp"]),
        answered=datetime.fromisoformat(event["stageTimestamp"]),
    )


def read(path: Path, *, offset: int = 0) -> Generator[AuditEvent]:
    """The events behind byte `offset` (see `size`). A last line that is still being written is left for later."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if line.endswith(b"\n") and (event := parse(line.decode())) is not None:
                yield event


def size(path: Path) -> int:
    """Bytes so far: the `offset` from which later events are read."""
    return path.stat().st_size


def writes(events: Iterable[AuditEvent], *, user: str | None = None) -> list[AuditEvent]:
    """The events that asked for a change, of one user or of all."""
    return [event for event in events if event.is_write and (user is None or event.user == user)]
