"""What the server counts, under the names that vLLM's dashboards already read.

Counting is a plain addition on the engine thread; `prometheus_client` is imported and used only when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import spec

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from .sequence import Delta, FinishReason, Sequence

# vLLM's bucket bounds: seconds, and tokens.
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_ITL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_REQUEST = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_STEP = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Histogram:
    """Cumulative buckets, filled by one thread and read by another (a read may be one observation behind)."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class EngineStats:
    """Written by the engine thread (requests and hand-overs by the event loop); every field has one writer."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0
        self.cache_usage = 0.0
        self.preemptions = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.success: Counter[str] = Counter()
        self.ttft = Histogram(_TTFT)
        self.itl = Histogram(_ITL)
        self.tpot = Histogram(_ITL)
        self.e2e = Histogram(_REQUEST)
        self.queue = Histogram(_REQUEST)
        self.prefill = Histogram(_REQUEST)
        self.decode = Histogram(_REQUEST)
        self.request_prompt_tokens = Histogram(_TOKENS)
        self.request_generation_tokens = Histogram(_TOKENS)
        self.step_tokens = Histogram(_STEP)
        self.step_seconds = 0.0
        self.drafts = 0
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.accepted_at: list[int] = [0] * spec.DRAFT_WIDTH
        self.requests: Counter[str] = Counter()  # by endpoint
        self.handovers: Counter[str] = Counter()  # by reason

    def step(self, rows: int, seconds: float) -> None:
        self.step_tokens.observe(rows)
        self.step_seconds += seconds

    def prefix(self, tokens: int, found: int) -> None:
        """A sequence of `tokens` was admitted, `found` of which were in the cache."""
        self.prefix_queries += tokens
        self.prefix_hits += found

    def produced(self, sequence: Sequence, delta: Delta, now: float) -> None:
        count = len(delta.tokens)
        self.generation_tokens += count
        if sequence.first_token is None:
            sequence.first_token = now
            self.ttft.observe(now - sequence.arrived)
            self.prompt_tokens += len(sequence.prompt)
            count -= 1
            if count:
                self.itl.observe(0.0, count)
        else:
            self.itl.observe((now - sequence.last_token) / count, count)
        sequence.last_token = now
        drafted = delta.accepted + delta.rejected
        if drafted:
            self.drafts += 1
            self.draft_tokens += drafted
            self.accepted_tokens += delta.accepted
            for position in range(delta.accepted):
                self.accepted_at[position] += 1

    def finished(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        self.success[reason] += 1
        if reason == "abort":
            return
        self.e2e.observe(now - sequence.arrived)
        self.request_prompt_tokens.observe(len(sequence.prompt))
        self.request_generation_tokens.observe(sequence.generated)
        if sequence.admitted is not None and sequence.first_token is not None:
            self.queue.observe(sequence.admitted - sequence.arrived)
            self.prefill.observe(sequence.first_token - sequence.admitted)
            self.decode.observe(now - sequence.first_token)
            if sequence.generated > 1:
                self.tpot.observe((now - sequence.first_token) / (sequence.generated - 1))


def render(stats: EngineStats, model: str) -> tuple[bytes, str]:
    """The body and content type of `/metrics`."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.registry import Collector, CollectorRegistry

    class Snapshot(Collector):
        def collect(self) -> Iterator[Metric]:
            return _collect(stats, model)

    registry = CollectorRegistry()
    registry.register(Snapshot())
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _collect(stats: EngineStats, model: str) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    names, values = ("model_name", "engine"), (model, "0")
    for name, text, value in (
        ("vllm:num_requests_running", "Requests in the running batch.", stats.running),
        ("vllm:num_requests_waiting", "Requests waiting to be admitted.", stats.waiting),
        ("vllm:kv_cache_usage_perc", "KV-cache usage; 1 means 100 percent.", stats.cache_usage),
    ):
        gauge = GaugeMetricFamily(name, text, labels=names)
        gauge.add_metric(values, value)
        yield gauge
    counters = [
        ("vllm:num_preemptions", "Preemptions by the engine.", stats.preemptions),
        ("vllm:prompt_tokens", "Prompt tokens computed.", stats.prompt_tokens),
        ("vllm:generation_tokens", "Tokens generated.", stats.generation_tokens),
        ("sartor:step_seconds", "Time spent planning and computing steps.", stats.step_seconds),
    ]
    if spec.SPECULATION != "none":
        counters += [
            ("vllm:spec_decode_num_drafts", "Steps of a sequence with a draft.", stats.drafts),
            ("vllm:spec_decode_num_draft_tokens", "Draft tokens.", stats.draft_tokens),
            ("vllm:spec_decode_num_accepted_tokens", "Accepted draft tokens.", stats.accepted_tokens),
        ]
    if spec.PREFIX_REUSE:
        counters += [
            ("vllm:prefix_cache_queries", "Tokens of admitted sequences.", stats.prefix_queries),
            ("vllm:prefix_cache_hits", "Tokens of admitted sequences found in the cache.", stats.prefix_hits),
        ]
    for name, text, value in counters:
        counter = CounterMetricFamily(name, text, labels=names)
        counter.add_metric(values, value)
        yield counter
    if spec.SPECULATION != "none":
        per_position = CounterMetricFamily(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Accepted draft tokens by position in the draft.",
            labels=(*names, "position"),
        )
        for position, value in enumerate(stats.accepted_at):
            per_position.add_metric((*values, str(position)), value)
        yield per_position
    success = CounterMetricFamily(
        "vllm:request_success", "Sequences that ended, by reason.", labels=(*names, "finished_reason")
    )
    for reason in ("stop", "length", "abort", "error"):
        success.add_metric((*values, reason), stats.success[reason])
    yield success
    for name, text, histogram in (
        ("vllm:time_to_first_token_seconds", "Time to first token.", stats.ttft),
        ("vllm:inter_token_latency_seconds", "Inter-token latency.", stats.itl),
        ("vllm:request_time_per_output_token_seconds", "Mean time per output token of a request.", stats.tpot),
        ("vllm:e2e_request_latency_seconds", "End-to-end latency.", stats.e2e),
        ("vllm:request_queue_time_seconds", "Time spent waiting.", stats.queue),
        ("vllm:request_prefill_time_seconds", "Time from admission to the first token.", stats.prefill),
        ("vllm:request_decode_time_seconds", "Time from the first to the last token.", stats.decode),
        ("vllm:request_prompt_tokens", "Prompt tokens of a request.", stats.request_prompt_tokens),
        ("vllm:request_generation_tokens", "Tokens generated by a request.", stats.request_generation_tokens),
        ("vllm:iteration_tokens_total", "Rows of an engine step.", stats.step_tokens),
    ):
        yield _histogram(HistogramMetricFamily(name, text, labels=names), values, histogram)
    requests = CounterMetricFamily(
        "sartor:requests", "Generation requests served by this stack itself.", labels=("endpoint",)
    )
    for endpoint, value in stats.requests.items():
        requests.add_metric((endpoint,), value)
    yield requests
    handovers = CounterMetricFamily(
        "sartor:handover_requests", "Requests handed over to the baseline.", labels=("reason",)
    )
    for reason, value in stats.handovers.items():
        handovers.add_metric((reason,), value)
    yield handovers


def _histogram(family: Metric, labels: tuple[str, ...], histogram: Histogram) -> Metric:
    buckets: list[tuple[str, float]] = []
    cumulative = 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        cumulative += count
        buckets.append((str(float(bound)), cumulative))
    buckets.append(("+Inf", cumulative + histogram.counts[-1]))
    family.add_metric(labels, buckets, histogram.total)  # type: ignore[attr-defined]
    return family
