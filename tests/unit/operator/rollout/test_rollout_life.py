"""A rollout from the API server's side: the real controller, killed after every single write, and what people do to it."""

import asyncio
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from operator_world import NAMESPACE, START, service
from rollout_cluster import POLICY, Cluster, endpoints, rollout

from sartor_api.rollout_policy import RolloutPolicy
from sartor_operator import names
from sartor_operator.kinds import DEPLOYMENT, EVENT, HTTP_ROUTE, ROLLOUT, SERVICE
from sartor_operator.reasons import EVENTS
from sartor_operator.rollout.decide import FINALIZER
from sartor_operator.rollout.doubt import SAMPLES_SECONDS, STEADY_SECONDS
from sartor_operator.rollout.observed import FULL_ANNOTATION
from sartor_operator.rollout.progress import LOOK_SECONDS
from sartor_operator.rollout.route import route_name
from sartor_operator.rollout.samples import ArmsAsked, NoVerdicts, Outage, Reading, StepAsked
from sartor_operator.times import format_time, parse_time

FORWARD = [(100, 0), (80, 20), (50, 50), (0, 100)]


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def test_step_by_step_to_promotion_and_then_the_baseline_shrinks() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.replicas() == 1)
    assert cluster.shares == FORWARD
    status = cluster.status
    assert status["phase"] == "Promoted" and status["candidate"]["weight"] == 100
    assert conditions(status)["Ready"] == ("True", "Promoted")
    meta = cluster.world.one(DEPLOYMENT, "vllm")["metadata"]
    assert meta["annotations"][FULL_ANNOTATION] == "3"
    assert cluster.world.now >= (parse_time(status["promotedAt"]) or 0) + 600
    told = cluster.world.events()
    assert told.count("StepStarted") == 3 and told.count("RolloutPromoted") == 1
    asked = {(s.number, s.kind, s.weight) for s in cluster.script.asked}
    assert asked == {(1, "mirror", 0), (2, "weight", 20), (3, "weight", 50)}


def test_each_step_takes_its_time() -> None:
    cluster = Cluster()
    times: dict[int, float] = {}

    def note() -> bool:
        times.setdefault(cluster.status.get("step", 0), cluster.world.now)
        return cluster.status.get("phase") == "Promoted"

    cluster.run(note)
    assert times[2] - times[1] >= 20 and times[3] - times[2] >= 20


def test_killed_after_every_single_write_forward() -> None:
    whole = Cluster()
    whole.run(lambda: whole.replicas() == 1)
    writes = len([w for w in whole.world.writes if not w.startswith("create Event")])
    assert writes >= 15
    for number in range(1, len(whole.world.writes) + 1):
        cluster = Cluster()
        cluster.world.kill_after = number
        cluster.run(lambda c=cluster: c.replicas() == 1)
        assert cluster.shares == FORWARD, number
        assert cluster.status["phase"] == "Promoted"
        told = cluster.world.events()
        assert told.count("StepStarted") == 3 and told.count("RolloutPromoted") == 1, number


@pytest.mark.parametrize("step", [2, 3])
def test_killed_after_every_single_write_back(step: int) -> None:
    def says(asked: Any) -> str:
        return "fail" if asked.number == step else "pass"

    whole = Cluster(says)
    whole.run(whole.phase("RolledBack"))
    assert whole.shares == [*FORWARD[:step], (100, 0)]
    for number in range(1, len(whole.world.writes) + 1):
        cluster = Cluster(says)
        cluster.world.kill_after = number
        cluster.run(cluster.phase("RolledBack"))
        assert cluster.shares == whole.shares, number
        assert conditions(cluster.status)["Ready"] == ("False", "GuardrailFailed")
        assert cluster.status["verdict"]["outcome"] == "fail"
        told = cluster.world.events()
        assert told.count("StepStarted") == step and told.count("RolledBack") == 1, number


def test_a_rolled_back_rollout_stays_so_and_its_bytes_are_not_tried_again() -> None:
    cluster = Cluster(lambda _step: "fail")
    cluster.run(cluster.phase("RolledBack"))
    cluster.script.says = lambda _step: "pass"
    cluster.world.add(rollout("again"))
    cluster.run(lambda: cluster.world.one(ROLLOUT, "again").get("status", {}).get("phase") == "Failed")
    status = cluster.world.one(ROLLOUT, "again")["status"]
    assert conditions(status)["Stalled"] == ("True", "ContentRejected") and "editor" in status["message"]
    assert cluster.weights() == (100, 0)
    cluster.world.remove((ROLLOUT, "team-a", "editor"))  # a human wants it tried again
    cluster.run(lambda: cluster.world.one(ROLLOUT, "again")["status"]["phase"] == "Progressing")


