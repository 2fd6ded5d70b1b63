"""Gathers what is known of one rollout from the cache."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sartor_api.conditions import ConditionType, Reason
from sartor_api.rollout_policy import RolloutPolicy
from sartor_api.serving_rollout import (
    Arm,
    RolloutPhase,
    ServingRollout,
    ServingRolloutSpec,
    ServingRolloutStatus,
)
from sartor_operator import names
from sartor_operator.cache import EVERYWHERE, Cache
from sartor_operator.kinds import DEPLOYMENT, GATEWAY, GATEWAY_CLASS, HTTP_ROUTE, ROLLOUT, SERVICE, Manifest
from sartor_operator.rollout.index import CONTENT_INDEX, GATEWAY_INDEX, OWNER_INDEX, ROUTE_INDEX
from sartor_operator.rollout.observed import (
    FULL_ANNOTATION,
    NOTHING_READ,
    ArmSeen,
    DeploymentSeen,
    RolloutObserved,
    Successor,
)
from sartor_operator.rollout.outage import suspects, with_outage
from sartor_operator.rollout.position import position_of, step_of
from sartor_operator.rollout.probe_seen import observe_probe, ready_endpoints
from sartor_operator.rollout.route import UID_ANNOTATION, RouteSeen, overlap, parents, read_route, route_name
from sartor_operator.rollout.samples import ArmsAsked, Reading, StepAsked, Verdicts
from sartor_operator.settings import Settings
from sartor_operator.understood import NotUnderstoodError, derived, understood


def named_deployments(manifest: Manifest) -> list[str]:
    """Names of the Deployments that the spec lets Sartor scale."""
    spec = manifest.get("spec") or {}
    return [str(name) for arm in ("baseline", "candidate") if (name := (spec.get(arm) or {}).get("deployment"))]


def observe_rollout(
    cache: Cache,
    verdicts: Verdicts,
    namespace: str,
    name: str,
    *,
    gateway_api: bool = True,
    fetched: Mapping[str, Manifest] | None = None,
    settings: Settings | None = None,
) -> RolloutObserved | None:
    """The rollout, or None when there is none (any more). Raises `NotUnderstoodError`.

    `fetched` are Deployments of users, which are not watched; `settings` say what a probe is made from.
    """
    manifest = cache.get(ROLLOUT, namespace, name)
    if manifest is None:
        return None
    plain = {"metadata": {"name": name}, "spec": manifest["spec"]}
    rollout = understood(ServingRollout, plain, f"ServingRollout {name}")
    policy = rollout.spec.policy
    observed = RolloutObserved(
        rollout=rollout,
        manifest=manifest,
        before=derived(ServingRolloutStatus, manifest.get("status")),
        wanted_name=route_name(policy, namespace),
        gateway_api=gateway_api,
        features=_features(cache, policy, namespace),
        baseline=_arm(cache, namespace, rollout.spec.baseline, fetched or {}),
        candidate=_arm(cache, namespace, rollout.spec.candidate, fetched or {}),
    )
    observed = replace(observed, probe=observe_probe(cache, observed, settings or Settings()))
    if suspects(observed):
        observed = with_outage(observed, verdicts.outage(_arms_asked(observed)))
    siblings = _siblings(cache, observed)
    return replace(
        observed,
        route=_route(cache, observed),
        reading=_reading(observed, verdicts),
        older=_older(observed, siblings),
        rejected_by=_rejected(cache, observed, observed.spec.candidate.content_hash),
        baseline_rejected_by=_rejected(cache, observed, observed.spec.baseline.content_hash),
        successor=_successor(cache, observed, siblings),
    )


def _reading(observed: RolloutObserved, verdicts: Verdicts) -> Reading:
    position = observed.position
    step = step_of(observed.policy, position.step)
    if step is None or position.step_started is None or position.stage != "steps":
        return NOTHING_READ
    probe = observed.probe
    return verdicts.latest(
        StepAsked(
            namespace=observed.namespace,
            name=observed.name,
            uid=names.uid(observed.manifest),
            number=step.number,
            kind=step.kind,
            since=position.step_started,
            weight=step.weight,
            spec=observed.spec,
            mirror=step.mirror,
            probe=probe.name if probe is not None and probe.wanted else "",
            probe_waits=probe.waits if probe is not None else "",
        )
    )


def _arms_asked(observed: RolloutObserved) -> ArmsAsked:
    return ArmsAsked(
        namespace=observed.namespace,
        name=observed.name,
        uid=names.uid(observed.manifest),
        spec=observed.spec,
        baseline_ready=observed.baseline.ready > 0,
        candidate_ready=observed.candidate.ready > 0,
    )


def _arm(cache: Cache, namespace: str, arm: Arm, fetched: Mapping[str, Manifest]) -> ArmSeen:
    # EndpointSlices that nobody owns outlive their Service; no gateway sends anything to them.
    there = cache.get(SERVICE, namespace, arm.service) is not None
    seen = ArmSeen(there=there, ready=ready_endpoints(cache, namespace, arm.service) if there else 0)
    if arm.deployment is None:
        return seen
    found = cache.get(DEPLOYMENT, namespace, arm.deployment) or fetched.get(arm.deployment)
    if found is None:
        return replace(seen, missing=arm.deployment)
    full = (found["metadata"].get("annotations") or {}).get(FULL_ANNOTATION, "")
    deployment = DeploymentSeen(
        name=arm.deployment,
        uid=names.uid(found),
        replicas=int((found.get("spec") or {}).get("replicas", 1)),
        full=int(full) if str(full).isdecimal() else None,
    )
    return replace(seen, deployment=deployment)


def _route(cache: Cache, observed: RolloutObserved) -> RouteSeen | None:
    """The route that this rollout wrote; before it has written one, the one that it would write."""
    uid = names.uid(observed.manifest)
    written = [
        route
        for route in cache.labelled(HTTP_ROUTE, observed.namespace, ROUTE_INDEX, observed.name)
        if (route["metadata"].get("annotations") or {}).get(UID_ANNOTATION) == uid
    ]
    found = written[0] if written else cache.get(HTTP_ROUTE, observed.namespace, observed.wanted_name)
    if found is None:
        return None
    return read_route(found, observed.manifest, observed.spec, begun=observed.position.step is not None)


def _features(cache: Cache, policy: RolloutPolicy, namespace: str) -> frozenset[str] | None:
    common: frozenset[str] | None = None
    for place, name in parents(policy, namespace):
        gateway = cache.get(GATEWAY, place, name)
        kind = str((gateway or {}).get("spec", {}).get("gatewayClassName", ""))
        said = ((cache.get(GATEWAY_CLASS, None, kind) or {}).get("status") or {}).get("supportedFeatures")
        if not said:
            return None
        found = frozenset(str(f["name"]) if isinstance(f, dict) else str(f) for f in said)
        common = found if common is None else common & found
    return common


# --- siblings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sibling:
    manifest: Manifest
    spec: ServingRolloutSpec
    status: ServingRolloutStatus

    @property
    def name(self) -> str:
        return names.name_of(self.manifest)

    @property
    def over(self) -> bool:
        """It does not want the route any more, or never got it."""
        return self.status.finished_at is not None or self.status.phase is RolloutPhase.FAILED


def _born(manifest: Manifest) -> tuple[str, str]:
    return str(manifest["metadata"].get("creationTimestamp", "")), names.uid(manifest)


def _siblings(cache: Cache, observed: RolloutObserved) -> list[_Sibling]:
    """Other rollouts whose routes could match the same requests, wherever they are."""
    found: dict[str, _Sibling] = {}
    for place, gateway in parents(observed.policy, observed.namespace):
        for other in cache.labelled(ROLLOUT, EVERYWHERE, GATEWAY_INDEX, f"{place}/{gateway}"):
            uid = names.uid(other)
            if uid == names.uid(observed.manifest) or uid in found:
                continue
            try:
                spec = understood(ServingRolloutSpec, other["spec"], "spec")
            except NotUnderstoodError:
                continue  # its own status says so; nothing is done for it, so it claims nothing
            spaces = (observed.namespace, str(other["metadata"]["namespace"]))
            if overlap(observed.policy, spec.policy, spaces):
                found[uid] = _Sibling(other, spec, derived(ServingRolloutStatus, other.get("status")))
    return list(found.values())


def _older(observed: RolloutObserved, siblings: list[_Sibling]) -> str:
    """Whoever has begun keeps the route; among those that have not, the oldest gets it."""

    def rank(manifest: Manifest, status: ServingRolloutStatus) -> tuple[bool, tuple[str, str]]:
        return position_of(status).stage == "pending", _born(manifest)

    mine = rank(observed.manifest, observed.before)
    first = [s for s in siblings if not s.over and rank(s.manifest, s.status) < mine]
    if not first:
        return ""
    one = min(first, key=lambda s: rank(s.manifest, s.status))
    return f"ServingRollout {one.manifest['metadata']['namespace']}/{one.name}"


def _rejected(cache: Cache, observed: RolloutObserved, content: str | None) -> str:
    """The rollout that rolled these bytes back; empty without one."""
    if content is None:
        return ""
    for other in cache.labelled(ROLLOUT, observed.namespace, CONTENT_INDEX, content):
        if names.uid(other) == names.uid(observed.manifest):
            continue
        hashed = ((other.get("spec") or {}).get("candidate") or {}).get("contentHash")
        status = derived(ServingRolloutStatus, other.get("status"))
        back = status.phase in (RolloutPhase.ROLLING_BACK, RolloutPhase.ROLLED_BACK)
        ready = next((c.reason for c in status.conditions if c.type == ConditionType.READY.value), "")
        if hashed == content and back and ready != Reason.SUPERSEDED.value:
            return names.name_of(other)
    return ""


def _successor(cache: Cache, observed: RolloutObserved, siblings: list[_Sibling]) -> Successor | None:
    owner, born = names.owner_uid(observed.manifest), _born(observed.manifest)
    newer = [
        s
        for s in sorted(siblings, key=lambda s: _born(s.manifest), reverse=True)
        if _born(s.manifest) > born
        and not s.over
        and not names.deleting(s.manifest)
        and s.manifest["metadata"]["namespace"] == observed.namespace
    ]
    of_owner = (
        {names.uid(r) for r in cache.labelled(ROLLOUT, observed.namespace, OWNER_INDEX, owner)} if owner else set()
    )
    for one in newer:
        takes_over = one.spec.baseline.service == observed.spec.candidate.service
        replaces = names.uid(one.manifest) in of_owner
        if takes_over or replaces:
            return Successor(one.name, takes_over, replaces)
    return None
