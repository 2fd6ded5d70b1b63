"""How traffic moves from the baseline to a stack: steps, verdicts, what happens when in doubt and afterwards."""

from typing import Annotated, Literal

from pydantic import Field

from sartor_api.base import ApiModel, Rule, exactly_one
from sartor_api.fields import Hostname, Label, ListSet, Name, Pattern
from sartor_api.objective import CONFIDENCE_RULE, Confidence
from sartor_api.quantities import Duration, Percentage


class ParentReference(ApiModel):
    """A Gateway that the route attaches to."""

    name: Name
    """Name of the Gateway."""
    namespace: Label | None = None
    """Its namespace; by default the object's own."""
    section_name: Name | None = None
    """One listener of the Gateway; by default all that match."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """One port of the Gateway; by default all that match."""


class PauseStep(ApiModel):
    """A stop on the way."""

    duration: Duration | None = None
    """How long; without it until somebody resumes or promotes."""


class Step(ApiModel):
    """One step of a rollout: exactly one of `mirror`, `headerOptIn`, `weight` and `pause`.

    A step passes when its time is over *and* the verdict on its samples is a pass; a failed verdict ends it at once.
    """

    mirror: Annotated[int, Field(ge=1, le=100)] | None = None
    """Per cent of the requests that the stack gets as a copy; its answers go to nobody. With the source `probe` it is the
    probe that gets the copies, and sends this share of them to both arms."""
    header_opt_in: bool | None = None
    """Route only the requests that ask for the stack by the opt-in header (`true`)."""
    weight: Annotated[int, Field(ge=1, le=100)] | None = None
    """Per cent of the requests that the stack answers."""
    pause: PauseStep | None = None
    """Stop, for a time or until a human goes on. Weights stay as the step before left them."""
    hold: Duration | None = None
    """Least time in this step; by default 10m. Not with `pause`."""

    rules = (
        exactly_one("mirror", "headerOptIn", "weight", "pause", noun="kind of step"),
        Rule(
            cel="!has(self.pause) || !has(self.hold)",
            message="a pause has its own duration; write {pause: {duration: 10m}} instead of hold",
            holds=lambda step: step.pause is None or step.hold is None,
            field=".hold",
        ),
        Rule(
            cel="!has(self.headerOptIn) || self.headerOptIn",
            message="headerOptIn: false is no step; remove it",
            holds=lambda step: step.header_opt_in is None or step.header_opt_in,
            field=".headerOptIn",
        ),
    )


class HeaderOptIn(ApiModel):
    """The header by which a client asks for one arm. It wins over weights, as long as that arm can answer."""

    name: Annotated[str, Pattern(r"[A-Za-z0-9-]+", "a header name", 64)] = "x-sartor-arm"
    """Name of the header."""
    value: Annotated[str, Pattern(r"[A-Za-z0-9_.-]+", "a header value", 64)] = "candidate"
    """Value that asks for the stack."""


class StickySessions(ApiModel):
    """Keeps a client on one arm, so that a conversation does not change engines in the middle."""

    by: Literal["header", "cookie", "contentHash"] = "header"
    """What tells clients apart: a header, a cookie, or a hash of the request's content, so that equal requests always
    reach the same arm. A Gateway that lacks the feature is named in the status, and nothing moves."""
    name: Annotated[str, Pattern(r"[A-Za-z0-9_-]+", "a header or cookie name", 64)] = "x-session-id"
    """Name of the header or cookie; not used with `contentHash`."""


class FreezePolicy(ApiModel):
    """What happens when nothing can be known (no samples, both arms bad, a clock that jumps): weights stay."""

    for_: Annotated[Duration, Field(alias="for")] = Duration("30m")
    """How long to stand still for."""
    then: Literal["hold", "rollBack"] = "rollBack"
    """What then: go on waiting, or return to the baseline."""


class ProbeSampling(ApiModel):
    """How much the probe samples. It sends copies of requests to both arms, so it costs both engines time."""

    share: Percentage = Percentage("5%")
    """Share of the requests that it sends to both arms. In a step with `mirror` the per cent of that step instead."""
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    """Requests that it has under way at most; what comes meanwhile is left out, and counted."""


class Analysis(ApiModel):
    """When the samples of a step are a pass or a fail. They come from the gateway and from probes, not from engines."""

    minimum_samples: Annotated[int, Field(ge=1, le=10_000_000)] = 300
    """Requests that each arm must have answered in a step before it can pass."""
    confidence: Confidence = Percentage("99%")
    """Confidence of the sequential test; it stays valid under continuous looking."""
    inconclusive_after: Duration = Duration("2h")
    """Time in one step without a decision after which it counts as undecided and the rollout pauses."""
    sources: Annotated[
        tuple[Literal["gatewayAccessLog", "prometheus", "probe"], ...],
        Field(min_length=1, max_length=3),
        ListSet(),
    ] = ("gatewayAccessLog", "probe")
    """Where samples come from. Prometheus gives histograms only, so verdicts take longer with it alone."""
    prometheus_address: Annotated[str, Field(max_length=2048)] | None = None
    """Address of Prometheus, with the source `prometheus`."""
    probe: ProbeSampling = ProbeSampling()
    """What the probe samples, with the source `probe`."""

    rules = (
        CONFIDENCE_RULE,
        Rule(
            cel="!('prometheus' in self.sources) || has(self.prometheusAddress)",
            message="the source prometheus needs prometheusAddress; set it, or remove the source",
            holds=lambda a: "prometheus" not in a.sources or a.prometheus_address is not None,
            field=".prometheusAddress",
        ),
    )


class BaselineAfterPromotion(ApiModel):
    """What stays of the baseline once the stack has all traffic: it is the way back, and takes the hand-overs."""

    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Replicas that stay ready."""
    scale_down_after: Duration = Duration("1h")
    """How long after the promotion it is scaled down."""


