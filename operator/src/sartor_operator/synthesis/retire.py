"""Stacks that nothing uses any more are taken out of service: first the pods, after their drain, then the Service.

In use is the winner's stack (unless its bytes came back), whatever a rollout of anybody names that has not ended, and
whatever a route gives traffic to. Since when a stack is unused stands in an annotation of its Deployment, so that a restart
neither forgets nor prolongs the drain. A Service stays for as long as a route names it: a Gateway refuses one that names a
Service which does not exist.
"""

from dataclasses import dataclass

from sartor_operator import names
from sartor_operator.actions import Action, Apply, Delete
from sartor_operator.kinds import DEPLOYMENT, HTTP_ROUTE, ROLLOUT, SERVICE, Kind, Manifest
from sartor_operator.synthesis.delivery import ARM_ROLE, STACK_ROLE, plain_name
from sartor_operator.synthesis.observe import SynthesisObserved
from sartor_operator.times import format_time, parse_time

UNUSED_ANNOTATION = "sartor.dev/unused-since"
"""On the Deployment of a stack: since when nothing uses it."""


@dataclass(frozen=True)
class Retiring:
    """What is to be written, and when time alone brings the next removal."""

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None

    @property
    def rests_on(self) -> tuple[Kind, ...]:
        """By what is not there a stack is removed: a rollout or a route that a watch has not shown yet may need it."""
        return (ROLLOUT, HTTP_ROUTE) if any(isinstance(a, Delete) for a in self.actions) else ()


def retire(observed: SynthesisObserved, wanted: str, now: float) -> Retiring:
    """`wanted`: content that the winner is delivered as; empty without one."""
    drain = observed.synthesis.spec.rollout.drain_timeout.seconds
    actions: list[Action] = []
    wakes: list[float] = []
    for name, there in sorted(observed.deployments.items()):
        if not _is_stack(observed, there):
            continue
        since = _unused_since(there)
        if _in_use(observed, name, wanted):
            if since is not None:
                actions.append(_marked(there, None))
            continue
        if since is None or since > now:  # (the clock went back: then the drain begins again)
            actions.append(_marked(there, now))
            wakes.append(float(int(now)) + drain)
        elif now >= since + drain:
            actions.append(Delete(DEPLOYMENT, observed.namespace, name, names.uid(there)))
        else:
            wakes.append(since + drain)
    for name, there in sorted(observed.services.items()):
        unused = _is_stack(observed, there) and not _in_use(observed, name, wanted)
        if unused and name not in observed.deployments and name not in observed.traffic.shares:
            actions.append(Delete(SERVICE, observed.namespace, name, names.uid(there)))
    return Retiring(tuple(actions), min(wakes, default=None))


def _is_stack(observed: SynthesisObserved, there: Manifest) -> bool:
    """Whether it is for rollouts to use; where traffic is moved by them, one that was delivered without, too."""
    role = names.label(there, names.ROLE_LABEL)
    return role == ARM_ROLE or (role == STACK_ROLE and observed.rolls_out)


def _in_use(observed: SynthesisObserved, name: str, wanted: str) -> bool:
    if observed.traffic.needs(name) or (bool(wanted) and name == observed.services_of.get(wanted)):
        return True
    # One from the time before there were rollouts goes when all traffic is on a stack behind the Gateway.
    return name == plain_name(observed) and not observed.serving


def _unused_since(there: Manifest) -> float | None:
    return parse_time((there["metadata"].get("annotations") or {}).get(UNUSED_ANNOTATION))


def _marked(there: Manifest, since: float | None) -> Apply:
    meta: Manifest = {
        "name": names.name_of(there),
        "namespace": there["metadata"]["namespace"],
        "uid": names.uid(there),
        **({} if since is None else {"annotations": {UNUSED_ANNOTATION: format_time(since)}}),
    }
    return Apply({"apiVersion": DEPLOYMENT.api_version, "kind": DEPLOYMENT.kind, "metadata": meta}, "sartor-cleanup")
