"""RFC 3339 times as the API writes them, and seconds since the epoch."""

from datetime import UTC, datetime


def rfc3339(seconds: float) -> str:
    """`metav1.Time`: whole seconds, UTC."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(seconds: float) -> str:
    """`metav1.MicroTime`, as leases carry it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time, fractions of any length included. Raises `ValueError`."""
    head, dot, rest = text.strip().partition(".")
    if not dot:
        return datetime.fromisoformat(head.replace("Z", "+00:00")).timestamp()
    digits = rest.rstrip("Zz")
    zone = "+00:00"
    for sign in "+-":
        if sign in digits:
            digits, _, offset = digits.partition(sign)
            zone = sign + offset
    return datetime.fromisoformat(head + zone).timestamp() + float(f"0.{digits or '0'}")
