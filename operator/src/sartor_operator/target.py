"""The status of a HardwareTarget: which nodes fit, what they are, how much there is of it.

A pure function of the target and the nodes. Product and driver come from labels of the nodes: `sartor.dev/product` and
`sartor.dev/driver-version`, which whoever runs the nodes may set (a Mac's runner by its configuration), before those of
the vendors' feature discovery. What is free at the moment is not said: it would take watching the pods of everybody.
"""

import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from sartor_api.conditions import Reason
from sartor_api.hardware_target import HardwareTargetSpec, HardwareTargetStatus, Toleration
from sartor_api.quantities import Quantity
from sartor_operator import names
from sartor_operator.actions import Decision, StatusOf
from sartor_operator.conditions import conditions, done, stalled
from sartor_operator.kinds import TARGET, Manifest
from sartor_operator.pods.state import holds
from sartor_operator.understood import derived, understood

PRODUCT_LABEL, DRIVER_LABEL = "sartor.dev/product", "sartor.dev/driver-version"
_GPU_PRODUCT = ("nvidia.com/gpu.product", "amd.com/gpu.product-name", "cloud.google.com/gke-accelerator")
_GPU_DRIVER = ("nvidia.com/cuda.driver-version.full", "amd.com/gpu.driver-version")
_OLD_DRIVER = ("nvidia.com/cuda.driver.major", "nvidia.com/cuda.driver.minor", "nvidia.com/cuda.driver.rev")
_MACHINE = "node.kubernetes.io/instance-type"

_LONGEST = 256
"""Characters of `status.product` and `status.driverVersion`."""
_MOST_REASONS = 5
SEPARATOR = ", "
"""Between several products or drivers; no label's value can hold it."""

SUGGESTION = (
    "add or label a node, or change spec.nodeSelector, spec.tolerations, spec.accelerator or spec.resources; pods wait "
    "for such a node"
)


def decide_target(manifest: Manifest, nodes: Iterable[Manifest], now: float) -> Decision:
    """The status to show. Raises `NotUnderstoodError`."""
    if names.deleting(manifest):
        return Decision()
    what = f"HardwareTarget {names.name_of(manifest)}: spec"
    spec = understood(HardwareTargetSpec, manifest.get("spec", {}), what)
    return Decision(statuses=(StatusOf(TARGET, manifest, target_status(manifest, spec, nodes, now)),))


def target_status(
    manifest: Manifest, spec: HardwareTargetSpec, nodes: Iterable[Manifest], now: float
) -> HardwareTargetStatus:
    """What is so of this target."""
    before = derived(HardwareTargetStatus, manifest.get("status"))
    generation = int(manifest["metadata"].get("generation", 1))
    fitting: list[Manifest] = []
    misses = Counter[str]()
    for node in nodes:
        if (why := misfit(spec, node)) is None:
            fitting.append(node)
        else:
            misses[why] += 1
    products = _values(product_of(spec, node) for node in fitting)
    drivers = _values(driver_of(spec, node) for node in fitting)
    message = _found(len(fitting), products, drivers) if fitting else _nothing(misses)
    wanted = done(Reason.SUCCEEDED, message) if fitting else stalled(Reason.NO_MATCHING_NODE, message)
    return HardwareTargetStatus(
        observed_generation=generation,
        conditions=conditions(manifest.get("status", {}).get("conditions", ()), wanted, generation=generation, now=now),
        matching_nodes=len(fitting),
        allocatable_accelerators=_accelerators(spec, fitting),
        allocatable_replicas=_replicas(spec, fitting),
        product=products or None,
        driver_version=drivers or None,
        roofline=before.roofline,  # measured by others
        message=message,
    )


def misfit(spec: HardwareTargetSpec, node: Manifest) -> str | None:
    """Why pods of this target cannot be put on the node, as what is said of such nodes; None when they can."""
    labels: dict[str, str] = node["metadata"].get("labels") or {}
    lacking = [f"{k}={v}" for k, v in (spec.node_selector or {}).items() if labels.get(k) != v]
    if lacking:
        return f"without the labels {SEPARATOR.join(sorted(lacking))}"
    wanted = spec.accelerator.product if spec.accelerator is not None else None
    found = product_of(spec, node)
    if wanted is not None and found is not None and _plain(wanted) != _plain(found):
        return f"with {found} instead of {wanted}"
    allocatable = node.get("status", {}).get("allocatable") or {}
    for resource, amount in _demand(spec).items():
        if _amount(allocatable.get(resource, "0")) < amount.number:
            return f"with less than {amount} {resource} allocatable"
    if not holds(node, "Ready"):
        return "not ready"
    if node.get("spec", {}).get("unschedulable"):
        return "cordoned"
    for taint in node.get("spec", {}).get("taints") or ():
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not any(
            tolerates(one, taint) for one in spec.tolerations
        ):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"with the taint {taint.get('key')}{value}:{taint.get('effect')}, which no toleration bears"
    return None


