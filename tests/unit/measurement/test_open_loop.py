"""Open loop: Poisson arrivals and the owner's trace, timed from the moment at which a request was due."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_servers import Behaviour, serving

from sartor_agents.measurement.evaluation import evaluate
from sartor_agents.measurement.messages import (
    ChatParameters,
    ChatScenario,
    Endpoint,
    EvaluateRequest,
    EvaluateResponse,
    Reason,
)
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.sample_file import read_samples
from sartor_agents.measurement.samples import Sample
from sartor_agents.measurement.seeds import derive
from sartor_agents.measurement.slo import ServiceLevel
from sartor_agents.measurement.windows import open_window, poisson
from sartor_agents.scenarios.base import Stage

SEED = "7c" * 32


def measure(
    model_dir: Path, folder: Path, behaviour: Behaviour, parameters: dict[str, Any], **policy: Any
) -> tuple[EvaluateResponse, list[Sample]]:
    """One server alone; the samples of its open stage."""

    async def run() -> EvaluateResponse:
        async with serving(model_dir, behaviour) as server:
            values: dict[str, Any] = {
                "single_windows": 2, "window_seconds": 1.0, "warmup_requests": 1, "maximum_contention": 1.0,
                "maximum_generator_share": 100.0, "maximum_generator_lag": 1e6, **policy,
            }  # fmt: skip
            base = {"concurrencies": (1,), "prompt_tokens": 8, "output_tokens": 8, "spread": 0.0}
            request = EvaluateRequest(
                mode="single", candidate=Endpoint(url=server.url), model_dir=model_dir, seed=SEED, output_dir=folder,
                scenario=ChatScenario(parameters=ChatParameters(**{**base, **parameters})),
                policy=MeasurementPolicy(**values), trace=folder / "trace.jsonl" if "replay_speed" in parameters else None,
            )  # fmt: skip
            return await evaluate(request, verify=lambda *_: None)

    response = asyncio.run(run())
    if response.reason is not Reason.MEASURED:
        return response, []
    samples = [s for s in read_samples(folder / "samples.parquet") if s.stage != "c1"]
    return response, samples


def test_arrivals_are_poisson() -> None:
    times = np.asarray(list(itertools.islice(poisson(np.random.default_rng(1), 50.0), 20_000)))
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(0.02, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # exponential
    assert np.corrcoef(gaps[:-1], gaps[1:])[0, 1] == pytest.approx(0.0, abs=0.03)


def test_both_arms_get_the_same_schedule() -> None:
    one, other = (poisson(derive(SEED, "arrivals", "rate5", 3), 5.0) for _ in range(2))
    assert list(itertools.islice(one, 50)) == list(itertools.islice(other, 50))


def test_a_server_that_keeps_up_is_sent_the_schedule(chain_model: Path, tmp_path: Path) -> None:
    response, samples = measure(chain_model, tmp_path, Behaviour(), {"request_rates": (40.0,)})
    assert response.reason is Reason.MEASURED, response.message
    scored = [s for s in samples if s.purpose == "scored"]
    assert 45 < len(scored) < 120  # 2 windows of a second at 40 a second
    arm = response.arms["rate40"]
    assert arm.goodput is not None and 25 < arm.goodput < 60
    assert all(s.latency == s.end - s.scheduled for s in scored)
    # Warm-up requests are other ones.
    assert {s.request_id for s in scored}.isdisjoint(s.request_id for s in samples if s.purpose == "warmup")


def test_waiting_at_the_door_is_part_of_the_latency(chain_model: Path, tmp_path: Path) -> None:
    """One at a time, 0.1 s each, 40 due a second: what the client would call 0.1 s is seconds to the users."""
    level = ServiceLevel(end_to_end=0.3)
    response, samples = measure(
        chain_model, tmp_path, Behaviour(first_seconds=0.1, batch=1), {"request_rates": (40.0,)},
        single_windows=1, service_level=level,
    )  # fmt: skip
    assert response.reason is Reason.MEASURED, response.message
    scored = sorted((s for s in samples if s.purpose == "scored"), key=lambda s: s.scheduled)
    assert scored[-1].latency > 1.0
    assert scored[-1].latency > 2 * scored[0].latency
    arm = response.arms["rate40"]
    assert arm.attainment is not None and arm.attainment < 0.1
    assert arm.goodput is not None and arm.goodput < 5  # ten a second are answered, none of them in time


def test_a_rate_too_low_for_the_window_is_refused(chain_model: Path, tmp_path: Path) -> None:
    response, _ = measure(chain_model, tmp_path, Behaviour(), {"request_rates": (0.1,)})
    assert response.reason is Reason.BAD_REQUEST
    assert "rate0.1" in response.message and "200 s" in response.message


def test_a_window_is_long_enough_for_its_rate() -> None:
    def stage(rate: float) -> Stage:
        return Stage("rate", "timed", ("rate",), request_rate=rate)

    assert open_window(stage(2.0), 1.5) == 10.0
    assert open_window(stage(200.0), 1.5) == 1.5


def test_a_trace_is_replayed_at_its_own_times(chain_model: Path, tmp_path: Path) -> None:
    at = sorted(float(t) for t in np.random.default_rng(3).uniform(0.0, 2.0, 60))
    rows = [{"at": 100 + t, "body": {"prompt": f"the quick brown fox {t} " * 4, "max_tokens": 6}} for t in at]
    (tmp_path / "trace.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    response, samples = measure(chain_model, tmp_path, Behaviour(), {"replay_speed": 1.0})
    assert response.reason is Reason.MEASURED, response.message
    for window, expected in ((0, [t for t in at if t - at[0] < 1.25]), (1, [t for t in at if t - at[0] >= 1.25])):
        mine = sorted((s for s in samples if s.window == window), key=lambda s: s.scheduled)
        gaps = np.diff([s.scheduled for s in mine])
        assert gaps == pytest.approx(np.diff(expected), abs=1e-6)
        assert {s.purpose for s in mine} == {"warmup", "scored"}
    assert response.arms["replay"].requests == sum(s.purpose == "scored" for s in samples)
