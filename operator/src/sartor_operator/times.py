"""Kubernetes' times and ours: RFC 3339 text outside, Unix seconds inside."""

from datetime import UTC, datetime


def parse_time(text: str | None) -> float | None:
    """Unix seconds of an RFC 3339 time, None for none."""
    return None if not text else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def at(seconds: float) -> datetime:
    """The time in whole seconds, as metav1.Time holds it."""
    return datetime.fromtimestamp(int(seconds), UTC)


def format_time(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_micro(seconds: float) -> str:
    """RFC 3339 in UTC with microseconds, as metav1.MicroTime wants it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
