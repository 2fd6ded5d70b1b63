"""The HTTPRoute of a rollout: its manifest, and what one in the cluster says.

Rules of an HTTPRoute are an atomic list, so the whole route has one owner, by server-side apply. What was meant is written
beside it, in an annotation: weights, mirror and the arms that may be asked for by header (its *shape*). A route whose rules
are not those of its shape was changed by somebody else.

The route belongs to no object: it carries the traffic, and outlives the rollout, which gives it back to the baseline before
it goes. Its name follows from where it is attached, so that one rollout after the other uses the same route, and the gateway
never has to choose between two.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from sartor_api.probe import COPIES_PORT
from sartor_api.rollout_policy import ParentReference, RolloutPolicy
from sartor_api.serving_rollout import Arm, ServingRolloutSpec
from sartor_operator import names
from sartor_operator.drift import covers
from sartor_operator.kinds import HTTP_ROUTE, Manifest

SHAPE_ANNOTATION = "sartor.dev/shape"
ROLLOUT_ANNOTATION = "sartor.dev/rollout"
UID_ANNOTATION = "sartor.dev/rollout-uid"
DIGEST_ANNOTATION = "sartor.dev/route-digest"
BASELINE_VALUE = "baseline"
"""Value of the opt-in header that asks for the baseline."""
RETRY = "HTTPRouteRetry"
SESSION_PERSISTENCE = "HTTPRouteSessionPersistence"
MIRROR = "HTTPRouteRequestMirror"
PERCENTAGE_MIRROR = "HTTPRouteRequestPercentageMirror"
REQUEST_TIMEOUT = "HTTPRouteRequestTimeout"
_RETRIED = (503,)
"""Codes that are tried once more: an engine says 503 before it has begun, so that nothing is done twice. A stream that
has begun is never repeated, by any gateway."""


@dataclass(frozen=True)
class Weights:
    """Per cent of the traffic of each arm."""

    baseline: int
    candidate: int


@dataclass(frozen=True)
class Shape:
    """What a route does. `mirror`: per cent of the requests that the candidate gets as a copy. `probe`: the Service that
    gets a copy of every request instead; empty without one. `ask_*`: whether clients may ask for that arm by header.
    `*_there`: whether the Service exists; one that does not is not named. `timeouts`, `retry`, `sticky`: fields that the
    gateway's class supports."""

    baseline: int
    candidate: int
    mirror: int = 0
    ask_baseline: bool = False
    ask_candidate: bool = False
    baseline_there: bool = True
    candidate_there: bool = True
    timeouts: bool = True
    retry: bool = False
    sticky: bool = False
    probe: str = ""

    @property
    def weights(self) -> Weights:
        return Weights(self.baseline, self.candidate)


Acceptance = Literal["accepted", "pending", "refused"]


@dataclass(frozen=True)
class RouteSeen:
    """The route as it is. `shape` is what its last writer of ours meant, `touched` that it does something else by now,
    `outdated` that the rollout wants it otherwise (hosts, say) since then."""

    name: str
    uid: str
    generation: int
    weights: Weights | None
    """None where what the route does is none of the two arms' sharing 100 per cent."""
    shape: Shape | None
    touched: bool
    mine: bool
    acceptance: Acceptance
    message: str = ""
    outdated: bool = False
    copies: frozenset[str] = frozenset()
    """Services that get copies of requests, whoever wrote that."""

    @property
    def accepted(self) -> bool:
        return self.acceptance == "accepted"


# --- names and claims -----------------------------------------------------------------------------------------------


def parents(policy: RolloutPolicy, namespace: str) -> list[tuple[str, str]]:
    """(namespace, name) of the Gateways of a rollout in `namespace`."""
    return [(parent.namespace or namespace, parent.name) for parent in policy.parent_refs or ()]


def route_name(policy: RolloutPolicy, namespace: str) -> str:
    """The name of the route for these parents, hosts and paths: whoever routes the same uses the same object."""
    claim = names.canonical(
        [
            sorted(
                [*place, parent.section_name or "", str(parent.port or "")]
                for place, parent in _placed(policy, namespace)
            ),
            sorted(policy.hostnames),
            policy.path_prefix,
        ]
    )
    first = next((host.removeprefix("*.") for host in policy.hostnames), None) or parents(policy, namespace)[0][1]
    return names.child_name(first.replace(".", "-"), claim)


def _placed(policy: RolloutPolicy, namespace: str) -> Iterable[tuple[tuple[str, str], ParentReference]]:
    return zip(parents(policy, namespace), policy.parent_refs or (), strict=True)


def overlap(one: RolloutPolicy, other: RolloutPolicy, namespaces: tuple[str, str]) -> bool:
    """Whether some request could match the routes of both."""
    if one.path_prefix != other.path_prefix:
        return False
    if one.hostnames and other.hostnames and not set(one.hostnames) & set(other.hostnames):
        return False
    return any(
        place == where
        and (a.section_name is None or b.section_name is None or a.section_name == b.section_name)
        and (a.port is None or b.port is None or a.port == b.port)
        for place, a in _placed(one, namespaces[0])
        for where, b in _placed(other, namespaces[1])
    )


