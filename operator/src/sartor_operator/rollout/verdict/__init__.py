"""Verdicts: whether live traffic shows the candidate to keep its guardrails, from samples taken outside both engines.

    samples ─► integrity ─► reading (one window, one source) ─► figures ─► bounds (evidence ÷ dispersion) ─► judge

Pure: no clock, no I/O, no state. What a verdict means, and how much traffic it takes: `docs/rollouts/verdict.md`.
"""

from sartor_operator.rollout.verdict.judge import Counts, Judgement, Policy, judge, verdict
from sartor_operator.rollout.verdict.metrics import DEFAULT_GUARDRAILS
from sartor_operator.rollout.verdict.samples import (
    ArmName,
    ArmSamples,
    CounterResetError,
    GapSketch,
    Histogram,
    NotANumberError,
    Observed,
    Outcome,
    Sample,
    SampleError,
    Scrape,
    Source,
    Timing,
    classify,
)

__all__ = [
    "DEFAULT_GUARDRAILS",
    "ArmName",
    "ArmSamples",
    "CounterResetError",
    "Counts",
    "GapSketch",
    "Histogram",
    "Judgement",
    "NotANumberError",
    "Observed",
    "Outcome",
    "Policy",
    "Sample",
    "SampleError",
    "Scrape",
    "Source",
    "Timing",
    "classify",
    "judge",
    "verdict",
]
