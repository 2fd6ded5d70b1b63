"""How long a measurement will take, before it is begun: for the time that is shown at the start, and for the budget.

The estimate follows the windows: what is sent, at the rate that is expected. It knows nothing of the machine but the
baseline's rate, which the tuning of the baseline measures first.
"""

from sartor_agents.scenarios.base import Scenario, Stage

from .policy import MeasurementPolicy
from .windows import open_window

_PREFILL_FACTOR = 8.0  # prompt tokens are read about so many times as fast as answers are written
_SETTLING = 1.3  # repeated warm-ups, disturbed pairs, switching
_FIXED = 3.0  # start of the process, tokenizer, first requests
_REFERENCE_START = 12.0  # importing torch and transformers, hashing and loading the weights
_REFERENCE_FLOPS = 4e10  # float32 on one core, with room to spare
_RELATION_TOKENS = 40 * 64.0  # requests of the metamorphic relations
_FEWEST_NUMBERS = 4  # answers whose log-probabilities are looked at, and as many families of prefixes
_BATTERY = 12.0  # bad input, idle connections, slow reader
_SCALING = 0.5  # throughput grows with concurrency to about this power


def window_seconds(scenario: Scenario, policy: MeasurementPolicy, rate: float) -> float:
    """Expected seconds of one window of an arm that writes `rate` tokens/s at concurrency 1."""
    return sum(_stage_seconds(stage, scenario, policy, rate) for stage in scenario.stages)


def single_seconds(scenario: Scenario, policy: MeasurementPolicy, rate: float) -> float:
    """Expected seconds of a measurement of one server alone."""
    return _FIXED + _SETTLING * policy.single_windows * window_seconds(scenario, policy, rate)


def paired_seconds(
    scenario: Scenario, policy: MeasurementPolicy, rate: float, *, speedup: float = 1.5, looks: str = "first"
) -> float:
    """Expected seconds of a paired measurement; `looks` is `first` (a large effect) or `last` (all replicates)."""
    pairs = policy.replicates_min if looks == "first" else policy.replicates_max
    pair = window_seconds(scenario, policy, rate) + window_seconds(scenario, policy, rate * speedup)
    return min(policy.wall_clock, _FIXED + _SETTLING * pairs * pair)


def judge_seconds(scenario: Scenario, samples: int, rate: float, *, parameters: float) -> float:
    """Expected seconds of the judge over a candidate that writes `rate` tokens/s, for a model of so many `parameters`."""
    tokens = scenario.envelope.input_tokens + scenario.envelope.output_tokens
    reference = 2 * parameters * tokens / _REFERENCE_FLOPS
    numbers = max(_FEWEST_NUMBERS, samples // 4)
    # Each with its twin, exact and rounded; three prompts to a family.
    asked, readings = samples + 2 * numbers, samples + (2 + 3) * numbers
    answers = asked * scenario.envelope.output_tokens / rate + readings * reference
    return _FIXED + _REFERENCE_START + answers + _RELATION_TOKENS / rate + _BATTERY


def _stage_seconds(stage: Stage, scenario: Scenario, policy: MeasurementPolicy, rate: float) -> float:
    per_request = (
        scenario.envelope.output_tokens + scenario.envelope.input_tokens / _PREFILL_FACTOR
    ) / rate  # at concurrency 1
    slot = per_request * stage.concurrency**_SCALING
    if stage.kind == "counted":
        rounds = len(stage.conditions) * policy.requests_per_condition / stage.concurrency
        return (0.3 * policy.warmup_requests + rounds) * slot
    if stage.is_open:
        return 1.25 * open_window(stage, policy.window_seconds) + 3 * slot
    # The slowest of the slots ends the warm-up, and a window is at least one request long.
    return policy.warmup_requests * slot + max(policy.window_seconds, slot) + slot / 2
