"""From a winner to traffic: the synthesis makes the rollout, follows it, and clears up behind it."""

import asyncio
import itertools
from typing import Any

import pytest
from operator_world import NAMESPACE, live, service, synthesis, target
from rolling_world import GATEWAY, LONGER, POLICY, SHORT, Rolling, RollingWorld

from sartor_operator import names
from sartor_operator.kinds import DEPLOYMENT, EVENT, HTTP_ROUTE, ROLLOUT, RUN, SERVICE, SYNTHESIS, Manifest
from sartor_operator.reasons import EVENTS
from sartor_operator.rollout.observed import FULL_ANNOTATION
from sartor_operator.settings import Settings
from sartor_operator.synthesis.retire import UNUSED_ANNOTATION


def served(**spec: Any) -> Rolling:
    """A first winner with all traffic."""
    cluster = Rolling(**spec)
    cluster.run(cluster.phase("Serving"))
    return cluster


def quiet(cluster: Rolling) -> None:
    """Nothing is written any more, whatever time passes."""
    cluster.run(days=0.1)
    before = len(cluster.world.writes)
    cluster.run(days=3)
    assert cluster.world.writes[before:] == []


def arms(rollout: Manifest) -> tuple[str, str]:
    return rollout["spec"]["baseline"]["service"], rollout["spec"]["candidate"]["service"]


def path(cluster: Rolling, *services: str) -> list[tuple[int, ...]]:
    """The weights of these Services, one tuple for each that the route ever had."""
    return [key for key, _ in itertools.groupby(tuple(s.get(n, 0) for n in services) for s in cluster.world.shares)]


def told(cluster: Rolling, reason: str) -> list[str]:
    events = [e for e in cluster.world.all(EVENT) if e["reason"] == reason]
    return [e["message"] for e in events if e["involvedObject"]["kind"] == "ServingSynthesis"]


# --- forward --------------------------------------------------------------------------------------------------------


def test_a_winner_gets_a_stack_of_its_own_and_the_traffic_step_by_step() -> None:
    cluster = Rolling()
    cluster.run(cluster.phase("RollingOut"))
    (rollout,) = cluster.rollouts
    content = cluster.status["best"]["contentHash"].removeprefix("sha256:")
    stack = names.stack_name("editor", names.uid(cluster.world.one(SYNTHESIS)), content)
    assert arms(rollout) == (cluster.baseline, stack) and f"-stack-{content[:12]}-" in stack
    spec = rollout["spec"]
    assert spec["candidate"] == {
        "service": stack,
        "port": 8000,
        "deployment": stack,
        "contentHash": f"sha256:{content}",
    }
    assert spec["baseline"] == {"service": cluster.baseline, "port": 8000, "deployment": cluster.baseline}
    assert spec["runRef"]["name"] == names.name_of(cluster.world.one(RUN))
    assert spec["policy"] == POLICY and "control" not in spec
    assert names.owner_uid(rollout) == names.uid(cluster.world.one(SYNTHESIS))
    cluster.run(cluster.phase("Serving"))
    assert path(cluster, cluster.baseline, stack) == [(100, 0), (80, 20), (50, 50), (0, 100)]
    assert cluster.condition("Ready") == ("True", "Serving") and cluster.condition("Delivered") == ("True", "Succeeded")
    assert cluster.status["rollout"] | {"message": ""} == {
        "name": names.name_of(rollout), "phase": "Promoted", "step": 2, "steps": 2, "weight": 100, "message": "",
        "baseline": cluster.baseline, "candidate": stack,
    }  # fmt: skip
    assert cluster.status["servingRun"]["name"] == names.name_of(cluster.world.one(RUN))
    assert told(cluster, "RolloutCreated") and told(cluster, "RolloutEnded") and told(cluster, "Delivered")
    assert {"RolloutCreated", "RolloutEnded"} <= set(EVENTS)


