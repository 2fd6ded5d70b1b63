"""What a synthesis reads from its rollouts and from routes: who serves, what came back, what is forgotten."""

from dataclasses import replace
from typing import Any

import pytest
from operator_world import NAMESPACE, live, synthesis, target
from rolling_world import POLICY, SHORT, Rolling, RollingWorld

from sartor_api.serving_rollout import ServingRolloutStatus
from sartor_operator import names
from sartor_operator.cache import Cache
from sartor_operator.kinds import ROLLOUT, Manifest
from sartor_operator.rollout.route import route_shares
from sartor_operator.settings import Settings
from sartor_operator.synthesis.observe import SynthesisObserved, observe_synthesis
from sartor_operator.synthesis.rollouts import KEPT, forget
from sartor_operator.synthesis.traffic import MOST_REJECTED, RolloutSeen, Traffic

A, B = "a" * 64, "b" * 64
SERVICES = {A: "stack-a", B: "stack-b"}
NOW = "2026-11-21T10:00:00Z"


def rollout(number: int, content: str, baseline: str = "", *, deleting: bool = False, **status: Any) -> RolloutSeen:
    """One that the synthesis made. `status` as it is stored; `reason` is that of the condition Ready."""
    reason = status.pop("reason", "")
    if reason:
        ready = {"type": "Ready", "status": "False", "reason": reason, "message": "", "lastTransitionTime": NOW}
        status["conditions"] = [ready]
    meta: Manifest = {"name": f"editor-{number}-{content[:12]}-0123456789", "namespace": NAMESPACE, "uid": f"u{number}"}
    if deleting:
        meta["deletionTimestamp"] = NOW
    arms = {
        "baseline": {
            "service": SERVICES.get(baseline, "vllm"),
            **({"contentHash": f"sha256:{baseline}"} if baseline else {}),
        },
        "candidate": {"service": SERVICES.get(content, "other"), "contentHash": f"sha256:{content}"},
    }
    return RolloutSeen({"metadata": meta, "spec": arms}, ServingRolloutStatus.model_validate(status))


PROMOTED = {"phase": "Promoted", "step": 2, "promotedAt": NOW}
OVER = {**PROMOTED, "finishedAt": NOW}
BACK = {"phase": "RolledBack", "step": 1, "finishedAt": NOW}

SERVING = [
    ("nothing yet", [], {}, ""),
    ("one that waits moves nothing", [rollout(1, A)], {"vllm": 100}, ""),
    ("under way", [rollout(1, A, phase="Progressing", step=1)], {"vllm": 80, "stack-a": 20}, ""),
    ("promoted", [rollout(1, A, **PROMOTED)], {"stack-a": 100}, A),
    ("promoted, and its pods are away for a moment", [rollout(1, A, **PROMOTED)], {"vllm": 100}, A),
    ("promoted and on its way back", [rollout(1, A, phase="RollingBack", step=2)], {"stack-a": 100}, ""),
    ("promoted and deleted", [rollout(1, A, deleting=True, **PROMOTED)], {"stack-a": 100}, ""),
    ("handed over", [rollout(1, A, **OVER), rollout(2, B, A)], {"stack-a": 100, "vllm": 0}, A),
    ("the next one under way", [rollout(1, A, **OVER), rollout(2, B, A, phase="Frozen", step=1)], {"stack-a": 50}, A),
    ("the next one came back", [rollout(1, A, **OVER), rollout(2, B, A, **BACK)], {"stack-a": 100, "stack-b": 0}, A),
    ("the same, and its route is not known", [rollout(1, A, **OVER), rollout(2, B, A, **BACK)], {}, A),
    ("ended before it began", [rollout(1, A, **OVER), rollout(2, B, phase="RolledBack", finishedAt=NOW)], {}, A),
    ("the first came back", [rollout(1, A, **BACK)], {}, ""),
    ("history was removed", [], {"stack-a": 100}, A),
    ("half and half is nobody's", [], {"stack-a": 50, "vllm": 50}, ""),
]


@pytest.mark.parametrize(("rollouts", "shares", "serves"), [c[1:] for c in SERVING], ids=[c[0] for c in SERVING])
def test_who_serves(rollouts: list[RolloutSeen], shares: dict[str, int], serves: str) -> None:
    assert Traffic(tuple(rollouts), {}, shares).serving(SERVICES) == serves


