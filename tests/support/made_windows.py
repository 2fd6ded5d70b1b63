"""Samples and windows made up for tests that look at what is derived from them."""

from typing import Any

from sartor_agents.measurement.contention import Contention
from sartor_agents.measurement.samples import ErrorClass, Sample
from sartor_agents.measurement.windows import StageRun, WindowRun
from sartor_agents.scenarios.base import Stage

STAGE = Stage("c1", "counted", ("c1",))


def sample(**changes: object) -> Sample:
    """Due at 0, first token after 1 s, ten tokens, end after 3 s."""
    values: dict[str, object] = {
        "request_id": "r", "condition": "c", "arm": "a", "purpose": "scored", "scheduled": 0.0, "sent": 0.5,
        "first_byte": 1.0, "end": 3.0, "status": 200, "text": "x", "arrivals": ((1.0, 1), (2.0, 4), (3.0, 5)),
        "tokens": 10, "stage": "s", "window": 3,
    }  # fmt: skip
    return Sample(**{**values, **changes})  # pyright: ignore[reportArgumentType]


def window(
    *, arm: str = "candidate", share: float = 0.0, warm: bool = True, error: ErrorClass | None = None, **more: Any
) -> WindowRun:
    """A window of one request that took a second."""
    one = sample(
        condition="c1", arm=arm, scheduled=0.0, sent=0.0, end=1.0, arrivals=((1.0, 10),), error=error, stage="c1"
    )  # fmt: skip
    contention = more.pop("contention", Contention(share, None))
    return WindowRun(arm, 0, (StageRun(STAGE, (one,), 0, 1, warm),), contention, 1.0, **more)
