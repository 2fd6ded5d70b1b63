"""The HTTPRoute of a rollout: what is written, and what is believed of one that is there."""

import copy
import json
from typing import Any

import pytest

from sartor_api.rollout_policy import RolloutPolicy
from sartor_api.serving_rollout import ServingRolloutSpec
from sartor_operator.rollout.observed import missing_features
from sartor_operator.rollout.route import (
    Shape,
    Weights,
    accepted,
    overlap,
    read_route,
    read_shape,
    read_weights,
    route_manifest,
    route_name,
    route_spec,
)

ROLLOUT = {"metadata": {"name": "editor", "namespace": "team-a", "uid": "u1"}}
PARENT = {"name": "inference", "namespace": "gateways"}


def spec(**policy: Any) -> ServingRolloutSpec:
    return ServingRolloutSpec.model_validate(
        {
            "baseline": {"service": "vllm", "port": 8000},
            "candidate": {"service": "stack", "port": 9000},
            "policy": {"parentRefs": [PARENT], **policy},
        }
    )


def stored(shape: Shape, wanted: ServingRolloutSpec | None = None) -> dict[str, Any]:
    """A route as the API server would hold it, with what it fills in."""
    manifest = copy.deepcopy(route_manifest(ROLLOUT, wanted or spec(), "r", shape))
    manifest["metadata"] |= {"uid": "r1", "generation": 7}
    return manifest


def with_status(route: dict[str, Any], *conditions: tuple[str, str, int], **parent: Any) -> dict[str, Any]:
    said = [{"type": t, "status": s, "observedGeneration": g, "reason": "R", "message": "M"} for t, s, g in conditions]
    return {**route, "status": {"parents": [{"parentRef": {**PARENT, **parent}, "conditions": said}]}}


BOTH = (("Accepted", "True", 7), ("ResolvedRefs", "True", 7))


def test_weights_and_no_limit_on_streams() -> None:
    made = route_spec(spec(), Shape(75, 25))
    assert len(made["rules"]) == 1
    rule = made["rules"][0]
    assert [(b["name"], b["port"], b["weight"]) for b in rule["backendRefs"]] == [
        ("vllm", 8000, 75),
        ("stack", 9000, 25),
    ]
    assert rule["timeouts"] == {"request": "0s"} and "retry" not in rule and "filters" not in rule
    assert made["hostnames"] == []


def test_an_arm_without_weight_stays_named_while_its_service_is_there() -> None:
    assert [b["weight"] for b in route_spec(spec(), Shape(100, 0))["rules"][0]["backendRefs"]] == [100, 0]
    gone = route_spec(spec(), Shape(100, 0, candidate_there=False))["rules"][0]["backendRefs"]
    assert [b["name"] for b in gone] == ["vllm"]


def test_a_mirror_takes_a_share_of_the_requests() -> None:
    filters = route_spec(spec(), Shape(100, 0, mirror=5))["rules"][0]["filters"]
    ref = {"group": "", "kind": "Service", "name": "stack", "port": 9000}
    assert filters == [{"type": "RequestMirror", "requestMirror": {"backendRef": ref, "percent": 5}}]
    everything = route_spec(spec(), Shape(100, 0, mirror=100))["rules"][0]["filters"]
    assert "percent" not in everything[0]["requestMirror"], "all is what a mirror without percent means"


def test_a_probe_gets_a_copy_of_everything_and_only_of_what_the_weights_route() -> None:
    made = route_spec(spec(), Shape(90, 10, mirror=5, ask_candidate=True, probe="probe-editor"))
    ref = {"group": "", "kind": "Service", "name": "probe-editor", "port": 8000}
    assert made["rules"][0]["filters"] == [{"type": "RequestMirror", "requestMirror": {"backendRef": ref}}]
    assert "filters" not in made["rules"][1], "who asks for an arm is not copied"
    shape = Shape(90, 10, probe="probe-editor")
    assert read_shape(json.dumps({"baseline": 90, "candidate": 10})) == Shape(90, 10), (
        "one that was written before there were probes"
    )
    seen = read_route(stored(shape), ROLLOUT, spec(), begun=True)
    assert seen.shape == shape and not seen.touched and seen.copies == {"probe-editor"}
    bare = stored(shape)
    bare["metadata"]["annotations"] = {}
    assert read_route(bare, ROLLOUT, spec(), begun=True).copies == {"probe-editor"}, "whatever is written beside it"
    without = stored(shape)
    del without["spec"]["rules"][0]["filters"]
    assert read_route(without, ROLLOUT, spec(), begun=True).touched


