"""What a planner may look up: the run's history and measurements, what failed, and what the machine allows at most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from sartor_agents.backends.conversation.tool import ToolResult
from sartor_agents.backends.protocol import PlanContext
from sartor_agents.cache import cache_folder
from sartor_agents.measurement.accelerators import MissingAcceleratorError, open_accelerators
from sartor_agents.run.notes import interval, outcome
from sartor_agents.tools.candidate import NoParameters
from sartor_agents.tools.device_rates import Rates, Unknown, rates
from sartor_agents.tools.files import Parameters
from sartor_agents.tools.roofline import BYTES, RooflineError, decoder_shape, machine, read_config, roofline
from sartor_api.search.measured import ArmSummary, ConditionResult
from sartor_api.search.state import Round

LONGEST_MESSAGE = 2000


@dataclass(frozen=True)
class History:
    """`history`."""

    context: PlanContext
    name: str = "history"
    description: str = (
        "All rounds so far: hypothesis, parent commit, commit, outcome, speed-up over the baseline with its interval."
    )
    parameters: type[NoParameters] = NoParameters

    def call(self, parameters: NoParameters, /) -> ToolResult:
        context = self.context
        lines = [f"baseline: {context.baseline.engine} {context.baseline.version} ({context.baseline.chosen})"]
        lines.append(
            f"incumbent: {f'round {context.incumbent}' if context.incumbent else 'none'}; "
            f"head: {context.head or 'the incumbent'}"
        )
        for one in (*context.rounds, *context.in_work):
            lines.append(f"round {one.number}: {outcome(one)}, {interval(one.speedup)}")
            if (plan := one.plan) is not None:
                lines.append(f"  {plan.action} from {(plan.parent or 'nothing')[:12]}: {plan.hypothesis}")
                lines.append(
                    f"  forecast {plan.forecast_speedup or '-'}, refuted below {plan.threshold_speedup or '-'}"
                )
            if (made := one.implementation) is not None:
                lines.append(f"  commit {made.commit}: {made.summary}")
        return ToolResult("\n".join(lines))


class RoundParameters(Parameters):
    round: int = Field(ge=1, description="The round's number.")


@dataclass(frozen=True)
class Measurements:
    """`measurements`."""

    context: PlanContext
    name: str = "measurements"
    description: str = (
        "What was measured in a round: each condition with both arms, their latencies, throughput and ratio."
    )
    parameters: type[RoundParameters] = RoundParameters

    def call(self, parameters: RoundParameters, /) -> ToolResult:
        found = _round(self.context, parameters.round)
        if found is None:
            return ToolResult(_no_round(self.context, parameters.round), failed=True)
        if (measured := found.measurement) is None:
            return ToolResult(f"Round {found.number} has no valid measurement: {outcome(found)}.")
        lines = [f"{measured.metric}: {interval(measured.speedup)}, {measured.handed_over} requests handed over"]
        for condition in measured.conditions:
            lines += _condition(condition)
        for arm, peak in measured.peaks.items():
            lines.append(
                f"peak of the {arm}: concurrency {peak.concurrency}, {peak.goodput:.2f} req/s, ended by {peak.limited_by}"
            )
        return ToolResult("\n".join(lines))


@dataclass(frozen=True)
class Issues:
    """`issues`."""

    context: PlanContext
    name: str = "issues"
    description: str = (
        "The issues of this run with their states, then what the gates rejected: every failed verdict of every attempt, "
        "newest round first, with its message."
    )
    parameters: type[NoParameters] = NoParameters

    def call(self, parameters: NoParameters, /) -> ToolResult:
        lines = [
            f"{one.id} ({one.kind.value}, {one.state.value}, expects {one.forecast_gain:.2f}x): {one.title}\n"
            f"  {one.detail[:LONGEST_MESSAGE]}"
            for one in self.context.issues
        ]
        for one in reversed(self.context.rounds):
            for attempt in reversed(one.attempts):
                for verdict in attempt.feedback:
                    lines.append(f"round {one.number}, attempt {attempt.number}: {verdict.gate}: {verdict.reason}")
                    lines.append(f"  {verdict.message[:LONGEST_MESSAGE]}")
            lines += [f"round {one.number}, no fault of a candidate: {v.gate}: {v.reason}" for v in one.retried]
        return ToolResult("\n".join(lines) or "Nothing was rejected so far.")


def measured_rates(uuids: Sequence[str] = ()) -> Rates | Unknown:
    """Of the device with this UUID; of all devices of this machine where none or several are named."""
    try:
        devices = open_accelerators(only=uuids[0] if len(uuids) == 1 else None)
    except MissingAcceleratorError as error:
        return Unknown(str(error))
    return rates(devices, cache_folder())


class RooflineParameters(Parameters):
    concurrency: int = Field(default=1, ge=1, le=4096, description="Sequences that a step decodes together.")
    context: int = Field(default=512, ge=1, le=1 << 20, description="Tokens of context of each.")
    weights: Literal["float32", "bfloat16", "float16", "int8", "fp8", "int4"] = "bfloat16"
    cache: Literal["float32", "bfloat16", "float16", "int8", "fp8"] = "bfloat16"
    bandwidth: float | None = Field(default=None, gt=0, description="Bytes per second, where it is known better.")


@dataclass(frozen=True)
class RooflineEstimate:
    """`roofline`."""

    context: PlanContext
    name: str = "roofline"
    description: str = (
        "What this machine allows at most for one decode step of this model: bytes read, operations, the bound in tokens "
        "per second and what limits it. Accepted drafts divide the bytes per token; so do fewer bits per weight."
    )
    parameters: type[RooflineParameters] = RooflineParameters
    rates: Callable[[Sequence[str]], Rates | Unknown] = measured_rates

    def call(self, parameters: RooflineParameters, /) -> ToolResult:
        try:
            shape = decoder_shape(read_config(self.context.model_dir))
        except RooflineError as error:
            return ToolResult(str(error), failed=True)
        bandwidth, peak, source = self._machine()
        found = roofline(
            shape,
            weight_bytes=BYTES[parameters.weights],
            cache_bytes=BYTES[parameters.cache],
            concurrency=parameters.concurrency,
            context=parameters.context,
            bandwidth=parameters.bandwidth or bandwidth,
            peak=peak,
        )
        lines = [
            f"{shape.stored / 1e6:.1f} M parameters, {shape.matrices / 1e6:.1f} M used per token",
            f"one step of {parameters.concurrency} x 1 token at context {parameters.context}: "
            f"{found.bytes_read / 1e6:.1f} MB read, {found.operations / 1e9:.2f} GFLOP",
            *source,
        ]
        if found.bound is None:
            lines.append("This machine's memory bandwidth is not known: measure it and give it as `bandwidth`.")
        else:
            lines.append(f"bound: {found.bound:.1f} tokens/s in all, limited by {found.limited_by}")
        if peak is None:
            lines.append("The peak of its arithmetic is not known, so at high concurrency the bound is too high.")
        return ToolResult("\n".join(lines))

    def _machine(self) -> tuple[float | None, float | None, list[str]]:
        """Bandwidth and peak, and where they are from: of a device that this runs on, what was measured on it."""
        hardware = self.context.hardware
        if hardware.platform != "cuda":
            return *machine(hardware), []
        if hardware.read_bandwidth is not None and hardware.matrix_rate is not None:
            names = hardware.accelerators
            found = Rates(hardware.read_bandwidth, hardware.matrix_rate, names)
        else:
            found = self.rates(hardware.accelerator_uuids)
        if isinstance(found, Rates):
            text = f"measured on {', '.join(found.devices)}: {found.bandwidth / 1e12:.2f} TB/s read, "
            return found.bandwidth, found.peak, [f"{text}{found.peak / 1e12:.0f} Tflop/s in bfloat16"]
        bandwidth, peak = machine(hardware)
        given = "the maker's data sheet" if peak is not None else "none"
        return bandwidth, peak, [f"Not measured on this device ({found.reason}); figures taken: {given}."]


def _condition(condition: ConditionResult) -> list[str]:
    lines = [f"{condition.name}: {interval(condition.ratio)}"]
    return lines + [
        f"  {name}: {_arm(arm)}" for name, arm in (("candidate", condition.candidate), ("baseline", condition.baseline))
    ]


def _arm(arm: ArmSummary) -> str:
    parts = [f"{arm.metric:.4g}", f"{arm.requests} requests, {arm.failed} failed"]
    for label, value in (("TTFT p50", arm.ttft_p50), ("p99", arm.ttft_p99), ("inter-token p50", arm.inter_token_p50),
                         ("p99", arm.inter_token_p99)):  # fmt: skip
        if value is not None:
            parts.append(f"{label} {1000 * value:.2f} ms")
    if arm.output_tokens_per_second is not None:
        parts.append(f"{arm.output_tokens_per_second:.1f} tokens/s")
    return ", ".join(parts)


def _round(context: PlanContext, number: int) -> Round | None:
    return next((one for one in context.rounds if one.number == number), None)


def _no_round(context: PlanContext, number: int) -> str:
    there = ", ".join(str(one.number) for one in context.rounds) or "none"
    return f"There is no closed round {number}; there are: {there}."