OUTCOMES = [
    ("rolled back", {**BACK, "reason": "GuardrailFailed"}, True, True),
    ("on its way back", {"phase": "RollingBack", "step": 1, "reason": "GuardrailFailed"}, True, False),
    ("replaced by a newer one", {**BACK, "reason": "Superseded"}, False, False),
    ("handed over", {**OVER, "reason": "Superseded"}, False, False),
    ("promoted", PROMOTED, True, False),
    ("refused for what another one rolled back", {"phase": "Failed", "reason": "ContentRejected"}, True, False),
]


@pytest.mark.parametrize(("status", "counts", "rejected"), [c[1:] for c in OUTCOMES], ids=[c[0] for c in OUTCOMES])
def test_what_needs_another_rollout(status: dict[str, Any], counts: bool, rejected: bool) -> None:
    traffic = Traffic((rollout(1, A, **status),))
    assert (traffic.of(A) is not None, traffic.rejected(A)) == (counts, rejected)
    assert traffic.of(B) is None and not traffic.rejected(B)


def test_a_rollout_that_is_deleted_remembers_nothing() -> None:
    gone = rollout(1, A, deleting=True, **BACK, reason="GuardrailFailed")
    assert Traffic((gone,)).of(A) is None and Traffic((gone,)).rejections == ()


def test_digests_that_came_back_are_named_once_the_newest_first() -> None:
    back = {**BACK, "reason": "GuardrailFailed"}
    found = (rollout(1, A, **back), rollout(2, B, **back), rollout(3, A, **back))
    assert Traffic(found).rejections == (A, B)


def test_shares_of_a_route() -> None:
    asks = [{"headers": [{"name": "x-sartor-arm", "value": "candidate"}]}]
    header = {"matches": asks, "backendRefs": [{"name": "asked"}]}
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "probe"}}}
    backends = [{"name": "a", "weight": 1}, {"name": "b", "weight": 199}, {"name": "c", "weight": 0}]
    main = {"backendRefs": backends, "filters": [mirror]}
    shares = {"a": 1, "b": 100, "c": 0, "probe": 0, "asked": 0}
    assert route_shares({"spec": {"rules": [main, header]}}) == shares
    assert route_shares({"spec": {"rules": [{"backendRefs": [{"name": "a"}]}]}}) == {"a": 100}
    assert route_shares({"spec": {}}) == {}


@pytest.fixture(scope="module")
def observed() -> SynthesisObserved:
    world = RollingWorld()
    world.add(target())
    world.add(synthesis(budget=SHORT))
    live(world).stop()
    cache = Cache()
    for (kind, _, _), manifest in world.store.items():
        cache.put(kind, manifest)
    found = observe_synthesis(cache, Settings(), NAMESPACE, "editor")
    assert found is not None
    return found


def test_history_is_bounded_and_what_came_back_is_kept_longer(observed: SynthesisObserved) -> None:
    contents = [f"{n:064x}" for n in range(100)]
    back = [rollout(n, contents[n], **BACK, reason="GuardrailFailed") for n in range(1, 40)]
    over = [rollout(n, contents[n], **OVER, reason="Superseded") for n in range(40, 50)]
    going = [rollout(50, A, **PROMOTED), rollout(51, B, phase="RollingBack", step=1, reason="GuardrailFailed")]
    found = replace(observed, traffic=Traffic((*back, *over, *going)))
    forgotten = {action.name for action in forget(found)}  # type: ignore[union-attr]
    assert forgotten == {r.name for r in (*back[: 39 - MOST_REJECTED], *over[: 10 - KEPT])}


def test_a_rollout_of_a_newer_version_is_left_alone_and_still_counts() -> None:
    """Its policy cannot be read: no second one is made, and nothing is written into it."""
    cluster = Rolling(lambda _step: "inconclusive")
    cluster.run(lambda: cluster.weight(20)())
    name = names.name_of(cluster.rollouts[0])
    cluster.world.edit(ROLLOUT, name, lambda m: m["spec"]["policy"].update(novelty=True))
    before = cluster.rollouts[0]["spec"]
    cluster.edit(rollout={**POLICY, "promotion": "manual"})
    cluster.run(days=0.01)
    assert [r["spec"] for r in cluster.rollouts] == [before]