# --- writing --------------------------------------------------------------------------------------------------------


def route_manifest(rollout: Manifest, spec: ServingRolloutSpec, name: str, shape: Shape) -> Manifest:
    """The whole route, for server-side apply by one manager."""
    meta = rollout["metadata"]
    routed = route_spec(spec, shape)
    return {
        "apiVersion": HTTP_ROUTE.api_version,
        "kind": HTTP_ROUTE.kind,
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": {names.MANAGED_BY: names.SARTOR},
            "annotations": {
                ROLLOUT_ANNOTATION: meta["name"],
                UID_ANNOTATION: meta["uid"],
                SHAPE_ANNOTATION: names.canonical(asdict(shape)),
                DIGEST_ANNOTATION: names.digest(names.canonical(routed)),
            },
        },
        "spec": routed,
    }


def route_spec(spec: ServingRolloutSpec, shape: Shape) -> Manifest:
    """The spec of the route: one rule by weight, and one for each arm that may be asked for by header.

    A rule with a header match is more specific, and wins over the weights.
    """
    policy = spec.policy
    rules = [_rule(spec, shape, None, _backends(spec, shape))]
    header = policy.header_opt_in
    if shape.ask_candidate:
        rules.append(_rule(spec, shape, header.value, [_backend(spec.candidate, 100)]))
    if shape.ask_baseline and header.value != BASELINE_VALUE:
        rules.append(_rule(spec, shape, BASELINE_VALUE, [_backend(spec.baseline, 100)]))
    return {
        "parentRefs": [_parent(parent) for parent in policy.parent_refs or ()],
        "hostnames": list(policy.hostnames),  # also where there is none: a list that is not ours would stay
        "rules": rules,
    }


def _parent(parent: ParentReference) -> Manifest:
    named = {"group": HTTP_ROUTE.group, "kind": "Gateway", "name": parent.name}
    given = {"namespace": parent.namespace, "sectionName": parent.section_name, "port": parent.port}
    return named | {key: value for key, value in given.items() if value is not None}


def _backends(spec: ServingRolloutSpec, shape: Shape) -> list[Manifest]:
    """Both arms, that of weight 0 too: a gateway that forgets a cluster at once would cut its streams."""
    made: list[Manifest] = []
    if shape.baseline_there or shape.baseline:
        made.append(_backend(spec.baseline, shape.baseline))
    if shape.candidate_there or shape.candidate:
        made.append(_backend(spec.candidate, shape.candidate))
    return made


def _backend(arm: Arm, weight: int | None) -> Manifest:
    named: Manifest = {"group": "", "kind": "Service", "name": arm.service, "port": arm.port}
    return named if weight is None else {**named, "weight": weight}


def _rule(spec: ServingRolloutSpec, shape: Shape, asked: str | None, backends: list[Manifest]) -> Manifest:
    policy = spec.policy
    match: Manifest = {"path": {"type": "PathPrefix", "value": policy.path_prefix}}
    if asked is not None:
        match["headers"] = [{"type": "Exact", "name": policy.header_opt_in.name, "value": asked}]
    rule: Manifest = {"matches": [match], "backendRefs": backends}
    if asked is None and shape.probe:
        # No per cent: the probe chooses for itself, since not every gateway keeps to one.
        copies: Manifest = {"group": "", "kind": "Service", "name": shape.probe, "port": COPIES_PORT}
        rule["filters"] = [{"type": "RequestMirror", "requestMirror": {"backendRef": copies}}]
    elif asked is None and shape.mirror:
        copy: Manifest = {"backendRef": _backend(spec.candidate, None)}
        if shape.mirror < 100:
            copy["percent"] = shape.mirror
        rule["filters"] = [{"type": "RequestMirror", "requestMirror": copy}]
    if shape.timeouts:
        # No limit: a stream lasts as long as its answer, and the engines bound that.
        rule["timeouts"] = {"request": "0s"}
    if shape.retry:
        rule["retry"] = {"codes": list(_RETRIED), "attempts": 1}
    if shape.sticky and policy.sticky_sessions is not None and asked is None:
        kind = "Cookie" if policy.sticky_sessions.by == "cookie" else "Header"
        rule["sessionPersistence"] = {"type": kind, "sessionName": policy.sticky_sessions.name}
    return rule


# --- reading --------------------------------------------------------------------------------------------------------


def read_route(there: Manifest, rollout: Manifest, spec: ServingRolloutSpec, *, begun: bool) -> RouteSeen:
    """What a route in the cluster does, who wrote it, and whether its Gateways take it.

    `begun`: the rollout has moved traffic, so the route was its own, and one that is not was changed by somebody else.
    """
    meta = there["metadata"]
    annotations: Mapping[str, str] = meta.get("annotations") or {}
    shape = read_shape(annotations.get(SHAPE_ANNOTATION, ""))
    mine = annotations.get(UID_ANNOTATION) == names.uid(rollout)
    found: Manifest = there.get("spec") or {}
    wanted = None if shape is None else route_spec(spec, shape)
    outdated = wanted is not None and names.digest(names.canonical(wanted)) != annotations.get(DIGEST_ANNOTATION)
    touched = wanted is None or (not outdated and not covers(wanted, found))
    acceptance, message = accepted(there, spec.policy)
    return RouteSeen(
        name=names.name_of(there),
        uid=names.uid(there),
        generation=int(meta.get("generation", 1)),
        weights=read_weights(found, spec),
        shape=shape,
        touched=touched if mine else begun,
        mine=mine,
        acceptance=acceptance,
        message=message,
        outdated=outdated,
        copies=read_copies(found),
    )


