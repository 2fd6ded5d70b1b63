"""What is seen of requests from outside both engines: one record each where a source gives that, counters where it does not.

Nothing here comes from an engine. A gateway's access log gives one record per request when it *ends*; Prometheus gives
cumulative counters and histograms of the gateway; a probe reads streams itself and so sees the gaps between tokens and
whether two engines say the same. What each can and cannot tell is in `docs/rollouts/verdict.md`.

All times are Unix seconds, all lengths of time are seconds.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

GATEWAY_RESOLUTION = 0.001
"""Envoy writes times in whole milliseconds, cut off: a value v stands for anything in [v, v + 0.001)."""


class ArmName(StrEnum):
    """The two sides."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"


class Source(StrEnum):
    """Where figures come from, as `policy.analysis.sources` names it."""

    GATEWAY_ACCESS_LOG = "gatewayAccessLog"
    PROMETHEUS = "prometheus"
    PROBE = "probe"


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    FAILED = "failed"
    """An answer that is an error, or none."""
    CUT = "cut"
    """The answer began and did not come to its end."""


CLIENT_FLAGS = frozenset({"DC", "DPE", "DR"})
"""Envoy's response flags for a client that went away or spoke nonsense: the stream was cut, by nobody's fault here."""
GATEWAY_FLAGS = frozenset({"NR", "RL", "RLSE", "UAEX", "FI", "IH", "DO", "OM"})
"""Flags of a request that the gateway answered itself, on purpose: it says nothing of an arm."""
SERVER_FLAGS = frozenset(
    {"UH", "UF", "UO", "UT", "UR", "URX", "UC", "UPE", "UMSDR", "LR", "LH", "SI", "DT", "DF", "NC"}
)
"""Flags of a request that its arm did not answer, or not to the end."""
_FIRST_ERROR = 400


def classify(status: int, flags: Iterable[str], *, began: bool) -> tuple[Outcome, str] | None:
    """Outcome and reason of a record in Envoy's access log; None for a request that no arm is to be judged by.

    `flags` are the response flags (`%RESPONSE_FLAGS%` split at commas, `-` for none), `began` whether a first byte of the
    answer was seen. An error status counts whoever's fault it was: a gateway cannot tell a wrong 400 from a right one, and
    both arms get the same clients.
    """
    known = {flag for flag in flags if flag not in ("", "-")}
    if known & GATEWAY_FLAGS:
        return None
    reason = ",".join(sorted(known))
    if known & SERVER_FLAGS:
        return (Outcome.CUT if began and status < _FIRST_ERROR else Outcome.FAILED), reason
    if known & CLIENT_FLAGS:
        return Outcome.CUT, reason
    if status >= _FIRST_ERROR or status == 0:
        return Outcome.FAILED, ",".join(part for part in (str(status), reason) if part)
    return Outcome.OK, reason


@dataclass(frozen=True, slots=True)
class GapSketch:
    """The gaps between the tokens of one answer, as counts in cells that are each 2 % wide (DDSketch: Masson, Rim & Lee,
    VLDB 2019). Cell i holds gaps in (STEP**(i - 1), STEP**i] seconds."""

    cells: tuple[tuple[int, int], ...]

    STEP = 1.02  # a class attribute, not a field: it has no annotation

    @classmethod
    def of(cls, gaps: Iterable[float]) -> "GapSketch":
        """From the gaps themselves. Raises `ValueError` for one that is not a positive, finite number."""
        counts: Counter[int] = Counter()
        for gap in gaps:
            if not 0 <= gap < math.inf:
                raise ValueError(f"a gap between tokens of {gap} s: the probe's clock is wrong; discard the answer")
            counts[math.ceil(math.log(max(gap, 1e-6), cls.STEP) - 1e-9)] += 1
        return cls(tuple(sorted(counts.items())))


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of one arm, as somebody outside the engine saw it.

    `duration` runs from the request's arrival to its end; `first_byte` to the first byte of the answer, None if none came.
    `resolution` is the width of what a time may stand for (0.001: whole milliseconds, cut off). `gaps`, `output_tokens` and
    `agreed` (with the baseline's answer to the same mirrored request) are what a probe adds; None where nobody looked.
    """

    arrival: float
    arm: ArmName
    outcome: Outcome
    duration: float
    first_byte: float | None = None
    reason: str = ""
    bytes: int = 0
    handed_over: bool = False
    source: Source = Source.GATEWAY_ACCESS_LOG
    resolution: float = GATEWAY_RESOLUTION
    gaps: GapSketch | None = None
    output_tokens: int | None = None
    agreed: bool | None = None

    @property
    def failed(self) -> bool:
        """Whether the arm is to blame: no answer, an error, or a stream that it cut. A client that left is not."""
        if self.outcome is Outcome.CUT:
            flags = set(self.reason.split(","))
            return not flags & CLIENT_FLAGS or bool(flags & SERVER_FLAGS)
        return self.outcome is Outcome.FAILED

    @property
    def fault(self) -> str | None:
        """What makes the record itself impossible, or None."""
        first, last = self.first_byte, self.duration
        if (
            0 <= self.arrival < math.inf
            and 0 <= (last if first is None else first) <= last + self.resolution < math.inf
        ):
            return None
        for name, value in (("arrival", self.arrival), ("duration", self.duration), ("first byte", self.first_byte)):
            if value is not None and not 0 <= value < math.inf:
                return f"{name} is {value}"
        return f"the first byte came after {first} s, the last one after {last} s"


# --- counters --------------------------------------------------------------------------------------------------------


class Timing(StrEnum):
    """A length of time that is bounded by quantiles."""

    TTFT = "ttft"
    INTER_TOKEN = "interTokenLatency"
    END_TO_END = "endToEndLatency"
    PER_TOKEN = "timePerOutputToken"


class SampleError(ValueError):
    """Figures that cannot be what they say they are. `before`: what lies before this time is void with them."""

    def __init__(self, message: str, before: float | None = None) -> None:
        super().__init__(message)
        self.before = before


class NotANumberError(SampleError):
    """A figure is NaN, infinite or negative."""


class CounterResetError(SampleError):
    """A counter went back: what counted began again, and what it had counted is lost."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """A Prometheus histogram at one instant: cumulative counts of values up to each upper bound (`le`), seconds.

    Raises `SampleError` when the bounds do not rise to infinity, `NotANumberError` for counts that are none.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.bounds) != len(self.counts) or not self.bounds or self.bounds[-1] != math.inf:
            raise SampleError("a histogram needs one count for each bound, the last bound +Inf")
        if any(not a < b for a, b in zip(self.bounds, self.bounds[1:], strict=False)):
            raise SampleError(f"bounds of a histogram must rise: {self.bounds}")
        if any(not 0 <= count < math.inf for count in self.counts):
            raise NotANumberError(f"a histogram counts {next(c for c in self.counts if not 0 <= c < math.inf)}")
        if any(a > b for a, b in zip(self.counts, self.counts[1:], strict=False)):
            raise SampleError("cumulative counts of a histogram must not fall from bucket to bucket")


