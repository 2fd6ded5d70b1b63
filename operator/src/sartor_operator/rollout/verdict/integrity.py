"""When samples say nothing of the candidate, and why: the rollout then freezes, it does not guess.

Each check is one function: what is wrong, in a sentence that says what to do, or None. They run in the order of how much
they spoil; the first that finds something is the answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sartor_api.conditions import Reason
from sartor_operator.rollout.verdict.reading import Gathered, Window
from sartor_operator.rollout.verdict.samples import ArmName, Observed, SampleError, Source

CLOCK_TOLERANCE = 5.0
"""Seconds by which clocks of well-kept machines may differ."""
STALE_AFTER = 60.0
"""Seconds without a successful read of the sources: two missed scrapes of the usual 15 or 30 s."""
PATIENCE = 120.0
"""Seconds from the begin of a step in which missing samples may still come."""
RECENT = 120.0
"""Seconds over which it is seen whether the baseline works."""
FEW = 20
"""Requests from which on a share of failures says something."""
BROKEN_SHARE = 0.5
"""A baseline that fails this share of its requests is no yardstick."""
MANY = 1000
"""Requests of one arm beside which none of the other is no chance, even at a weight of 1 %."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why nothing can be known. `void_before`: samples before this time (Unix s) are void; begin again from there."""

    reason: Reason
    message: str
    void_before: float | None = None


def clock(observed: Observed, now: float) -> Doubt | None:
    """Time that went back: the step, a read or a sample lies in the future."""
    if now < observed.since - CLOCK_TOLERANCE:
        return _jumped("the step began", observed.since - now, now)
    if observed.read_until > now + CLOCK_TOLERANCE:
        return _jumped("the sources were last read", observed.read_until - now, now)
    arms = (observed.baseline, observed.candidate)
    latest = max((s.arrival for arm in arms for s in arm.requests), default=now)
    scraped = max((s.at for arm in arms for s in arm.scrapes), default=now)
    if max(latest, scraped) > now + CLOCK_TOLERANCE:
        return _jumped("the newest sample was taken", max(latest, scraped) - now, now)
    return None


def _jumped(what: str, seconds: float, now: float) -> Doubt:
    message = f"{what} {seconds:.0f} s in the future: a clock jumped back; set the clocks by NTP, the step begins again"
    return Doubt(Reason.CLOCK_JUMPED, message, now)


def records(observed: Observed) -> Doubt | None:
    """Records that are impossible: NaN, negative, out of order."""
    for name, arm in ((ArmName.BASELINE, observed.baseline), (ArmName.CANDIDATE, observed.candidate)):
        for sample in arm.requests:
            if fault := sample.fault:
                message = f"a record of the {name} from {sample.source} is impossible ({fault}); look at what writes it"
                return Doubt(Reason.NO_SAMPLES, message, None)
            if sample.arm is not name:
                return Doubt(Reason.NO_SAMPLES, f"a record of the {sample.arm} was given as one of the {name}", None)
    return None


def stale(observed: Observed, now: float) -> Doubt | None:
    """Sources that have not been read for a while."""
    silent = now - observed.read_until
    if silent <= STALE_AFTER:
        return None
    message = f"no source could be read for {silent:.0f} s; look at the gateway's access log, Prometheus and the probe"
    return Doubt(Reason.NO_SAMPLES, message)


def gather(observed: Observed, sources: Sequence[str]) -> Gathered | Doubt:
    """The samples sorted, or what is wrong with the counters among them."""
    try:
        return Gathered(observed, [Source(name) for name in sources])
    except SampleError as error:
        message = f"counters cannot be trusted: {error}; the step begins again after this"
        return Doubt(Reason.NO_SAMPLES, message, error.before)


def arms(gathered: Gathered, *, patient: bool) -> Doubt | None:
    """An arm that gives no samples although it should, and a baseline that is no yardstick."""
    return next((doubt for check in _ARM_CHECKS if (doubt := check(gathered, patient)) is not None), None)


def _nobody(gathered: Gathered, patient: bool) -> Doubt | None:
    if patient or any(gathered.requests(arm)[0] for arm in ArmName):
        return None
    message = f"no requests of either arm in this step ({', '.join(gathered.sources)}); is there any traffic?"
    return Doubt(Reason.NO_SAMPLES, message)


def _candidate_silent(gathered: Gathered, patient: bool) -> Doubt | None:
    theirs = gathered.requests(ArmName.BASELINE)[0]
    if patient or theirs < MANY or gathered.requests(ArmName.CANDIDATE)[0]:
        return None
    message = f"the baseline has {theirs:,.0f} requests and the candidate none that ended; do its streams hang?"
    return Doubt(Reason.NO_SAMPLES, message)


def _baseline_silent(gathered: Gathered, patient: bool) -> Doubt | None:
    recent = _recent(gathered)
    mine, theirs = gathered.requests(ArmName.CANDIDATE, recent)[0], gathered.requests(ArmName.BASELINE, recent)[0]
    if patient or mine < FEW or theirs:
        return None
    if mine < MANY and not gathered.requests(ArmName.BASELINE)[0]:
        return None  # it may simply have little weight; the minimum of samples keeps the step open
    message = (
        f"the candidate had {mine:,.0f} requests in the last {recent.seconds:.0f} s and the baseline none; is it dead?"
    )
    return Doubt(Reason.BASELINE_NOT_READY, message)


def _baseline_broken(gathered: Gathered, patient: bool) -> Doubt | None:
    recent = _recent(gathered)
    total, failed, _ = gathered.requests(ArmName.BASELINE, recent)
    if total < FEW or failed < BROKEN_SHARE * total:
        return None
    share, seconds = failed / total * 100, recent.seconds
    message = f"{share:.0f} % of the baseline's {total:,.0f} requests failed in the last {seconds:.0f} s"
    mine, lost, _ = gathered.requests(ArmName.CANDIDATE, recent)
    if mine >= FEW and lost >= BROKEN_SHARE * mine:
        return Doubt(Reason.BOTH_ARMS_BAD, f"{message}, and {lost / mine * 100:.0f} % of the candidate's {mine:,.0f}")
    return Doubt(Reason.BASELINE_NOT_READY, f"{message}: it is no yardstick")


def _recent(gathered: Gathered) -> Window:
    whole = gathered.whole
    return Window(max(whole.begin, whole.end - RECENT), whole.end)


_ARM_CHECKS: tuple[Callable[[Gathered, bool], Doubt | None], ...] = (
    _nobody,
    _candidate_silent,
    _baseline_broken,
    _baseline_silent,
)