def test_an_abort_takes_effect_in_the_next_look_and_cannot_be_taken_back() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.weights() == (50, 50) if cluster.world.all(HTTP_ROUTE) else False)
    before = len(cluster.world.writes)
    cluster.control(abort=True)
    cluster.run(lambda: cluster.weights() == (100, 0))
    first = cluster.world.writes[before]
    assert first.startswith("apply HTTPRoute"), "nothing is written before the traffic is back"
    cluster.control(abort=False)
    cluster.run(cluster.phase("RolledBack"))
    assert conditions(cluster.status)["Ready"][1] == "Cancelled"


def test_undo_brings_the_baseline_back_first_and_moves_as_it_grows() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.replicas() == 1)
    cluster.ready["vllm"] = 1
    cluster.react()  # its endpoints are gone
    cluster.control(undo=True)
    cluster.run(lambda: cluster.replicas() == 3)
    assert FULL_ANNOTATION not in cluster.world.one(DEPLOYMENT, "vllm")["metadata"].get("annotations", {})
    cluster.run(lambda: cluster.weights() == (33, 67))
    cluster.ready["vllm"] = 2
    cluster.run(lambda: cluster.weights() == (66, 34))
    del cluster.ready["vllm"]
    cluster.run(cluster.phase("RolledBack"))
    assert cluster.weights() == (100, 0) and cluster.replicas() == 3


def test_an_arm_whose_service_is_gone_gives_way_whatever_endpoints_outlive_it() -> None:
    cluster = Cluster(lambda step: "pass" if step.number < 3 else None)
    cluster.run(lambda: cluster.weights() == (50, 50))
    cluster.world.remove((SERVICE, NAMESPACE, "stack"))
    cluster.run(lambda: cluster.weights() == (100, 0))
    assert [b["name"] for b in cluster.route["spec"]["rules"][0]["backendRefs"]] == ["vllm"]
    cluster.run(cluster.phase("Frozen"))
    assert "Service stack of the candidate does not exist; create it" in cluster.status["message"]
    cluster.world.add(service("stack"))
    cluster.run(lambda: cluster.weights() == (50, 50))
    assert cluster.status["phase"] == "Progressing"


def test_a_lost_candidate_after_the_promotion_gives_way_and_returns_when_it_is_steady() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.replicas() == 1)
    cluster.ready["stack"] = 0
    cluster.run(lambda: cluster.weights() == (100, 0))
    cluster.run(lambda: cluster.replicas() == 3)
    assert cluster.status["phase"] == "Promoted" and "ArmLost" in cluster.world.events()
    del cluster.ready["stack"]
    cluster.run(lambda: cluster.weights() == (0, 100))


def test_a_lost_baseline_in_the_middle_freezes_and_its_traffic_is_served() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.status.get("step") == 2 and cluster.status.get("stepStartedAt") is not None)
    cluster.ready["vllm"] = 0
    cluster.run(cluster.phase("Frozen"))
    cluster.run(lambda: cluster.weights() == (0, 100))
    assert conditions(cluster.status)["Frozen"] == ("True", "BaselineNotReady")
    del cluster.ready["vllm"]
    cluster.run(lambda: cluster.weights() == (80, 20))
    cluster.run(cluster.phase("Promoted"))


def test_without_a_gateway_api_it_says_so_and_begins_when_there_is_one() -> None:
    cluster = Cluster()
    cluster.gateway_api = False
    cluster.run(lambda: "Stalled" in conditions(cluster.status) if cluster.status else False)
    assert "gateway.networking.k8s.io" in cluster.status["message"]
    assert conditions(cluster.status)["Stalled"][1] == "FeatureMissing" and not cluster.world.all(HTTP_ROUTE)
    cluster.gateway_api = True
    cluster.control(pause=False)
    cluster.run(cluster.phase("Promoted"))


def test_without_a_source_of_verdicts_it_freezes_and_a_human_can_promote() -> None:
    cluster = Cluster(policy={"freeze": {"for": "1h", "then": "hold"}})
    cluster.process.controller._verdicts = NoVerdicts()
    cluster.run(cluster.phase("Frozen"))
    assert conditions(cluster.status)["Frozen"][1] == "NoSamples" and "no source" in cluster.status["message"]
    cluster.control(promote=True)
    cluster.run(cluster.phase("Promoted"))