@dataclass(frozen=True, slots=True)
class Scrape:
    """Counters of one arm at one instant, since they last began at 0. `handed_over` None: nobody counts that."""

    at: float
    requests: float
    failed: float
    handed_over: float | None
    histograms: Mapping[Timing, Histogram]


@dataclass(frozen=True, slots=True)
class Increment:
    """What happened between two scrapes: counts in the window, per bucket not cumulative."""

    begin: float
    end: float
    requests: float
    failed: float
    handed_over: float | None
    buckets: Mapping[Timing, tuple[tuple[float, ...], tuple[float, ...]]]
    """Bounds, and the count of each bucket."""


def increase(earlier: Scrape, later: Scrape) -> Increment:
    """What was counted from `earlier` to `later`. Raises `SampleError`: a counter went back or is no number, bounds or
    series changed, or time did not pass. Prometheus' own `rate()` hides all of these; a verdict must not."""
    if not later.at > earlier.at:
        raise SampleError(f"two scrapes at {earlier.at} and {later.at}: time did not go on", earlier.at)

    def counted(name: str, before: float, after: float) -> float:
        for value in (before, after):
            if not 0 <= value < math.inf:
                raise NotANumberError(f"{name} is {value}", later.at)
        if after < before:
            raise CounterResetError(f"{name} fell from {before:g} to {after:g}", later.at)
        return after - before

    if set(earlier.histograms) != set(later.histograms) or (earlier.handed_over is None) != (later.handed_over is None):
        raise SampleError("a series appeared or went away between two scrapes", later.at)
    buckets: dict[Timing, tuple[tuple[float, ...], tuple[float, ...]]] = {}
    for timing, before in earlier.histograms.items():
        after = later.histograms[timing]
        if before.bounds != after.bounds:
            raise SampleError(f"the buckets of {timing} changed between two scrapes", later.at)
        grown = [counted(f"{timing} up to {le:g} s", b, a) for le, b, a in zip(
            before.bounds, before.counts, after.counts, strict=True)]  # fmt: skip
        single = tuple(b - a for a, b in zip([0.0, *grown], grown, strict=False))
        if min(single) < 0:
            raise SampleError(f"the buckets of {timing} were not read at one instant", later.at)
        buckets[timing] = (before.bounds, single)
    handed = None
    if earlier.handed_over is not None and later.handed_over is not None:
        handed = counted("handed-over requests", earlier.handed_over, later.handed_over)
    return Increment(
        begin=earlier.at,
        end=later.at,
        requests=counted("requests", earlier.requests, later.requests),
        failed=counted("failed requests", earlier.failed, later.failed),
        handed_over=handed,
        buckets=buckets,
    )


# --- both arms -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArmSamples:
    """All that is known of one arm: records of requests in any order, scrapes in the order of time."""

    requests: Sequence[Sample] = ()
    scrapes: Sequence[Scrape] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """Both arms over one step.

    `since`: from when on samples count; the step's begin, or the end of what is void. `read_until`: up to when the sources
    were read with success, which tells "no traffic" from "nobody looks". What lies outside the two is left out.
    """

    baseline: ArmSamples
    candidate: ArmSamples
    since: float
    read_until: float
