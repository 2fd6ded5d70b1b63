"""Time limits: a server that hangs or crawls fails a check within a known time, and is not taken for a broken machine."""

from collections.abc import Awaitable

from sartor_agents.measurement.messages import Check, Reason

from .opening import Bench


async def timed(bench: Bench, name: str, check: Awaitable[Check], requests: int | None = None) -> Check:
    """The check with its seconds, or the one that says that it was not over in time.

    It may take `requests` times a request's limit, and never more than is left of the judging's wall clock.
    """
    begun = bench.client.clock()
    left = bench.left()
    seconds = left if requests is None else min(left, requests * bench.request.request_timeout)
    try:
        async with bench.limited(seconds):
            result = await check
    except TimeoutError:
        message = f"{name} was not over after {seconds:.3g} s"
        if seconds == left:  # an honest stack on a slow machine meets this, too
            message += (
                f", all that was left of the {bench.request.wall_clock:.3g} s that servers have in the whole judging; "
                "where the machine is slow, give the run more time (spec.budget.wallClock)"
            )
        result = Check(name=name, passed=False, reason=Reason.CHECK_TIMED_OUT, message=message)
    return result.model_copy(update={"seconds": bench.client.clock() - begun})