def test_nobody_fights_for_the_size_of_the_baseline() -> None:
    cluster = served()
    cluster.run(lambda: cluster.replicas(cluster.baseline) == 1)
    quiet(cluster)
    assert cluster.replicas(cluster.baseline) == 1
    cluster.edit(baseline={"replicas": 3})  # what a rollout holds at its floor is not grown by this
    cluster.run(days=0.1)
    assert cluster.replicas(cluster.baseline) == 1
    cluster.control(undo=True)
    cluster.run(cluster.phase("RolledBack"))
    cluster.run(days=0.1)
    assert cluster.replicas(cluster.baseline) == 3


def test_the_stack_is_ready_before_there_is_a_rollout() -> None:
    cluster = Rolling()
    seen: list[bool] = []

    def note(what: str, kind: Any, manifest: Manifest) -> None:
        if kind is ROLLOUT and what == "put" and not seen:
            ready = {
                names.name_of(d): d.get("status", {}).get("availableReplicas", 0) for d in cluster.world.all(DEPLOYMENT)
            }
            seen.append(all(ready.get(service, 0) == 2 for service in arms(manifest)))

    cluster.world.listeners.append(note)
    cluster.run(cluster.phase("RollingOut"))
    assert seen == [True]


def test_nothing_is_written_when_nothing_changes() -> None:
    cluster = served()
    quiet(cluster)
    cluster.process.stop()
    cluster.process = cluster.started()
    quiet(cluster)


def test_without_a_gateway_nothing_has_another_name() -> None:
    world = RollingWorld()
    world.add(target())
    world.add(synthesis(budget=SHORT))
    live(world).stop()
    uid = names.uid(world.one(SYNTHESIS))
    assert {names.name_of(d) for d in world.all(DEPLOYMENT)} == {
        names.child_name("editor", uid, "stack"), names.child_name("editor", uid, "baseline")
    }  # fmt: skip
    assert world.all(ROLLOUT) == [] and "rollout" not in world.one(SYNTHESIS)["status"]


# --- back -----------------------------------------------------------------------------------------------------------


def fails(_step: Any) -> str:
    return "fail"


def test_a_stack_that_comes_back_is_said_remembered_and_cleared_away() -> None:
    cluster = Rolling(fails)
    cluster.run(cluster.phase("RolledBack"))
    (rollout,) = cluster.rollouts
    stack = cluster.candidate()
    assert cluster.condition("Stalled") == ("True", "GuardrailFailed")
    assert f"delete ServingRollout {names.name_of(rollout)}" in cluster.status["message"]
    assert cluster.status["rejectedContent"] == [rollout["spec"]["candidate"]["contentHash"]]
    assert "servingRun" not in cluster.status, "the baseline serves"
    came_back = cluster.world.now
    cluster.run(lambda: stack not in cluster.stacks)
    assert came_back + 30 <= cluster.world.now <= came_back + 60
    quiet(cluster)
    assert cluster.phase("RolledBack")() and len(cluster.rollouts) == 1
    assert (SERVICE, NAMESPACE, stack) in cluster.world.store, "the route names it still"
    assert len(told(cluster, "RolloutEnded")) == 1


def test_a_human_tries_the_same_bytes_again_by_deleting_the_rollout() -> None:
    cluster = Rolling(fails)
    cluster.run(cluster.phase("RolledBack"))
    cluster.run(days=0.1)
    before = cluster.rollouts[0]
    cluster.verdicts.says = lambda _step: "pass"
    cluster.delete(ROLLOUT, names.name_of(before))
    cluster.run(cluster.phase("Serving"))
    (again,) = cluster.rollouts
    assert names.uid(again) != names.uid(before) and arms(again) == arms(before)
    assert "rejectedContent" not in cluster.status or cluster.status["rejectedContent"] == []
    assert len(told(cluster, "RolloutCreated")) == 2


