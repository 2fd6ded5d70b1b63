"""Runs whose agents ask a model, in a cluster: an `AgentProfile` is all that a team writes.

See `agents_support` for what is real here. What the agents' node cannot show is said in docs/agents/walls.md.
"""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import prison
import pytest
from agents_support import AGENTS_NODE, Agents, agents
from operator_support import get, items, wait_for

from sartor_operator.kinds import Manifest

__all__ = ["agents"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MOST_GROWTH = 24 << 20
"""Bytes by which the operator's memory may grow over a run with transcripts of several megabytes."""


@pytest.fixture(scope="module")
def honest(agents: Agents) -> Iterator[str]:
    yield agents.begin("honest")


def pods_of(agents: Agents, namespace: str, role: str) -> list[Manifest]:
    return items(agents.cluster, "pods", namespace, "-l", f"sartor.dev/role={role}")


def test_a_profile_is_all_it_takes_to_get_a_stack_delivered(agents: Agents, honest: str) -> None:
    status = agents.ended(honest)
    assert status["phase"] == "Serving", (status, agents.records(honest))
    kinds = {record["step"]: record["result"]["kind"] for record in agents.records(honest)}
    assert kinds["plan"] == "plan" and kinds["implement"] == "implementation" and kinds["confirm"] == "measurement"
    profile = get(agents.cluster, "agentprofiles.sartor.dev", "models", "-n", honest)
    assert profile["status"]["conditions"][0]["status"] == "True"


def test_what_the_run_booked_is_what_the_provider_was_asked_for(agents: Agents, honest: str) -> None:
    spent = agents.ended(honest)["spent"]["tokens"]
    booked = {r["step"]: r["cost"]["tokens"] for r in agents.records(honest) if r["cost"].get("tokens")}
    assert set(booked) == {"plan", "implement"} and sum(booked.values()) == spent
    told = agents.told("honest")
    assert told["tokens"] == spent and not told["refused"]
    assert told["keys"] == [f"Bearer {agents.key}"], "the proxy sends the key, and it alone"


def test_agents_work_on_their_own_nodes_and_nobody_else_does(agents: Agents, honest: str) -> None:
    agents.ended(honest)
    for role in ("planner", "implementer"):
        assert {pod["spec"]["nodeName"] for pod in pods_of(agents, honest, role)} == {AGENTS_NODE}
    for role in ("judge", "evaluator", "baseline"):
        assert AGENTS_NODE not in {pod["spec"].get("nodeName") for pod in pods_of(agents, honest, role)}


def test_the_key_is_nowhere_but_in_its_secret(agents: Agents, honest: str) -> None:
    agents.ended(honest)
    kinds = "pods,configmaps,secrets,jobs,deployments,events,synthesisruns.sartor.dev,servingcandidates.sartor.dev"
    found = json.loads(agents.cluster.kubectl("get", kinds, "-n", honest, "-o", "json", check=True).stdout)["items"]
    encoded = base64.b64encode(agents.key.encode()).decode()
    holding = {one["metadata"]["name"] for one in found if agents.key in json.dumps(one) or encoded in json.dumps(one)}
    assert holding == {"llm"}
    for log in (agents.operator.log, *agents.folder.glob("runner/*.log")):
        assert agents.key not in log.read_text(errors="replace"), log


def test_grants_go_with_their_steps(agents: Agents, honest: str) -> None:
    agents.ended(honest)

    def left() -> bool:
        secrets = items(agents.cluster, "secrets", honest)
        return not [one for one in secrets if "grant" in (one.get("data") or {})]

    wait_for("grants are gone", left, 20)


@pytest.fixture(scope="module")
def prisoner(agents: Agents) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """The run whose model tries to get out, the world that it was in, and what each attempt came to beside it, on the node.

    In one run with others: the pods of different teams lie on one node here.
    """
    with prison.planted(agents) as world:
        beside = {name: prison.outside(agents.cluster, name, world) for name in prison.REACHED_OUTSIDE}
        given = {"world": world, "attempts": prison.ATTEMPTS}
        (agents.folder / "prisoner-world.json").write_text(json.dumps(given))
        limits = {"stepTimeout": "300s", "tokensPerStep": "400k"}
        yield agents.begin("prisoner", limits=limits, tokens="2M", sandbox=prison.SANDBOX), world, beside


def test_nothing_gets_out_of_an_agents_pod(
    agents: Agents, prisoner: tuple[str, dict[str, Any], dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The model runs the battery as its commands; each attempt says for itself what it came to."""
    namespace, world, beside = prisoner
    status = agents.ended(namespace, 400)
    assert status["phase"] == "Serving", (status, agents.records(namespace))
    said = agents.told("prisoner")["told"]
    came_to = dict(zip(prison.ATTEMPTS, said, strict=True))
    with capsys.disabled():
        print(f"\n{len(said)} attempts in an agent's pod:")
        for name, text in came_to.items():
            print(f"  {name:30} {' '.join(text.split())[:110]}")
    assert {name: text for name, text in beside.items() if "ESCAPED" not in text} == {}, "the attempts themselves work"
    assert {name: text for name, text in came_to.items() if name != "outlive" and not denied(text)} == {}
    assert "left behind" in came_to["outlive"] and prison.survivors(world["token"]) == []


def denied(text: str) -> bool:
    """It says so itself, or was ended for what it used before it could say anything."""
    ended = re.match(r"\[ended: it (started more processes|wrote more onto the disk|used more memory)", text)
    return "ESCAPED" not in text and (ended is not None or re.search(r"^DENIED ", text, re.MULTILINE) is not None)


@pytest.mark.exhaustive
def test_a_spendthrift_ends_within_its_budget(agents: Agents) -> None:
    namespace = agents.begin("spendthrift", limits={"tokensPerStep": "40k"}, tokens="160k")
    status = agents.ended(namespace)
    assert status["phase"] == "NoGain", status
    failures = [r["result"] for r in agents.records(namespace) if r["step"] == "implement"]
    # Told that its tokens end, it calls a tool once more instead of answering: one or the other is what ends it.
    assert failures and {one["reason"] for one in failures} <= {"TokensSpent", "AnswerInvalid"}, failures
    assert {one["failure_class"] for one in failures} == {"candidate"}
    told = agents.told("spendthrift")
    assert told["tokens"] <= 160_000 and status["spent"]["tokens"] <= 160_000


@pytest.mark.exhaustive
def test_a_provider_with_trouble_that_passes_costs_nothing_but_time(agents: Agents) -> None:
    namespace = agents.begin("outage")
    assert agents.ended(namespace)["phase"] == "Serving"


@pytest.fixture(scope="module")
def useless(agents: Agents) -> dict[str, str]:
    """Both at once: between five tries lie fourteen minutes of waiting."""
    return {name: agents.begin(name, limits={"stepTimeout": "15s"}) for name in ("dead", "sloppy")}


@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("character", ["dead", "sloppy"])
def test_a_provider_that_is_of_no_use_ends_the_search(agents: Agents, useless: dict[str, str], character: str) -> None:
    """Out for good, and a model that never answers in form: the provider's failure, not a candidate's."""
    namespace = useless[character]
    status = agents.ended(namespace, 1200)
    assert status["phase"] == "Failed", status
    plans = [r["result"] for r in agents.records(namespace) if r["step"] == "plan"]
    assert len(plans) == 5 and {one["failure_class"] for one in plans} == {"provider"}
    assert {one["reason"] for one in plans} == {"dead": {"ProviderUnavailable"}, "sloppy": {"AnswerInvalid"}}[character]


@pytest.mark.exhaustive
def test_the_codex_cli_gets_a_stack_delivered(agents: Agents) -> None:
    namespace = agents.begin("honest-shell", backend="codex")
    assert agents.ended(namespace, 420)["phase"] == "Serving"


def test_the_operator_does_not_grow_with_transcripts(agents: Agents, honest: str) -> None:
    """What models say stays with the proxy: no megabyte of it comes to the API server or the operator."""
    agents.ended(honest)
    before = agents.operator.memory()  # type: ignore[attr-defined]
    namespace = agents.begin("talkative", limits={"tokensPerStep": "10M"}, tokens="40M")
    status = agents.ended(namespace)
    assert status["phase"] == "Serving" and status["spent"]["tokens"] > 1_000_000, status
    assert agents.operator.memory() - before < MOST_GROWTH  # type: ignore[attr-defined]
    maps = items(agents.cluster, "configmaps", namespace)
    assert sum(len(json.dumps(one)) for one in maps) < 400_000