Steps = Annotated[tuple[Step, ...], Field(min_length=1, max_length=32)]
DEFAULT_STEPS: tuple[Step, ...] = (
    Step(mirror=5, hold=Duration("10m")),
    Step(weight=5, hold=Duration("10m")),
    Step(weight=25, hold=Duration("20m")),
    Step(weight=50, hold=Duration("30m")),
)


class RolloutPolicy(ApiModel):
    """How traffic moves."""

    parent_refs: Annotated[tuple[ParentReference, ...], Field(min_length=1, max_length=8)] | None = None
    """Gateways. Without any, nothing is rolled out: the winner is deployed and waits."""
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=16), ListSet()] = ()
    """Host names of the route; by default all of the Gateway's."""
    path_prefix: Annotated[str, Pattern(r"/[^\s?#]*", "a path that begins with '/'", 1024)] = "/"
    """Paths of the route."""
    steps: Steps = DEFAULT_STEPS
    """The way from the first request to half of the traffic; after the last one the stack is promoted."""
    header_opt_in: HeaderOptIn = HeaderOptIn()
    """The header by which a client asks for one arm."""
    sticky_sessions: StickySessions | None = None
    """Keep clients on one arm; without it each request is routed on its own."""
    analysis: Analysis = Analysis()
    """When a step passes or fails."""
    freeze: FreezePolicy = FreezePolicy()
    """What happens in doubt."""
    drain_timeout: Duration = Duration("10m")
    """Time that requests in flight have to end when an arm is taken out."""
    progress_deadline: Duration = Duration("15m")
    """Time that an arm has to get ready, and a route to be accepted, before the rollout is called stuck."""
    promotion: Literal["automatic", "manual"] = "automatic"
    """Whether the last step is followed by the promotion or by waiting for a human."""
    baseline_after_promotion: BaselineAfterPromotion = BaselineAfterPromotion()
    """What stays of the baseline."""

    rules = (
        Rule(
            cel="self.steps.filter(s, has(s.weight)).map(s, s.weight).isSorted()",
            message="the weights of the steps must not fall; put them in ascending order",
            holds=lambda policy: _ascending([s.weight for s in policy.steps if s.weight is not None]),
            field=".steps",
        ),
        Rule(
            cel="size(self.hostnames) == 0 || has(self.parentRefs)",
            message="hostnames need a Gateway; set parentRefs, or remove hostnames",
            holds=lambda policy: not policy.hostnames or policy.parent_refs is not None,
            field=".parentRefs",
        ),
    )


def _ascending(weights: list[int]) -> bool:
    return weights == sorted(weights)
