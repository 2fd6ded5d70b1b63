"""What the smoke check asks, and how it knows an answer: prompts under a public seed, and the reference."""

import hashlib
from itertools import islice
from pathlib import Path

from sartor_agents.measurement.samples import GenerationRequest
from sartor_agents.measurement.tokens import TokenCounter
from sartor_agents.run.requests import scenario_spec, tie_tolerance
from sartor_agents.scenarios import ScenarioError, open_scenario
from sartor_agents.tools.smoke import Judge
from sartor_api.search.records import RunSpec

__all__ = ["ScenarioError", "public_requests", "reference_judge"]

PUBLIC_SEED = hashlib.sha256(b"sartor: the public smoke check").hexdigest()
"""Known to everybody. Sealed seeds are drawn at random, so no prompt made from one is made from this."""
PROMPTS = 3
LARGEST_REFERENCE = 4 << 30
"""Bytes of weights up to which answers are compared with the reference here; it holds them in fp32."""


def public_requests(
    run: RunSpec, model_dir: Path, number: int = PROMPTS
) -> tuple[list[GenerationRequest], TokenCounter]:
    """The first requests of the run's scenario under the public seed. Raises `ScenarioError`, `BadRequestError`."""
    scenario, counter = open_scenario(scenario_spec(run), model_dir, PUBLIC_SEED)
    return list(islice(scenario.stream(scenario.stages[0], "accuracy", 0), number)), counter


def reference_judge(run: RunSpec, model_dir: Path, counter: TokenCounter) -> Judge | None:
    """Compares answers with the reference, as the accuracy gate does; None where it is not installed or too large here."""
    weights = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    if weights > LARGEST_REFERENCE:
        return None
    try:
        from sartor_agents.judge.reference import Reference
    except ImportError:
        return None
    from sartor_agents.judge.accuracy import check_answer, describe

    reference, tolerance = Reference(model_dir), tie_tolerance(run)

    def judge(request: GenerationRequest, text: str) -> str | None:
        verdict = check_answer(reference, request, text, counter, tolerance=tolerance)
        return None if verdict.right else f"not the model's greedy answer: {describe(verdict, counter)}"

    return judge