def test_clients_may_ask_for_either_arm() -> None:
    made = route_spec(
        spec(headerOptIn={"name": "x-arm", "value": "new"}), Shape(90, 10, ask_baseline=True, ask_candidate=True)
    )
    asked = {r["matches"][0]["headers"][0]["value"]: r["backendRefs"] for r in made["rules"][1:]}
    assert {value: [(b["name"], b["weight"]) for b in refs] for value, refs in asked.items()} == {
        "new": [("stack", 100)],
        "baseline": [("vllm", 100)],
    }
    assert all(r["matches"][0]["headers"][0]["name"] == "x-arm" for r in made["rules"][1:])


def test_retries_and_sessions_only_where_asked_for() -> None:
    wanted = spec(stickySessions={"by": "cookie", "name": "sid"})
    rule = route_spec(wanted, Shape(90, 10, retry=True, sticky=True))["rules"][0]
    assert rule["retry"] == {"codes": [503], "attempts": 1}
    assert rule["sessionPersistence"] == {"type": "Cookie", "sessionName": "sid"}


def test_a_route_that_is_as_written_is_not_touched_and_its_weights_are_read_back() -> None:
    shape = Shape(80, 20, mirror=3, ask_candidate=True)
    route = stored(shape)
    route["spec"]["rules"][0]["matches"][0]["method"] = "POST"  # something that the API server could fill in
    seen = read_route(with_status(route, *BOTH), ROLLOUT, spec(), begun=True)
    assert (seen.shape, seen.weights, seen.touched, seen.mine, seen.accepted) == (
        shape,
        Weights(80, 20),
        False,
        True,
        True,
    )


@pytest.mark.parametrize("change", ["weight", "rule", "hostnames", "parent"])
def test_what_somebody_else_changed_is_seen(change: str) -> None:
    route = stored(Shape(80, 20))
    match change:
        case "weight":
            route["spec"]["rules"][0]["backendRefs"][1]["weight"] = 50
        case "rule":
            route["spec"]["rules"].append(route["spec"]["rules"][0])
        case "hostnames":
            route["spec"]["hostnames"] = ["other.example.com"]
        case _:
            route["spec"]["parentRefs"] = []
    assert read_route(route, ROLLOUT, spec(), begun=True).touched


def test_a_changed_policy_is_no_change_by_somebody_else() -> None:
    seen = read_route(stored(Shape(80, 20)), ROLLOUT, spec(hostnames=["a.example.com"]), begun=True)
    assert seen.outdated and not seen.touched


def test_the_route_of_another_rollout_is_not_mine() -> None:
    other = {"metadata": {**ROLLOUT["metadata"], "uid": "u2"}}
    seen = read_route(stored(Shape(80, 20)), other, spec(), begun=False)
    assert not seen.mine and not seen.touched and seen.weights == Weights(80, 20)
    assert read_route(stored(Shape(80, 20)), other, spec(), begun=True).touched, "it was ours when traffic moved"


@pytest.mark.parametrize(
    ("refs", "weights"),
    [
        ([("vllm", 100), ("stack", 0)], Weights(100, 0)),
        ([("vllm", 1), ("stack", 1)], Weights(50, 50)),
        ([("vllm", 100)], Weights(100, 0)),
        ([("vllm", 90), ("third", 10)], None),
        ([("vllm", 0), ("stack", 0)], None),
        ([], None),
    ],
)
def test_weights_are_those_of_the_arms_alone(refs: list[tuple[str, int]], weights: Weights | None) -> None:
    rule = {"matches": [{"path": {"value": "/"}}], "backendRefs": [{"name": n, "weight": w} for n, w in refs]}
    assert read_weights({"rules": [rule]}, spec()) == weights


