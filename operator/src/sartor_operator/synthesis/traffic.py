"""The rollouts of a synthesis, and what has the traffic: by the rollout that moves it, and where none does by the routes.

A stack is known here by its content (64 hexadecimal digits); the empty text stands for the baseline.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sartor_api.conditions import ConditionType, Reason
from sartor_api.meta import Condition
from sartor_api.serving_rollout import RolloutPhase, ServingRolloutStatus
from sartor_operator import names
from sartor_operator.cache import Cache
from sartor_operator.kinds import HTTP_ROUTE, ROLLOUT, Manifest
from sartor_operator.rollout.index import BACKEND_INDEX, OWNER_INDEX, SERVICE_INDEX
from sartor_operator.rollout.position import Position, position_of
from sartor_operator.rollout.route import route_shares
from sartor_operator.understood import derived

ARMS = ("baseline", "candidate")
DIGEST = "sha256:"
MOST_REJECTED = 32
"""Rollouts whose bytes came back that are kept, and digests that the status names. What came back before is forgotten."""
HALF = 50
"""Per cent: whoever gets more of the traffic than that serves."""


@dataclass(frozen=True)
class RolloutSeen:
    """A rollout that this synthesis made, or that somebody made for one of its Services."""

    manifest: Manifest
    status: ServingRolloutStatus

    @property
    def name(self) -> str:
        return names.name_of(self.manifest)

    @property
    def uid(self) -> str:
        return names.uid(self.manifest)

    @property
    def number(self) -> int:
        """Which rollout of its synthesis this is, counted from 1: a part of its name, which nobody can change."""
        return names.number_of(self.name)

    @property
    def deleting(self) -> bool:
        return names.deleting(self.manifest)

    def arm(self, which: str) -> Mapping[str, Any]:
        """`baseline` or `candidate`, as it is stored: also of a spec that this version does not understand."""
        return (self.manifest.get("spec") or {}).get(which) or {}

    def service(self, which: str) -> str:
        return str(self.arm(which).get("service") or "")

    @property
    def content(self) -> str:
        return str(self.arm("candidate").get("contentHash") or "").removeprefix(DIGEST)

    @property
    def baseline_content(self) -> str:
        return str(self.arm("baseline").get("contentHash") or "").removeprefix(DIGEST)

    @cached_property
    def position(self) -> Position:
        return position_of(self.status)

    def condition(self, kind: ConditionType) -> Condition | None:
        return next((c for c in self.status.conditions if c.type == kind.value), None)

    @property
    def live(self) -> bool:
        """Not ended: it has the route, or wants it."""
        return self.position.stage != "over"

    @property
    def moving(self) -> bool:
        """It has the route."""
        return self.position.stage in ("steps", "promoting", "promoted", "back")

    @property
    def promoted(self) -> bool:
        return self.position.stage == "promoted"

    @property
    def refused(self) -> bool:
        """It never began, since another rollout rolled these bytes back."""
        return self.status.phase is RolloutPhase.FAILED

    @property
    def rejected(self) -> bool:
        """Its bytes came back, or are on their way, and not because a newer rollout took its place."""
        ready = self.condition(ConditionType.READY)
        back = self.status.phase in (RolloutPhase.ROLLING_BACK, RolloutPhase.ROLLED_BACK)
        return back and (ready is None or ready.reason != Reason.SUPERSEDED.value)

    @property
    def counts(self) -> bool:
        """Whether its candidate needs no other rollout: it goes on, or its bytes came back. One that was replaced says
        nothing about them any more."""
        return self.live or self.rejected


@dataclass(frozen=True)
class Traffic:
    """`rollouts` are those that the synthesis made, the oldest first. `users`: by Service, the rollouts of anybody that have
    not ended and name it. `shares`: by Service that a route names, the per cent that it gets."""

    rollouts: tuple[RolloutSeen, ...] = ()
    users: Mapping[str, tuple[RolloutSeen, ...]] = field(default_factory=dict[str, tuple[RolloutSeen, ...]])
    shares: Mapping[str, int] = field(default_factory=dict[str, int])

    def serving(self, services: Mapping[str, str]) -> str:
        """Content of the stack that has the traffic. `services`: names of the Services of stacks, by content."""
        moving = [r for r in self.rollouts if r.moving]
        if moving:
            last = moving[-1]
            return last.content if last.promoted and not last.deleting else last.baseline_content
        if (
            not self.shares
        ):  # no route is known: somebody deleted it, or the cluster does not let the operator see routes
            return self._left_behind()
        most = max(services, key=lambda content: (self.shares.get(services[content], 0), content), default="")
        return most if most and self.shares.get(services[most], 0) > HALF else ""

    def _left_behind(self) -> str:
        """What had the traffic when the last rollout that moved any ended."""
        for one in reversed(self.rollouts):
            if one.position.handed_over:
                return one.content
            if one.position.stage == "over" and one.position.step is not None:
                return one.baseline_content
        return ""

    def needs(self, service: str) -> bool:
        """Whether a rollout that has not ended names this Service, or a route gives it traffic."""
        return bool(self.users.get(service)) or self.shares.get(service, 0) > 0

    def of(self, content: str) -> RolloutSeen | None:
        """The rollout that moves traffic to this stack, or moved it back for good."""
        return next((r for r in reversed(self.rollouts) if r.content == content and not r.deleting and r.counts), None)

    def rejected(self, content: str) -> bool:
        """Whether these bytes came back, and nothing is to be done for them any more."""
        found = self.of(content)
        return found is not None and found.rejected and not found.live

    @property
    def rejections(self) -> tuple[str, ...]:
        """Digests of what came back, the newest first."""
        found = (r.content for r in reversed(self.rollouts) if r.rejected and r.content and not r.deleting)
        return tuple(dict.fromkeys(found))


def observe_rollouts(cache: Cache, namespace: str, owner_uid: str) -> tuple[RolloutSeen, ...]:
    """The rollouts that a synthesis made, the oldest first; those that are being deleted, too."""
    found = [_seen(m) for m in cache.labelled(ROLLOUT, namespace, OWNER_INDEX, owner_uid)]
    return tuple(sorted(found, key=lambda r: (r.number, str(r.manifest["metadata"].get("creationTimestamp")), r.uid)))


def observe_traffic(
    cache: Cache, namespace: str, rollouts: tuple[RolloutSeen, ...], services: Iterable[str]
) -> Traffic:
    """What `services` are used for."""
    users: dict[str, tuple[RolloutSeen, ...]] = {}
    shares: dict[str, int] = {}
    for service in services:
        naming = [_seen(m) for m in cache.labelled(ROLLOUT, namespace, SERVICE_INDEX, service)]
        users[service] = tuple(r for r in naming if r.live)
        for route in cache.labelled(HTTP_ROUTE, namespace, BACKEND_INDEX, service):
            shares[service] = max(shares.get(service, 0), route_shares(route).get(service, 0))
    return Traffic(rollouts, users, shares)


def _seen(manifest: Manifest) -> RolloutSeen:
    return RolloutSeen(manifest, derived(ServingRolloutStatus, manifest.get("status")))