def test_a_rejected_winner_that_is_found_again_stays_where_it_is() -> None:
    cluster = Rolling(fails)
    cluster.run(cluster.phase("RolledBack"))
    cluster.world.edit(
        SYNTHESIS,
        "editor",
        lambda m: m["metadata"].setdefault("annotations", {}).update({"sartor.dev/resynthesize": "1"}),
    )
    cluster.run(lambda: len(cluster.world.all(RUN)) == 2 and cluster.phase("RolledBack")())
    cluster.run(days=0.1)
    assert len(cluster.rollouts) == 1 and cluster.phase("RolledBack")()


# --- one winner after the other -------------------------------------------------------------------------------------


def test_a_new_winner_takes_over_from_the_stack_that_serves() -> None:
    cluster = served()
    first, vllm = cluster.candidate(), cluster.baseline
    cluster.run(lambda: cluster.replicas(vllm) == 1)
    began = len(cluster.world.shares)
    cluster.edit(budget=LONGER)
    cluster.run(lambda: len(cluster.rollouts) == 2)
    assert cluster.status["servingRun"]["name"] != cluster.status["run"]["name"]
    cluster.run(lambda: cluster.phase("Serving")() and len(cluster.rollouts) == 2)
    second = cluster.candidate()
    assert arms(cluster.rollouts[1]) == (first, second) and second != first
    assert path(cluster, first, second)[1:][-3:] == [(80, 20), (50, 50), (0, 100)]
    assert all(vllm not in share for share in cluster.world.shares[began - 1 :]), "vLLM gets nothing on the way"
    assert cluster.rollouts[0]["status"]["phase"] == "Promoted" and "finishedAt" in cluster.rollouts[0]["status"]
    assert cluster.status["servingRun"] == cluster.status["run"]
    cluster.run(lambda: cluster.replicas(first) == 1)
    quiet(cluster)
    assert sorted(cluster.stacks) == sorted([first, second]), "the way back stays, at its floor"
    assert cluster.replicas(vllm) == 1, "what is handed over goes to it"


def test_the_run_of_a_stack_that_may_get_traffic_back_is_kept() -> None:
    """From it the stack is made again where somebody deletes it."""
    cluster = Rolling()
    cluster.world.settings = Settings(keep_runs=0)
    cluster.process.stop()
    cluster.process = cluster.started()
    cluster.run(cluster.phase("Serving"))
    cluster.edit(budget=LONGER)
    cluster.run(lambda: cluster.phase("Serving")() and len(cluster.rollouts) == 2)
    cluster.run(days=1)
    assert len(cluster.world.all(RUN)) == 2
    cluster.control(undo=True)
    cluster.run(lambda: cluster.world.traffic() == {cluster.candidate(0): 100})
    cluster.delete(DEPLOYMENT, cluster.candidate(0))
    cluster.run(lambda: cluster.candidate(0) in cluster.stacks)


def test_back_to_an_older_winner_which_gets_all_its_replicas_again() -> None:
    cluster = served()
    cluster.edit(budget=LONGER)
    cluster.run(lambda: cluster.phase("Serving")() and len(cluster.rollouts) == 2)
    first, second = cluster.candidate(0), cluster.candidate(1)
    cluster.run(lambda: cluster.replicas(first) == 1)
    cluster.edit(budget=SHORT)
    cluster.run(lambda: cluster.phase("Serving")() and len(cluster.rollouts) == 3)
    assert arms(cluster.rollouts[2]) == (second, first) and cluster.replicas(first) == 2
    assert FULL_ANNOTATION not in (cluster.world.one(DEPLOYMENT, first)["metadata"].get("annotations") or {})
    assert len(cluster.world.all(RUN)) == 2, "no search for what is known"