def test_an_operator_that_was_started_anew_has_a_minute_before_a_verdict_is_missed() -> None:
    cluster = Cluster(lambda _step: "inconclusive")
    cluster.run(lambda: cluster.status.get("stepStartedAt") is not None)
    began = cluster.world.now
    cluster.run(lambda: cluster.world.now >= began + 600)
    anew = cluster.world.now

    class Anew:
        def latest(self, step: StepAsked) -> Reading:
            return Reading(begun=anew)

        def outage(self, arms: ArmsAsked) -> None:
            return None

    cluster.process.stop()
    cluster.process = cluster.started()
    cluster.process.controller._verdicts = Anew()
    cluster.run(cluster.phase("Frozen"))
    assert SAMPLES_SECONDS < cluster.world.now - anew <= SAMPLES_SECONDS + 10
    assert f"no verdict on this step since {format_time(anew)}" in cluster.status["message"]


def test_an_arm_that_the_gateway_cannot_connect_to_loses_its_traffic_at_once_and_has_it_back_when_it_is_steady() -> (
    None
):
    cluster = Cluster(lambda step: "pass" if step.number < 3 else "inconclusive")
    cluster.run(lambda: cluster.weights() == (50, 50) and cluster.status.get("stepStartedAt") is not None)
    cluster.script.out = Outage("candidate", "no connect")
    began = cluster.world.now
    cluster.run(lambda: cluster.weights() == (100, 0))
    assert cluster.world.now - began <= LOOK_SECONDS
    cluster.run(cluster.phase("Frozen"))
    told = conditions(cluster.status)
    assert told["Frozen"] == ("True", "CandidateUnreachable")
    assert told["CandidateReady"] == ("False", "CandidateUnreachable")
    assert "no connect" in cluster.status["message"] and "ArmUnreachable" in cluster.world.events()
    assert cluster.status["candidate"]["readyReplicas"] == 3, "so Kubernetes says"
    assert cluster.status.get("stepStartedAt") is None, "its samples are void"
    cluster.script.out, back = None, cluster.world.now
    cluster.run(lambda: cluster.weights() == (50, 50))
    assert cluster.world.now - back >= STEADY_SECONDS
    cluster.run(cluster.phase("Progressing"))
    assert cluster.status["step"] == 3 and "RolledBack" not in cluster.world.events()


def test_a_baseline_that_cannot_be_reached_gives_way_and_a_human_who_wants_it_back_has_it_back() -> None:
    cluster = Cluster(lambda step: "pass" if step.number == 1 else "inconclusive")
    cluster.run(lambda: cluster.weights() == (80, 20) and cluster.status.get("stepStartedAt") is not None)
    cluster.script.out = Outage("baseline", "no connect")
    cluster.run(lambda: cluster.weights() == (0, 100))
    cluster.run(cluster.phase("Frozen"))
    told = conditions(cluster.status)
    assert told["Frozen"][1] == "BaselineUnreachable" and told["BaselineReady"] == ("False", "BaselineUnreachable")
    cluster.control(abort=True)
    cluster.run(lambda: cluster.weights() == (100, 0))
    cluster.run(cluster.phase("RolledBack"))


@pytest.mark.parametrize(("step", "ready"), [(1, 3), (2, 2)], ids=["no share yet", "too few replicas"])
def test_a_suspicion_against_the_baseline_moves_nothing_that_the_candidate_may_not_have(step: int, ready: int) -> None:
    cluster = Cluster(lambda asked: "pass" if asked.number < step else "inconclusive")
    cluster.ready["stack"] = ready
    cluster.run(lambda: cluster.status.get("step") == step and cluster.status.get("stepStartedAt") is not None)
    cluster.script.out = Outage("baseline", "no connect")
    before, since = cluster.weights(), cluster.world.now
    cluster.run(lambda: cluster.world.now >= since + 60)
    assert cluster.weights() == before and cluster.status["phase"] == "Progressing"


def test_an_arm_without_endpoints_is_lost_whatever_the_records_say_of_the_other() -> None:
    cluster = Cluster(lambda step: "pass" if step.number == 1 else "inconclusive")
    cluster.run(lambda: cluster.weights() == (80, 20) and cluster.status.get("stepStartedAt") is not None)
    cluster.script.out = Outage("candidate", "no connect")
    cluster.run(lambda: cluster.weights() == (100, 0))
    cluster.ready["vllm"] = 0
    cluster.run(lambda: cluster.weights() == (0, 100))
    assert cluster.status["phase"] == "Frozen"


