"""What is known of a rollout's probe: whether it is wanted, what of it exists, and what keeps it from being ready."""

from sartor_api.hardware_target import HardwareTargetSpec
from sartor_operator import names
from sartor_operator.cache import Cache
from sartor_operator.kinds import DEPLOYMENT, ENDPOINT_SLICE, POD, RUN, SERVICE, Manifest
from sartor_operator.pods import state
from sartor_operator.rollout.index import PROBE_INDEX, SLICE_INDEX, probe_name
from sartor_operator.rollout.observed import ProbeSeen, RolloutObserved
from sartor_operator.rollout.probe import probe_manifests
from sartor_operator.settings import Settings
from sartor_operator.understood import NotUnderstoodError, understood


def ready_endpoints(cache: Cache, namespace: str, service: str) -> int:
    """Ready endpoints in the EndpointSlices of a Service."""
    ready: dict[str, int] = {}
    for one in cache.labelled(ENDPOINT_SLICE, namespace, SLICE_INDEX, service):
        kind = str(one.get("addressType"))  # a Service of two families has every endpoint twice
        ready[kind] = ready.get(kind, 0) + int(one.get("ready", 0))
    return max(ready.values(), default=0)


def observe_probe(cache: Cache, observed: RolloutObserved, settings: Settings) -> ProbeSeen | None:
    """The probe of a rollout; None where it is neither wanted nor there."""
    name, namespace = probe_name(observed.manifest), observed.namespace
    wanted = "probe" in observed.policy.analysis.sources
    owner = names.uid(observed.manifest)
    found = [cache.get(kind, namespace, name) for kind in (DEPLOYMENT, SERVICE)]
    there = tuple(one for one in found if one is not None and names.owner_uid(one) == owner)
    if not wanted:
        return ProbeSeen(name, wanted=False, there=there) if there else None
    ready = ready_endpoints(cache, namespace, name)
    return ProbeSeen(
        name,
        ready=ready,
        waits="" if ready else _waits(cache, namespace, name, there),
        there=there,
        manifests=probe_manifests(observed.manifest, observed.spec, _hardware(cache, observed), settings),
    )


def _waits(cache: Cache, namespace: str, name: str, there: tuple[Manifest, ...]) -> str:
    if len(there) < 2:
        return "its Deployment and Service are made"
    pods = cache.labelled(POD, namespace, PROBE_INDEX, name)
    held = next((found for pod in pods if (found := state.waiting(pod)) is not None), None)
    return held.message if held is not None else "its pod is not ready yet"


def _hardware(cache: Cache, observed: RolloutObserved) -> HardwareTargetSpec | None:
    """The hardware of the run that the candidate comes from; None without a run, or with one that cannot be read."""
    reference = observed.spec.run_ref
    run = None if reference is None else cache.get(RUN, observed.namespace, reference.name)
    if run is None:
        return None
    try:
        return understood(HardwareTargetSpec, run["spec"]["snapshot"]["hardware"], f"SynthesisRun {names.name_of(run)}")
    except (NotUnderstoodError, KeyError):
        return None  # the run's own status says so; the probe does with what the operator was installed with
