"""From a manifest to the numbers that the search decides by."""

import pytest

from sartor_api.load import load_text
from sartor_api.search.directive import Mode
from sartor_api.search.records import StepKind
from sartor_api.search.snapshot import NotRunnableError, snapshot
from sartor_api.serving_synthesis import ServingSynthesis

SHORTEST = """
apiVersion: sartor.dev/v1alpha1
kind: ServingSynthesis
metadata: {name: editor}
spec:
  model: {source: {synthetic: {}}}
  workload: {scenario: %s}
  hardware: {targetRef: {name: local}}
"""


def synthesis(scenario: str = "code-edit", more: str = "") -> ServingSynthesis:
    (resource,) = load_text(SHORTEST % scenario + more)
    assert isinstance(resource, ServingSynthesis)
    return resource


def test_the_shortest_manifest_has_every_number() -> None:
    run = snapshot(synthesis(), now=5.0, model_folder="/model")
    assert run.created == 5.0 and run.scenario == "code-edit" and run.model["folder"] == "/model"
    assert run.parameters["match_rates"] == [0, 50, 90, 95] and run.parameters["concurrencies"] == [1]
    assert run.policy.minimum_speedup == 1.2 and run.policy.minimum_effect == 0.02
    assert run.budget.rounds == 20 and run.budget.wall_clock_seconds == 8 * 3600
    assert run.agents == {"backend": "playbook"} and run.skills
    assert run.synthesis["kind"] == "ServingSynthesis"


def test_what_is_written_arrives_and_options_win() -> None:
    more = """
  budget: {rounds: 4, wallClock: 30m, tokens: 2M, acceleratorHours: "1.5", money: {amount: "3.50", currency: EUR}}
  objective: {minimumSpeedup: "1.1", targetSpeedup: "4"}
  measurement: {preset: quick, window: 3s, maximumReplicates: 5, confidence: "90%", minimumEffect: "5%"}
  correctness: {samples: 30}
  agents: {skills: false}
"""
    run = snapshot(synthesis("chat", more), now=0, model_folder="m", rounds=2, skills=True)
    assert (run.budget.rounds, run.budget.wall_clock_seconds, run.budget.tokens) == (2, 1800, 2_000_000)
    assert (run.budget.accelerator_seconds, run.budget.money, run.budget.currency) == (5400, 3.5, "EUR")
    assert (run.policy.minimum_speedup, run.policy.target_speedup, run.policy.minimum_effect) == (1.1, 4.0, 0.05)
    assert run.measurement == {
        "preset": "quick",
        "overrides": {"confidence": 0.9, "window_seconds": 3.0, "replicates_max": 5},
    }
    assert run.correctness["samples"] == 30 and run.skills is True


def test_how_the_search_is_led_arrives_and_options_win() -> None:
    more = "  search: {policy: issue-queue, plateauRounds: 3, thrashRounds: 2, onPlateau: [return], seed: 4}\n"
    run = snapshot(synthesis("chat", more), now=0, model_folder="m")
    assert (run.policy.kind, run.policy.plateau_rounds, run.policy.thrash_rounds) == ("issue-queue", 3, 2)
    assert run.policy.escalation == (Mode.RETURN,) and run.seed == 4
    run = snapshot(synthesis("chat", more), now=0, model_folder="m", policy="evolutionary", seed=9)
    assert (run.policy.kind, run.seed) == ("evolutionary", 9)
    plain = snapshot(synthesis(), now=0, model_folder="m").policy
    assert (plain.kind, plain.escalation, plain.thrash_rounds) == ("trajectory", (Mode.EXPLORE, Mode.RETURN), 6)


def test_every_step_has_a_deadline_beyond_its_expectation() -> None:
    run = snapshot(synthesis(), now=0, model_folder="m", expected={StepKind.EVALUATE: 10_000})
    assert all(policy.deadline_seconds > policy.expected_seconds for policy in run.policy.steps.values())


@pytest.mark.parametrize(
    ("scenario", "more", "message"),
    [
        ("json-schema", "", "json-schema cannot be run yet; there are: chat, code-edit"),
    ],
)
def test_what_cannot_be_run_is_said(scenario: str, more: str, message: str) -> None:
    with pytest.raises(NotRunnableError, match=message):
        snapshot(synthesis(scenario, more), now=0, model_folder="m")