def test_a_new_winner_that_comes_back_leaves_the_older_one_serving() -> None:
    cluster = served()
    first = cluster.candidate()
    cluster.verdicts.says = fails
    cluster.edit(budget=LONGER)
    cluster.run(cluster.phase("RolledBack"))
    assert cluster.world.traffic() == {first: 100}
    assert cluster.status["servingRun"]["name"] != cluster.status["run"]["name"]
    second = cluster.candidate()
    cluster.run(lambda: second not in cluster.stacks)
    quiet(cluster)
    assert cluster.stacks == [first] and cluster.replicas(first) == 2
    cluster.edit(budget=SHORT)  # back to the intent whose winner serves: nothing is to be moved
    cluster.run(cluster.phase("Serving"))
    cluster.run(days=0.1)
    assert cluster.world.traffic() == {first: 100} and len(cluster.rollouts) == 2
    assert cluster.phase("Serving")()


def test_a_new_winner_in_the_middle_replaces_the_rollout_under_way() -> None:
    cluster = Rolling()
    cluster.run(lambda: cluster.weight(20)())
    first, vllm = cluster.candidate(), cluster.baseline
    cluster.verdicts.says = lambda _step: "inconclusive"  # the first one does not end by itself
    cluster.edit(budget=LONGER)
    cluster.run(lambda: len(cluster.rollouts) == 2)
    cluster.verdicts.says = lambda _step: "pass"
    cluster.run(cluster.phase("Serving"))
    second = cluster.candidate()
    assert arms(cluster.rollouts[1]) == (vllm, second)
    steps = [(s.get(vllm, 0), s.get(first, 0), s.get(second, 0)) for s in cluster.world.shares]
    assert [k for k, _ in itertools.groupby(steps)] == [
        (100, 0, 0), (80, 20, 0), (100, 0, 0), (80, 0, 20), (50, 0, 50), (0, 0, 100)
    ]  # fmt: skip
    assert "rejectedContent" not in cluster.status or cluster.status["rejectedContent"] == []
    cluster.run(lambda: first not in cluster.stacks)
    quiet(cluster)


def test_the_way_back_to_what_serves_ends_what_is_under_way() -> None:
    """The intent goes back while the newer winner has a part of the traffic of the older one."""
    cluster = served()
    first = cluster.candidate()
    cluster.edit(budget=LONGER)
    cluster.run(lambda: len(cluster.rollouts) == 2 and cluster.weight(20)())
    cluster.edit(budget=SHORT)
    cluster.run(lambda: cluster.world.traffic() == {first: 100} and cluster.phase("Serving")())
    cluster.run(days=0.1)
    assert len(cluster.rollouts) == 1 and cluster.phase("Serving")()
    assert cluster.stacks == [first]


def test_bytes_that_went_back_meanwhile_do_not_become_a_baseline() -> None:
    """A human undoes the promotion in the moment in which the rollout to the next winner was made."""
    cluster = served()
    first, vllm = cluster.candidate(), cluster.baseline
    cluster.edit(budget=LONGER)
    made = {"undone": False}

    def undo(what: str, kind: Any, manifest: Manifest) -> None:
        if kind is ROLLOUT and names.number_of(names.name_of(manifest)) == 2 and not made["undone"]:
            made["undone"] = True
            cluster.control(0, undo=True)

    cluster.world.listeners.append(undo)
    cluster.run(lambda: cluster.phase("Serving")() and cluster.candidate() != first)
    began = next(i for i, s in enumerate(cluster.world.shares) if s == {first: 100})
    after = cluster.world.shares[began + 1 :]
    assert after[0].get(vllm) or after == [], "the undo went first"
    assert not any(first in s for s in after if s != {first: 100} and vllm not in s)
    assert arms(cluster.rollouts[-1]) == (vllm, cluster.candidate())


# --- humans ---------------------------------------------------------------------------------------------------------