def test_a_frozen_rollout_goes_back_when_its_time_is_over() -> None:
    cluster = Cluster(lambda step: "error" if step.number == 2 else "pass", policy={"freeze": {"for": "5m"}})
    cluster.run(cluster.phase("Frozen"))
    since = cluster.world.now
    assert cluster.weights() == (80, 20)
    cluster.run(cluster.phase("RolledBack"))
    assert 299 <= cluster.world.now - since <= 320


def test_a_route_that_is_refused_stops_everything() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.status.get("step") == 1 and cluster.status.get("stepStartedAt") is not None)
    cluster.refuses = "NoMatchingListenerHostname"
    cluster.run(cluster.phase("Frozen"))
    assert "NoMatchingListenerHostname" in cluster.status["message"]
    assert conditions(cluster.status)["RouteAccepted"] == ("False", "RouteNotAccepted")
    assert cluster.status["candidate"]["weight"] == 0


def test_the_older_of_two_rollouts_has_the_route() -> None:
    cluster = Cluster(lambda _step: "inconclusive")
    cluster.run(lambda: cluster.status.get("step") == 1)
    second = rollout("second", candidate={"service": "other", "contentHash": "sha256:" + "b" * 64})
    cluster.world.now += 5
    cluster.world.add(service("other"))
    cluster.world.add(endpoints("other", 1))
    cluster.world.add(second)
    cluster.run(
        lambda: "Stalled" in conditions(cluster.world.one(ROLLOUT, "second").get("status") or {"conditions": []})
    )
    status = cluster.world.one(ROLLOUT, "second")["status"]
    assert conditions(status)["Stalled"] == ("True", "RouteConflict") and "team-a/editor" in status["message"]
    assert len(cluster.world.all(HTTP_ROUTE)) == 1
    cluster.control(abort=True)
    cluster.run(cluster.phase("RolledBack"))
    cluster.script.says = lambda _step: "pass"
    cluster.run(lambda: cluster.world.one(ROLLOUT, "second")["status"]["phase"] == "Progressing")
    assert cluster.route["metadata"]["annotations"]["sartor.dev/rollout"] == "second"


def test_changes_by_hand_are_put_back_and_said() -> None:
    cluster = Cluster(lambda _step: "inconclusive")
    cluster.run(lambda: cluster.status.get("step") == 1 and cluster.status.get("stepStartedAt") is not None)
    cluster.world.now += 30
    name = names.name_of(cluster.route)

    def steal(route: dict[str, Any]) -> None:
        route["spec"]["rules"][0]["backendRefs"][0]["weight"] = 10
        route["spec"]["rules"][0]["backendRefs"][1]["weight"] = 90

    writes: list[float] = []
    for _ in range(40):  # somebody fights for it, every second
        cluster.world.edit(HTTP_ROUTE, name, steal)
        before = len(cluster.world.writes)
        cluster.run(lambda: True)
        if any(w.startswith("apply HTTPRoute") for w in cluster.world.writes[before:]):
            writes.append(cluster.world.now)
        cluster.world.now += 1
        cluster.process.wake()
    assert 2 <= len(writes) <= 5, writes
    assert "RouteChanged" in cluster.world.events()
    assert conditions(cluster.status)["Frozen"][1] == "RouteConflict"
    cluster.run(lambda: cluster.weights() == (100, 0) and cluster.status["phase"] == "Progressing")


def test_a_deleted_rollout_gives_the_traffic_back_first() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.replicas() == 1)
    assert cluster.world.one(ROLLOUT, "editor")["metadata"]["finalizers"] == [FINALIZER]
    gone = format_time(cluster.world.now)
    cluster.world.edit(ROLLOUT, "editor", lambda m: m["metadata"].update(deletionTimestamp=gone))
    cluster.run(lambda: not cluster.world.one(ROLLOUT, "editor")["metadata"]["finalizers"])
    assert cluster.weights() == (100, 0) and cluster.replicas() == 3
    assert cluster.world.one(HTTP_ROUTE), "the route carries the traffic, and stays"


