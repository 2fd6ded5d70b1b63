"""The status of an AgentProfile: what it refers to, whether it can be used, what was used of it."""

import asyncio
from typing import Any

import pytest
from operator_world import NAMESPACE, Ends, Process, World, good, live, profile, synthesis, target

from sartor_api.search.records import StepKind
from sartor_operator.actions import StatusOf
from sartor_operator.kinds import PROFILE, RUN, SECRET, SYNTHESIS, Manifest
from sartor_operator.profile import ProxyObserved, decide_profile
from sartor_operator.settings import Settings

OPENAI: dict[str, Any] = {
    "backend": "openai",
    "model": "m",
    "endpoints": [{"url": "https://llm.example/v1", "secretRef": {"name": "llm"}}],
}


def secret(name: str, *keys: str) -> Manifest:
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": dict.fromkeys(keys, "eA==")}


def looked_at(world: World) -> Process:
    process = Process(world)
    asyncio.run(process.work())
    return process


def words(world: World) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in world.one(PROFILE)["status"]["conditions"]}


def message(world: World) -> str:
    return str(world.one(PROFILE)["status"]["conditions"][0]["message"])


def test_the_playbook_needs_nothing() -> None:
    world = World()
    world.add(profile())
    process = looked_at(world)
    assert words(world) == {"Ready": ("True", "Succeeded")}
    assert world.one(PROFILE)["status"]["observedGeneration"] == 1
    assert process.wakes == {}, "there is nothing that could go missing"


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ([], "spec.endpoints[0].secretRef: there is no Secret llm in this namespace; create it"),
        ([secret("llm", "other")], "spec.endpoints[0].secretRef: Secret llm has no key apiKey; it has: other"),
    ],
)
def test_a_secret_that_is_missing_is_named_and_looked_for_again(kept: list[Manifest], said: str) -> None:
    world = World()
    for one in kept:
        world.add(one)
    world.add(profile(**OPENAI))
    process = looked_at(world)
    assert words(world) == {"Ready": ("False", "SecretNotFound"), "Stalled": ("True", "SecretNotFound")}
    assert message(world) == said
    assert process.wakes == {(PROFILE, NAMESPACE, "agents"): world.now + 30}
    if kept:
        world.remove((SECRET, NAMESPACE, "llm"))
    world.add(secret("llm", "apiKey"))
    world.now += 30
    process.wake()
    asyncio.run(process.work())
    assert words(world)["Ready"] == ("False", "Progressing"), "its proxy starts"
    assert process.wakes == {(PROFILE, NAMESPACE, "agents"): world.now + 300}, "it may be deleted again"


def test_a_backend_that_is_not_known_is_said() -> None:
    world = World()
    world.add(profile(backend="oracle"))
    looked_at(world)
    assert words(world) == {"Ready": ("False", "NotSupported"), "Stalled": ("True", "NotSupported")}
    assert "does not understand" in message(world) and "backend" in message(world)


def test_hosts_that_commands_would_not_reach_are_refused_and_not_forgotten() -> None:
    world = World()
    world.add(target())
    world.add(profile(sandbox={"allowedHosts": ["pypi.example"]}))
    world.add(synthesis(agents={"profileRef": {"name": "agents"}}))
    live(world)
    assert words(world)["Stalled"] == ("True", "NotSupported")
    said = "spec.sandbox.allowedHosts: commands reach no host at all yet; remove it"
    assert message(world) == said and not world.all(RUN)
    (ready,) = [c for c in world.one(SYNTHESIS)["status"]["conditions"] if c["type"] == "Ready"]
    assert (ready["reason"], ready["message"]) == ("NotSupported", f"AgentProfile agents: {said}")


def test_tokens_are_the_sum_of_what_the_runs_booked() -> None:
    from sartor_api.search.records import Cost
    from sartor_api.search.wire import StepReport, report_text

    def costly(begin: Any, execution: int) -> Ends | None:
        if begin.step is not StepKind.PLAN:
            return None
        return Ends(message=report_text(StepReport(step=begin.id, result=good(begin), cost=Cost(tokens=1500))))

    world = World(script=costly)
    world.add(target())
    world.add(profile())
    world.add(synthesis(agents={"profileRef": {"name": "agents"}}))
    world.add(synthesis("other"))
    live(world)
    assert sum(r["status"]["spent"]["tokens"] for r in world.all(RUN)) == 6000
    assert world.one(PROFILE)["status"]["tokensUsed"] == 3000, "two rounds; the other synthesis uses no profile"
    writes = [w for w in world.writes if w == "status AgentProfile agents"]
    assert len(writes) == 3, "once when it was made, and once for each step that used tokens"
    live(world)
    assert len([w for w in world.writes if w == "status AgentProfile agents"]) == 3


def test_a_changed_status_of_a_profile_wakes_no_synthesis() -> None:
    world = World()
    world.add(target())
    world.add(profile())
    world.add(synthesis(agents={"profileRef": {"name": "agents"}}))
    process = live(world)
    world.edit(PROFILE, "agents", lambda m: m["status"].update(tokensUsed=7))
    assert (SYNTHESIS, NAMESPACE, "editor") not in process.keys
    world.edit(PROFILE, "agents", lambda m: m["spec"].update(limits={"turnsPerStep": 7}))
    assert (SYNTHESIS, NAMESPACE, "editor") in process.keys


def test_how_providers_do_is_left_to_whoever_speaks_to_them() -> None:
    states = [{"url": "https://llm.example/v1", "state": "Available"}]
    manifest = profile(**OPENAI) | {"status": {"endpoints": states, "tokensUsed": 3}}
    manifest["metadata"] = {**manifest["metadata"], "uid": "u", "generation": 1}
    keys = {"llm": frozenset({"apiKey"})}
    (said,) = decide_profile(manifest, keys, (), ProxyObserved({}), Settings(), 0.0).statuses
    assert isinstance(said, StatusOf)
    assert said.status.model_dump(mode="json", by_alias=True)["endpoints"][0]["state"] == "Available"