def test_the_rollout_follows_the_policy_of_the_synthesis_and_control_is_left_alone() -> None:
    cluster = Rolling(lambda _step: "inconclusive")
    cluster.run(lambda: cluster.weight(20)())
    cluster.control(pause=True)
    steps = [{"weight": 20, "hold": "20s"}, {"weight": 70, "hold": "10s"}]
    cluster.edit(rollout={**POLICY, "steps": steps, "promotion": "manual"})
    cluster.run(lambda: cluster.rollouts[0]["spec"]["policy"].get("promotion") == "manual")
    cluster.run(days=0.01)
    spec = cluster.rollouts[0]["spec"]
    assert spec["policy"]["steps"] == steps and spec["control"] == {"pause": True}
    without = {key: value for key, value in POLICY.items() if key != "hostnames"}
    cluster.edit(rollout=without)
    cluster.run(lambda: "hostnames" not in cluster.rollouts[0]["spec"]["policy"])
    assert "promotion" not in cluster.rollouts[0]["spec"]["policy"]
    # What a human writes into the policy itself is put back: it has an owner.
    name = names.name_of(cluster.rollouts[0])
    cluster.world.edit(ROLLOUT, name, lambda m: m["spec"]["policy"].update(drainTimeout="1s"))
    cluster.run(days=0.01)
    assert cluster.rollouts[0]["spec"]["policy"]["drainTimeout"] == "30s"


def test_suspend_begins_no_rollout_and_stops_none() -> None:
    cluster = Rolling()
    cluster.run(lambda: cluster.phase("Confirming")())
    cluster.run(lambda: bool(cluster.stacks))
    cluster.edit(suspend=True)
    cluster.run(cluster.phase("Suspended"))
    cluster.run(days=1)
    assert cluster.rollouts == [] and cluster.condition("Delivered") == ("True", "Succeeded")
    cluster.edit(suspend=False)
    cluster.run(lambda: cluster.weight(20)())
    cluster.edit(suspend=True)
    cluster.run(lambda: "does not stop a rollout" in cluster.status["message"])
    cluster.run(cluster.phase("Serving"))


def test_a_rollout_deleted_by_hand_gives_the_traffic_back_and_is_made_once_more() -> None:
    cluster = served()
    before, stack, vllm = cluster.rollouts[0], cluster.candidate(), cluster.baseline
    cluster.run(lambda: cluster.replicas(vllm) == 1)
    cluster.delete(ROLLOUT, names.name_of(before))
    cluster.run(lambda: cluster.world.traffic() == {vllm: 100})
    cluster.run(lambda: cluster.phase("Serving")() and cluster.world.traffic() == {stack: 100})
    (again,) = cluster.rollouts
    assert names.uid(again) != names.uid(before)
    quiet(cluster)
    assert cluster.rollouts == [cluster.rollouts[0]] and names.uid(cluster.rollouts[0]) == names.uid(again)


def test_an_aborted_rollout_is_not_made_again() -> None:
    cluster = Rolling()
    cluster.run(lambda: cluster.weight(20)())
    cluster.control(abort=True)
    cluster.run(cluster.phase("RolledBack"))
    quiet(cluster)
    assert cluster.condition("Stalled") == ("True", "Cancelled") and len(cluster.rollouts) == 1


@pytest.mark.parametrize("which", ["winner", "way back"])
def test_a_stack_deleted_by_hand_is_made_again(which: str) -> None:
    cluster = served()
    cluster.edit(budget=LONGER)
    cluster.run(lambda: cluster.phase("Serving")() and len(cluster.rollouts) == 2)
    name = cluster.candidate(-1 if which == "winner" else 0)
    cluster.delete(DEPLOYMENT, name)
    cluster.delete(SERVICE, name)
    cluster.run(lambda: name in cluster.stacks and (SERVICE, NAMESPACE, name) in cluster.world.store)
    cluster.run(lambda: cluster.world.traffic() == {cluster.candidate(): 100})