def test_a_rollout_can_be_deleted_where_the_baseline_never_comes_back() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.replicas() == 1)
    cluster.ready["vllm"] = 0
    cluster.react()
    begun = cluster.world.now
    cluster.world.edit(ROLLOUT, "editor", lambda m: m["metadata"].update(deletionTimestamp=format_time(begun)))
    cluster.run(lambda: not cluster.world.one(ROLLOUT, "editor")["metadata"]["finalizers"])
    assert cluster.weights() == (0, 100), "what is ready keeps the traffic"
    assert 900 <= cluster.world.now - begun <= 930


def test_right_after_a_scale_down_endpoints_that_are_about_to_go_do_not_count() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.replicas() == 1)
    cluster.control(undo=True)  # and the Service still has three endpoints
    asyncio.run(cluster.process.controller.reconcile((ROLLOUT, "team-a", "editor")))
    assert cluster.weights() == (33, 67) and cluster.replicas() == 3


def test_a_candidate_that_loses_capacity_keeps_what_it_can_take() -> None:
    cluster = Cluster(lambda step: "inconclusive" if step.number == 3 else "pass")
    cluster.run(lambda: cluster.weights() == (50, 50) if cluster.world.all(HTTP_ROUTE) else False)
    cluster.ready["stack"] = 1
    cluster.run(lambda: cluster.weights() == (67, 33))
    assert conditions(cluster.status)["Frozen"][1] == "CandidateNotReady"
    since = cluster.world.now
    del cluster.ready["stack"]
    cluster.run(lambda: cluster.weights() == (50, 50))
    assert cluster.world.now - since >= 15, "it has to stay"


def test_a_candidate_that_comes_and_goes_does_not_scale_the_baseline_up_and_down() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.replicas() == 1)
    cluster.ready["stack"] = 2
    cluster.run(lambda: cluster.replicas() == 3)
    del cluster.ready["stack"]
    cluster.run(lambda: cluster.weights() == (0, 100))
    back = cluster.world.now
    cluster.run(lambda: cluster.replicas() == 1)
    assert cluster.world.now - back >= 570, "ready for scaleDownAfter, from when it came back"


def test_newer_figures_make_no_more_writes_than_looks_that_are_due() -> None:
    cluster = Cluster(lambda step: "inconclusive" if step.number == 2 else "pass", policy={"freeze": {"for": "1h"}})
    cluster.run(lambda: cluster.status.get("step") == 2 and cluster.status.get("stepStartedAt") is not None)
    latest, count = cluster.script.latest, itertools.count()

    def moves(step: StepAsked) -> Reading:
        cluster.world.now += 0.3  # and with every question there is more
        found = latest(step)
        return replace(found, candidate=replace(found.candidate, samples=next(count)))

    cluster.script.latest = moves  # type: ignore[method-assign]
    before, since = len(cluster.world.writes), cluster.world.now
    cluster.run(lambda: cluster.world.now > since + 100)
    written = cluster.world.writes[before:]
    assert 10 <= written.count("status ServingRollout editor") <= 25, written
    assert cluster.status["candidate"]["samples"] > 10


def test_a_clock_that_goes_back_does_not_stop_a_rollout_for_as_long() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.status.get("step") == 2 and cluster.status.get("stepStartedAt") is not None)
    cluster.world.now -= 7200
    began = cluster.world.now
    cluster.process.wakes = dict.fromkeys(cluster.process.wakes, cluster.world.now)
    cluster.process.wake()
    cluster.run(lambda: "RolloutFrozen" in cluster.world.events())
    frozen = next(e for e in cluster.world.all(EVENT) if e["reason"] == "RolloutFrozen")
    assert frozen["message"].startswith("ClockJumped") and cluster.weights() == (80, 20)
    cluster.run(cluster.phase("Promoted"))
    assert 40 <= cluster.world.now - began <= 200, "steps 2 and 3 are taken anew, by the clock as it is"


def test_a_way_back_that_takes_too_long_says_so_once() -> None:
    cluster = Cluster(lambda step: "fail" if step.number == 2 else "pass")
    cluster.run(cluster.phase("RollingBack"))
    cluster.refuses = "NoMatchingParent"
    cluster.run(lambda: "Stalled" in conditions(cluster.status))
    cluster.run(lambda: cluster.world.now > START + 3600)
    message = cluster.status["message"]
    assert cluster.status["phase"] == "RollingBack" and message.count("longer than the progress deadline") == 1
    assert "it is a fail" in message and cluster.weights() == (100, 0)
    cluster.refuses = ""
    cluster.run(cluster.phase("RolledBack"))
    assert "deadline" not in cluster.status["message"]