def tolerates(toleration: Toleration, taint: Manifest) -> bool:
    """As the scheduler sees it."""
    if toleration.effect is not None and toleration.effect != taint.get("effect"):
        return False
    if toleration.key is not None and toleration.key != taint.get("key"):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == (taint.get("value") or "")


def product_of(spec: HardwareTargetSpec, node: Manifest) -> str | None:
    """The accelerator's product; without an accelerator the type of the machine."""
    labels: dict[str, str] = node["metadata"].get("labels") or {}
    if spec.accelerator is None:
        return labels.get(PRODUCT_LABEL) or labels.get(_MACHINE)
    own = f"{spec.accelerator.resource}.product"  # MIG slices have one of their own
    return next((labels[name] for name in (PRODUCT_LABEL, own, *_GPU_PRODUCT) if labels.get(name)), None)


def driver_of(spec: HardwareTargetSpec, node: Manifest) -> str | None:
    """The accelerator's driver."""
    labels: dict[str, str] = node["metadata"].get("labels") or {}
    if spec.accelerator is None:
        return labels.get(DRIVER_LABEL)
    said = next((labels[name] for name in (DRIVER_LABEL, *_GPU_DRIVER) if labels.get(name)), None)
    if said is None and all(labels.get(name) for name in _OLD_DRIVER):
        said = ".".join(labels[name] for name in _OLD_DRIVER)
    return said


def _demand(spec: HardwareTargetSpec) -> dict[str, Quantity]:
    """What one replica asks for, by resource."""
    wanted = spec.resources
    amounts = {
        name: value
        for name, value in (
            ("cpu", wanted.cpu),
            ("memory", wanted.memory),
            ("ephemeral-storage", wanted.ephemeral_storage),
        )
        if value is not None
    }
    if spec.accelerator is not None:
        amounts[spec.accelerator.resource] = Quantity(str(spec.accelerator.count))
    return {name: amount for name, amount in amounts.items() if amount.number > 0}


def _amount(text: Any) -> Decimal:
    """A node's quantity; one in a notation that no kubelet writes counts as endless, so that it keeps no node out."""
    try:
        return Quantity(str(text)).number
    except ValueError:
        return Decimal("Infinity")


def _accelerators(spec: HardwareTargetSpec, nodes: Iterable[Manifest]) -> int | None:
    if spec.accelerator is None:
        return None
    amounts = (_amount(node["status"]["allocatable"].get(spec.accelerator.resource, "0")) for node in nodes)
    return sum(int(amount) for amount in amounts if amount.is_finite())


def _replicas(spec: HardwareTargetSpec, nodes: Iterable[Manifest]) -> int | None:
    demand = _demand(spec)
    if not demand:
        return None
    total = 0
    for node in nodes:
        allocatable = node["status"]["allocatable"]
        shares = [_amount(allocatable.get(name, "0")) / amount.number for name, amount in demand.items()]
        room = min(shares)
        total += int(room) if room.is_finite() else 0
    return total


def _values(found: Iterable[str | None]) -> str:
    """What was found, each once, in order."""
    text = ""
    for value in sorted({value for value in found if value}):
        longer = f"{text}{SEPARATOR}{value}" if text else value
        if len(longer) > _LONGEST:
            break
        text = longer
    return text


def _plain(product: str) -> str:
    """A product as it is compared: labels have no spaces, and a shared device has a suffix."""
    return re.sub(r"[^a-z0-9]+", "-", product.lower()).removesuffix("-shared")


def _found(count: int, products: str, drivers: str) -> str:
    what = f": {products}" if products else ""
    driver = f", driver {drivers}" if drivers else ""
    text = f"{count} {'node fits' if count == 1 else 'nodes fit'}{what}{driver}"
    if SEPARATOR in products:
        text += (
            "; what is measured on one product does not hold for another: narrow spec.nodeSelector, or set "
            "spec.accelerator.product"
        )
    return text


def _nothing(misses: Counter[str]) -> str:
    if not misses:
        return f"the cluster has no node; {SUGGESTION}"
    said = "; ".join(f"{count} {why}" for why, count in sorted(misses.items(), key=lambda m: (-m[1], m[0])))
    kinds = len(misses)
    if kinds > _MOST_REASONS:
        most = sorted(misses.items(), key=lambda m: (-m[1], m[0]))[:_MOST_REASONS]
        said = "; ".join(f"{count} {why}" for why, count in most) + f"; {kinds - _MOST_REASONS} other causes"
    return f"no node fits ({said}); {SUGGESTION}"[:4096]