def test_a_gateway_taken_out_of_the_spec_and_put_back_while_serving() -> None:
    cluster = served()
    stack, vllm = cluster.candidate(), cluster.baseline
    cluster.run(lambda: cluster.replicas(vllm) == 1)
    cluster.edit(rollout={})
    cluster.run(lambda: cluster.rollouts == [] and cluster.world.traffic() == {vllm: 100})
    assert cluster.replicas(vllm) == 2
    cluster.run(lambda: cluster.phase("Serving")() and stack not in cluster.stacks)
    plain = names.child_name("editor", names.uid(cluster.world.one(SYNTHESIS)), "stack")
    assert cluster.replicas(plain) == 2
    quiet(cluster)
    cluster.edit(rollout=POLICY)
    cluster.run(lambda: cluster.phase("Serving")() and bool(cluster.rollouts))
    assert cluster.world.traffic() == {stack: 100}
    assert (DEPLOYMENT, NAMESPACE, plain) in cluster.world.store, "it had its clients until all traffic had moved"
    cluster.run(lambda: (SERVICE, NAMESPACE, plain) not in cluster.world.store)
    assert (DEPLOYMENT, NAMESPACE, plain) not in cluster.world.store
    quiet(cluster)


def test_the_service_of_a_plain_delivery_reaches_no_pod_of_a_rollout() -> None:
    cluster = Rolling(rollout={})
    cluster.run(cluster.phase("Serving"))
    plain = next(s for s in cluster.world.all(SERVICE) if names.label(s, names.ROLE_LABEL) == "serving-stack")
    cluster.edit(rollout=POLICY)
    cluster.run(lambda: bool(cluster.rollouts))
    stack = cluster.world.one(DEPLOYMENT, cluster.stacks[0])
    labels = stack["spec"]["template"]["metadata"]["labels"]
    assert not plain["spec"]["selector"].items() <= labels.items()
    assert stack["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_a_stack_that_somebody_gave_weight_to_is_not_removed() -> None:
    cluster = Rolling(fails)
    cluster.run(cluster.phase("RolledBack"))
    stack, vllm = cluster.candidate(), cluster.baseline
    cluster.run(
        lambda: UNUSED_ANNOTATION in (cluster.world.one(DEPLOYMENT, stack)["metadata"].get("annotations") or {})
    )
    route = names.name_of(cluster.world.one(HTTP_ROUTE))

    def weigh(share: int) -> None:
        def change(manifest: Manifest) -> None:
            for backend in manifest["spec"]["rules"][0]["backendRefs"]:
                backend["weight"] = share if backend["name"] == stack else 100 - share

        cluster.world.edit(HTTP_ROUTE, route, change)

    weigh(10)
    cluster.run(days=1)
    assert stack in cluster.stacks and cluster.world.traffic() == {vllm: 90, stack: 10}
    weigh(0)
    cluster.run(lambda: stack not in cluster.stacks)


def test_a_stack_whose_traffic_a_watch_has_not_shown_yet_is_not_removed() -> None:
    cluster = Rolling(fails)
    cluster.run(cluster.phase("RolledBack"))
    stack, vllm = cluster.candidate(), cluster.baseline
    cluster.run(
        lambda: UNUSED_ANNOTATION in (cluster.world.one(DEPLOYMENT, stack)["metadata"].get("annotations") or {})
    )
    cluster.process.stale = lambda kind: kind is HTTP_ROUTE

    def weigh(manifest: Manifest) -> None:
        for backend in manifest["spec"]["rules"][0]["backendRefs"]:
            backend["weight"] = 10 if backend["name"] == stack else 90

    cluster.world.edit(HTTP_ROUTE, names.name_of(cluster.world.one(HTTP_ROUTE)), weigh)
    cluster.world.now += 86_400.0  # its drain is over
    cluster.process.wake()
    asyncio.run(cluster.process.work())
    assert cluster.process.held, "the watch of routes is behind"
    assert stack in cluster.stacks and cluster.world.traffic() == {vllm: 90, stack: 10}


def test_traffic_starts_from_a_service_of_the_users() -> None:
    cluster = Rolling(baseline={"replicas": 2, "serviceRef": {"name": "vllm", "port": 9000}})
    cluster.world.add(service("vllm"))
    cluster.world.endpoints("vllm", [True, True])
    cluster.run(cluster.phase("Serving"))
    assert cluster.rollouts[0]["spec"]["baseline"] == {"service": "vllm", "port": 9000}
    assert path(cluster, "vllm", cluster.candidate()) == [(100, 0), (80, 20), (50, 50), (0, 100)]
    assert [names.name_of(d) for d in cluster.world.all(DEPLOYMENT)] == cluster.stacks


@pytest.mark.parametrize("own", [True, False], ids=["baseline of Sartor's", "Service of the user's"])
def test_deleting_the_synthesis_gives_the_traffic_back_before_the_stack_goes(own: bool) -> None:
    cluster = Rolling() if own else Rolling(baseline={"serviceRef": {"name": "vllm"}})
    if not own:
        cluster.world.add(service("vllm"))
        cluster.world.endpoints("vllm", [True])
    cluster.run(cluster.phase("Serving"))
    stack, before = cluster.candidate(), cluster.world.traffic()
    vllm = cluster.rollouts[0]["spec"]["baseline"]["service"]
    if own:
        cluster.run(lambda: cluster.replicas(vllm) == 1)
    gone: list[dict[str, int]] = []

    def note(what: str, kind: Any, manifest: Manifest) -> None:
        if what == "remove" and kind is DEPLOYMENT and names.name_of(manifest) == stack:
            gone.append(cluster.world.traffic())

    cluster.world.listeners.append(note)
    assert before == {stack: 100}
    cluster.delete(SYNTHESIS, "editor")
    cluster.run(lambda: not cluster.rollouts)
    assert gone == [{vllm: 100}], "the stack went after its traffic"
    left = [names.name_of(service) for service in cluster.world.all(SERVICE)]
    assert cluster.world.all(DEPLOYMENT) == [] and left == ([] if own else ["vllm"]), "the user's own stays"


def test_deleting_the_synthesis_in_the_middle_of_a_rollout() -> None:
    cluster = Rolling(lambda _step: "inconclusive")
    cluster.run(lambda: cluster.weight(20)())
    vllm = cluster.baseline
    cluster.delete(SYNTHESIS, "editor")
    cluster.run(lambda: not cluster.rollouts)
    assert cluster.world.traffic() == {vllm: 100} and cluster.world.all(DEPLOYMENT) == []


def test_an_autoscaled_stack_is_not_scaled_as_the_way_back() -> None:
    cluster = served(delivery={"replicas": 2, "autoscaled": True})
    assert "deployment" in cluster.rollouts[0]["spec"]["candidate"]
    cluster.edit(budget=LONGER)
    cluster.run(lambda: cluster.phase("Serving")() and len(cluster.rollouts) == 2)
    assert "deployment" not in cluster.rollouts[1]["spec"]["baseline"]
    cluster.run(days=1)
    assert cluster.replicas(cluster.candidate(0)) == 2


@pytest.mark.parametrize(
    ("sources", "watched"),
    [
        (["gatewayAccessLog", "probe"], ["errorRate", "ttftP99", "interTokenLatencyP99"]),
        (["gatewayAccessLog"], ["errorRate"]),
    ],
)
def test_guardrails_that_no_source_sees_are_left_out_and_said(sources: list[str], watched: list[str]) -> None:
    cluster = Rolling(rollout={**POLICY, "analysis": {"sources": sources}})
    cluster.run(lambda: bool(cluster.rollouts) and bool(told(cluster, "RolloutCreated")))
    assert [g["metric"] for g in cluster.rollouts[0]["spec"]["guardrails"]] == watched
    blind = "not watched with live traffic" in told(cluster, "RolloutCreated")[0]
    assert blind == (len(watched) == 1)


def test_a_gateway_is_named_as_the_user_named_it() -> None:
    cluster = Rolling()
    cluster.run(lambda: bool(cluster.rollouts))
    assert cluster.rollouts[0]["spec"]["policy"]["parentRefs"] == [GATEWAY]