@pytest.mark.parametrize("text", ["", "x", "[]", '{"baseline": 1}', '{"baseline": 100, "candidate": 0, "other": 1}'])
def test_a_shape_that_nobody_of_ours_wrote(text: str) -> None:
    assert read_shape(text) is None


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        (BOTH, "accepted"),
        ((), "pending"),
        ((("Accepted", "True", 7),), "pending"),
        ((("Accepted", "True", 6), ("ResolvedRefs", "True", 7)), "pending"),
        ((("Accepted", "Unknown", 7), ("ResolvedRefs", "True", 7)), "pending"),
        ((("Accepted", "False", 6), ("ResolvedRefs", "True", 7)), "pending"),
        ((("Accepted", "False", 7), ("ResolvedRefs", "True", 7)), "refused"),
        ((("Accepted", "True", 7), ("ResolvedRefs", "False", 7)), "refused"),
        ((*BOTH, ("PartiallyInvalid", "True", 7)), "refused"),
        ((*BOTH, ("PartiallyInvalid", "True", 6)), "accepted"),
    ],
)
def test_a_weight_is_believed_for_its_generation_only(conditions: Any, says: str) -> None:
    assert accepted(with_status(stored(Shape(100, 0)), *conditions), spec().policy)[0] == says


def test_every_gateway_that_is_named_has_to_accept() -> None:
    policy = spec(parentRefs=[PARENT, {"name": "second"}]).policy
    route = with_status(stored(Shape(100, 0)), *BOTH)
    state, message = accepted(route, policy)
    assert state == "pending" and "team-a/second" in message
    assert accepted(with_status(route, *BOTH, sectionName="https"), spec().policy)[0] == "pending", "another listener"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({"hostnames": ["a.example.com"]}, {"hostnames": ["b.example.com"]}, False),
        ({"hostnames": ["a.example.com"]}, {}, True),
        ({"pathPrefix": "/a"}, {"pathPrefix": "/b"}, False),
        ({"parentRefs": [{**PARENT, "sectionName": "x"}]}, {"parentRefs": [{**PARENT, "sectionName": "y"}]}, False),
        ({"parentRefs": [{**PARENT, "sectionName": "x"}]}, {}, True),
        ({"parentRefs": [{"name": "inference"}]}, {}, False),
    ],
)
def test_whether_two_rollouts_want_the_same_requests(one: Any, other: Any, same: bool) -> None:
    first, second = spec(**one).policy, spec(**other).policy
    assert overlap(first, second, ("team-a", "team-a")) is same
    assert overlap(second, first, ("team-a", "team-a")) is same


def test_the_name_follows_from_the_place() -> None:
    hosts = ["*.editor.example.com", "b.example.com"]
    name = route_name(spec(hostnames=hosts).policy, "team-a")
    assert name.startswith("editor-example-com-") and len(name) <= 63
    assert name == route_name(spec(hostnames=hosts, steps=[{"weight": 1}]).policy, "team-a")
    assert name != route_name(spec(hostnames=hosts, pathPrefix="/v1").policy, "team-a")


LOG_ALONE: dict[str, Any] = {"analysis": {"sources": ["gatewayAccessLog"]}}
"""Without a probe, so that the candidate itself is mirrored to."""


def policy(**fields: Any) -> RolloutPolicy:
    return spec(**fields).policy


@pytest.mark.parametrize(
    ("fields", "features", "missing"),
    [
        ({}, None, ()),
        ({}, frozenset({"HTTPRoute"}), ("HTTPRouteRequestMirror",)),
        ({}, frozenset({"HTTPRouteRequestMirror"}), ()),
        (LOG_ALONE, frozenset({"HTTPRoute"}), ("HTTPRouteRequestMirror",)),
        (LOG_ALONE, frozenset({"HTTPRouteRequestMirror"}), ("HTTPRouteRequestPercentageMirror",)),
        ({"steps": [{"mirror": 100}], **LOG_ALONE}, frozenset({"HTTPRouteRequestMirror"}), ()),
        ({"steps": [{"weight": 5}]}, frozenset({"HTTPRoute"}), ("HTTPRouteRequestMirror",)),
        ({"steps": [{"weight": 5}], **LOG_ALONE}, frozenset({"HTTPRoute"}), ()),
        ({"stickySessions": {"by": "header"}}, None, ("HTTPRouteSessionPersistence",)),
        ({"stickySessions": {"by": "contentHash"}}, None, ("stickySessions.by: contentHash",)),
    ],
)
def test_features_that_a_gateway_lacks_are_named(fields: Any, features: Any, missing: tuple[str, ...]) -> None:
    found = missing_features(policy(**fields), features)
    assert [text.partition(" (")[0] for text in found] == list(missing)
