"""The kubelet's back-off between restarts of one container.

The first restart is immediate, then 10 s, doubling up to 5 min, counted from the moment the container ended. A container
that ran for 10 min since its back-off was last raised starts over. Nothing is remembered in the process: each attempt
records the back-off that held when it began, so a restarted runner goes on where it was.
Specification: k8s.io/client-go/util/flowcontrol `Backoff` (`IsInBackOffSince`, `Next`), kubelet `doBackOff`.
"""

from dataclasses import dataclass

INITIAL_SECONDS = 10.0
MAXIMUM_SECONDS = 300.0


@dataclass(frozen=True)
class Backoff:
    """`delay`: seconds to wait after the end of the attempt that it belongs to; `since`: when it was last raised."""

    delay: float = 0.0
    since: float = 0.0


def ready_at(backoff: Backoff, finished_at: float) -> float:
    """When a container that ended at `finished_at` may start again."""
    if backoff.delay == 0 or _expired(backoff, finished_at):
        return finished_at
    return finished_at + backoff.delay


def following(backoff: Backoff, finished_at: float, now: float) -> Backoff:
    """The back-off of the attempt that begins at `now`, after one that had `backoff` and ended at `finished_at`."""
    if backoff.delay == 0 or _expired(backoff, finished_at):
        return Backoff(INITIAL_SECONDS, now)
    return Backoff(min(backoff.delay * 2, MAXIMUM_SECONDS), now)


SHOWN_SECONDS = 3.0
"""How long a failed attempt to get an image is shown as such before it is shown as waiting."""


def pull_fresh(first: float, now: float) -> bool:
    """Whether an attempt to get an image that cannot be had has only just failed.

    Attempts come at 0, 10, 30, 70, … s after `first`, then every 5 min: `ErrImagePull` right after one,
    `ImagePullBackOff` until the next, as the kubelet shows it.
    """
    return now - _attempt(first, now)[0] < SHOWN_SECONDS


def pull_shown_until(first: float, now: float) -> float:
    """When what `pull_fresh` says changes next; always after `now`."""
    at, following = _attempt(first, now)
    return at + SHOWN_SECONDS if now - at < SHOWN_SECONDS else following


def _attempt(first: float, now: float) -> tuple[float, float]:
    """The last attempt before `now`, and the next one."""
    at, delay = first, INITIAL_SECONDS
    while at + delay <= now:
        at, delay = at + delay, min(delay * 2, MAXIMUM_SECONDS)
    return at, at + delay


def _expired(backoff: Backoff, event: float) -> bool:
    return event - backoff.since > 2 * MAXIMUM_SECONDS
