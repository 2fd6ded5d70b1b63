"""Whether a pod that was bound here fits, whatever bound it.

The scheduler looks before it binds; a pod with `spec.nodeName` set by hand was not looked at, and two schedulers may race.
Specification: kubelet `lifecycle/predicate.go` (`OutOf<resource>`).
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal

from sartor_runner.core.observed import Verdict
from sartor_runner.core.pod import Container, Pod
from sartor_runner.core.quantity import parse


def requested(pod: Pod) -> dict[str, Decimal]:
    """What the pod asks for: the sum of its containers, or its largest init container, plus its overhead."""
    total: dict[str, Decimal] = {}
    for container in pod.containers:
        for name, value in _requests(container).items():
            total[name] = total.get(name, Decimal(0)) + value
    for container in pod.init_containers:
        for name, value in _requests(container).items():
            total[name] = max(total.get(name, Decimal(0)), value)
    for name, value in (pod.spec.get("overhead") or {}).items():
        total[name] = total.get(name, Decimal(0)) + parse(value)
    return total


def admit(pod: Pod, others: Iterable[Pod], allocatable: Mapping[str, str]) -> Verdict | None:
    """None when the pod fits beside the `others` (those that still hold their resources); else the verdict on it."""
    running = list(others)
    capacity = {name: parse(value) for name, value in allocatable.items()}
    if len(running) + 1 > capacity.get("pods", Decimal(110)):
        return _out_of("pods", Decimal(1), Decimal(len(running)), capacity["pods"])
    held = [requested(other) for other in running]
    for name, wanted in sorted(requested(pod).items()):
        if wanted <= 0 or name == "ephemeral-storage":
            continue
        used = sum((other.get(name, Decimal(0)) for other in held), Decimal(0))
        room = capacity.get(name, Decimal(0))
        if used + wanted > room:
            return _out_of(name, wanted, used, room)
    return None


def _requests(container: Container) -> dict[str, Decimal]:
    return {name: parse(value) for name, value in container.requests.items()}


def _out_of(name: str, wanted: Decimal, used: Decimal, capacity: Decimal) -> Verdict:
    scale = 1000 if name == "cpu" else 1
    return Verdict(
        f"OutOf{name}",
        f"Pod was rejected: Node didn't have enough resource: {name}, requested: {int(wanted * scale)}, "
        f"used: {int(used * scale)}, capacity: {int(capacity * scale)}",
    )