def test_a_tool_that_replaces_the_route_is_not_fought_without_bound() -> None:
    cluster = Cluster(lambda step: "inconclusive" if step.number == 2 else "pass")
    cluster.run(lambda: cluster.status.get("step") == 2 and cluster.status.get("stepStartedAt") is not None)
    name = names.name_of(cluster.route)
    put_back: list[float] = []
    for _ in range(60):
        before = len(cluster.world.writes)
        cluster.world.edit(HTTP_ROUTE, name, lambda m: m["metadata"].update(annotations={}))
        cluster.run(lambda: True)
        if any(w.startswith("apply HTTPRoute") for w in cluster.world.writes[before:]):
            put_back.append(cluster.world.now)
        cluster.world.now += 1
        cluster.process.wake()
    assert len(put_back) >= 4 and all(b - a >= 10 for a, b in itertools.pairwise(put_back)), put_back
    assert cluster.weights() == (80, 20)
    assert conditions(cluster.status)["Frozen"][1] == "RouteConflict"


def test_nothing_is_written_when_nothing_happens() -> None:
    cluster = Cluster()
    cluster.run(lambda: cluster.replicas() == 1)
    cluster.run(lambda: not cluster.react() and not cluster.process.keys)
    before = len(cluster.world.writes)
    for key in list(cluster.process.cache._objects[ROLLOUT]):
        cluster.process.keys[ROLLOUT, key[0], key[1]] = None
    cluster.run(lambda: True)
    assert len(cluster.world.writes) == before, cluster.world.writes[before:]


def test_events_are_documented() -> None:
    cluster = Cluster(lambda step: "fail" if step.number == 3 else "pass")
    cluster.run(cluster.phase("RolledBack"))
    for event in cluster.world.all(EVENT):
        assert event["reason"] in EVENTS, json.dumps(event)


def test_a_pause_is_not_ended_by_a_lack_of_samples_but_by_a_verdict_that_fails() -> None:
    cluster = Cluster(lambda step: "error" if step.number == 2 else "pass", policy={"freeze": {"for": "1m"}})
    cluster.control(pause=True)
    cluster.run(lambda: "paused" in cluster.status.get("message", "") or cluster.status.get("phase") == "Pending")
    cluster.control(pause=False)
    cluster.run(lambda: cluster.status.get("step") == 2 and cluster.status.get("stepStartedAt") is not None)
    cluster.control(pause=True)
    since = cluster.world.now
    cluster.run(lambda: cluster.world.now > since + 600)
    assert cluster.status["phase"] == "Paused" and cluster.weights() == (80, 20)
    cluster.script.says = lambda _step: "fail"
    cluster.run(cluster.phase("RolledBack"))
    assert conditions(cluster.status)["Ready"][1] == "GuardrailFailed"


def test_bytes_that_were_rolled_back_get_no_traffic_as_a_baseline_either() -> None:
    """They were promoted when this rollout was made, and a human undid that before it began."""
    content = "sha256:" + "b" * 64

    def made() -> Cluster:
        cluster = Cluster(baseline={"service": "vllm", "deployment": "vllm", "contentHash": content})
        arms = {"baseline": {"service": "origin"}, "candidate": {"service": "vllm", "contentHash": content}}
        cluster.world.add(rollout("old", policy={"hostnames": ["old.example.com"]}, **arms))
        back = {"phase": "RolledBack", "step": 1, "finishedAt": format_time(START)}
        cluster.world.edit(ROLLOUT, "old", lambda m: m.update(status=back))
        return cluster

    cluster = made()
    cluster.run(cluster.phase("Failed"))
    assert conditions(cluster.status)["Stalled"] == ("True", "ContentRejected") and "old" in cluster.status["message"]
    assert cluster.world.all(HTTP_ROUTE) == []
    cluster.world.remove((ROLLOUT, "team-a", "old"))
    cluster.run(cluster.phase("Progressing"))

    serves = made()  # but what they have already they may keep: it is the way out
    name = route_name(RolloutPolicy.model_validate(POLICY), "team-a")
    rule = {"matches": [{"path": {"value": "/"}}], "backendRefs": [{"name": "vllm", "port": 8000, "weight": 100}]}
    meta = {"name": name, "namespace": "team-a"}
    kind = {"apiVersion": HTTP_ROUTE.api_version, "kind": HTTP_ROUTE.kind}
    serves.world.add({**kind, "metadata": meta, "spec": {"rules": [rule]}})
    serves.run(serves.phase("Progressing"))