def read_shape(text: str) -> Shape | None:
    """The shape in an annotation; None for what none of ours wrote."""
    try:
        data = json.loads(text)
        return Shape(**data) if set(data) <= {field.name for field in fields(Shape)} else None
    except (ValueError, TypeError):
        return None


def route_shares(route: Mapping[str, Any]) -> dict[str, int]:
    """Per cent that each Service gets of the requests without an opt-in header, rounded up; 0 for one that a route merely
    names (the other arm, a mirror, a rule for a header). Several rules: the most that it gets of one of them."""
    shares: dict[str, int] = {}
    for rule in (route.get("spec") or {}).get("rules") or ():
        named = [(backend, int(backend.get("weight", 1))) for backend in rule.get("backendRefs") or ()]
        asked = any(m.get("headers") for m in rule.get("matches") or ())
        total = 0 if asked else sum(weight for _, weight in named)
        named += [((f.get("requestMirror") or {}).get("backendRef") or {}, 0) for f in rule.get("filters") or ()]
        for backend, weight in named:
            if name := str(backend.get("name") or ""):
                shares[name] = max(shares.get(name, 0), -(-100 * weight // total) if total else 0)
    return shares


def read_weights(route: Mapping[str, Any], spec: ServingRolloutSpec) -> Weights | None:
    """The weights of the rule that has no header match; None where they are not those of the two arms alone."""
    rules = [r for r in route.get("rules") or () if not any(m.get("headers") for m in r.get("matches") or ())]
    if len(rules) != 1:
        return None
    share: dict[str, int] = {}
    for backend in rules[0].get("backendRefs") or ():
        share[str(backend.get("name"))] = share.get(str(backend.get("name")), 0) + int(backend.get("weight", 1))
    total = sum(share.values())
    arms = (share.pop(spec.baseline.service, 0), share.pop(spec.candidate.service, 0))
    if total <= 0 or any(share.values()):
        return None
    baseline = round(100 * arms[0] / total)
    return Weights(baseline, 100 - baseline)


def read_copies(route: Mapping[str, Any]) -> frozenset[str]:
    """Names of the Services that a route's spec sends copies of requests to."""
    filters = [one for rule in route.get("rules") or () for one in rule.get("filters") or ()]
    found = [((one.get("requestMirror") or {}).get("backendRef") or {}).get("name") for one in filters]
    return frozenset(str(name) for name in found if name)


def accepted(route: Manifest, policy: RolloutPolicy) -> tuple[Acceptance, str]:
    """Whether every Gateway that is named took the route of this very generation, and knows its backends."""
    meta = route["metadata"]
    generation = int(meta.get("generation", 1))
    said = (route.get("status") or {}).get("parents") or ()
    waits = ""
    for (namespace, name), parent in _placed(policy, str(meta["namespace"])):
        found = [
            p for p in said if _same_parent(p.get("parentRef") or {}, namespace, name, parent, str(meta["namespace"]))
        ]
        if not found:
            waits = waits or f"Gateway {namespace}/{name} has not said anything of the route"
            continue
        state, message = _parent_state(found, generation)
        if state == "refused":
            return "refused", f"Gateway {namespace}/{name}: {message}"
        if state == "pending":
            waits = waits or f"Gateway {namespace}/{name} has not taken generation {generation} of the route yet"
    return ("pending", waits) if waits else ("accepted", "")


def _same_parent(said: Manifest, namespace: str, name: str, parent: ParentReference, own: str) -> bool:
    return (
        said.get("name") == name
        and (said.get("namespace") or own) == namespace
        and said.get("sectionName") == parent.section_name
        and said.get("port") == parent.port
    )


def _parent_state(said: Iterable[Manifest], generation: int) -> tuple[Acceptance, str]:
    """Of one Gateway; where several controllers speak for it, all have to take the route."""
    state: Acceptance = "accepted"
    for entry in said:
        conditions: dict[str, Manifest] = {str(c.get("type")): c for c in entry.get("conditions") or ()}
        for kind in ("Accepted", "ResolvedRefs"):
            one = conditions.get(kind)
            if one is None or int(one.get("observedGeneration", 0)) != generation or one.get("status") == "Unknown":
                state = "pending"
            elif one.get("status") != "True":
                return "refused", f"{kind} is {one.get('status')}: {one.get('reason')}: {one.get('message', '')}"
        partly = conditions.get("PartiallyInvalid")
        if (
            partly is not None
            and partly.get("status") == "True"
            and int(partly.get("observedGeneration", 0)) == generation
        ):
            return "refused", f"PartiallyInvalid: {partly.get('reason')}: {partly.get('message', '')}"
    return state, ""
