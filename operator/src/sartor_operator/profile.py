"""The status of an AgentProfile: whether what it refers to is there, whether it can be used, what was used of it.

The operator never speaks to a provider (it has no key in its hands for longer than it takes to see that there is one), so
`endpoints` of the status are left to whoever does.
"""

from collections.abc import Iterable, Iterator, Mapping

from sartor_api.agent_profile import AgentProfileSpec, AgentProfileStatus
from sartor_api.conditions import Reason
from sartor_api.fields import KeyReference
from sartor_operator import names
from sartor_operator.actions import Decision, StatusOf
from sartor_operator.conditions import Wanted, conditions, done, stalled
from sartor_operator.kinds import PROFILE, Manifest
from sartor_operator.reasons import OperatorReason
from sartor_operator.understood import derived, understood

RUNNABLE = ("playbook",)
"""Backends that role pods have."""
API_KEY = "apiKey"
"""Key of an endpoint's Secret where the profile names none."""
MISSING_RECHECK_SECONDS = 30.0
"""How often a missing Secret is looked for: Secrets of others are not watched."""
PRESENT_RECHECK_SECONDS = 300.0
"""How often one that is there is looked for, since it may be deleted."""


def profile_spec(manifest: Manifest) -> AgentProfileSpec:
    """The spec. Raises `NotUnderstoodError`, for a backend that this version does not know, say."""
    return understood(AgentProfileSpec, manifest.get("spec") or {}, f"AgentProfile {names.name_of(manifest)}: spec")


def profile_secrets(spec: AgentProfileSpec) -> Iterator[tuple[str, KeyReference]]:
    """(the field, the reference with its key) of every Secret that the profile refers to."""
    for number, endpoint in enumerate(spec.endpoints):
        if (reference := endpoint.secret_ref) is not None:
            yield f"spec.endpoints[{number}].secretRef", KeyReference(name=reference.name, key=reference.key or API_KEY)


def missing_secret(references: Iterable[tuple[str, KeyReference]], secrets: Mapping[str, frozenset[str]]) -> str | None:
    """What to say of the first reference that leads nowhere. `secrets` are keys by name of those that exist."""
    for where, reference in references:
        keys = secrets.get(reference.name)
        if keys is None:
            return f"{where}: there is no Secret {reference.name} in this namespace; create it"
        if reference.key is not None and reference.key not in keys:
            has = ", ".join(sorted(keys)) or "none"
            return f"{where}: Secret {reference.name} has no key {reference.key}; it has: {has}"
    return None


def unrunnable(spec: AgentProfileSpec) -> str | None:
    """Why no run can use the profile, if its backend is none that role pods have."""
    if spec.backend in RUNNABLE:
        return None
    return f"spec.backend: {spec.backend} cannot be run yet; use backend {' or '.join(RUNNABLE)}"


def decide_profile(
    manifest: Manifest, secrets: Mapping[str, frozenset[str]], runs: Iterable[Manifest], now: float
) -> Decision:
    """The status to show. `runs` are those whose snapshot names this profile. Raises `NotUnderstoodError`."""
    if names.deleting(manifest):
        return Decision()
    spec = profile_spec(manifest)
    references = list(profile_secrets(spec))
    wanted: list[Wanted]
    missing = missing_secret(references, secrets)
    if missing is not None:
        wanted = stalled(Reason.SECRET_NOT_FOUND, missing)
    elif (problem := unrunnable(spec)) is not None:
        wanted = stalled(OperatorReason.NOT_SUPPORTED, problem)
    else:
        wanted = done(Reason.SUCCEEDED, f"backend {spec.backend} needs no provider")
    generation = int(manifest["metadata"].get("generation", 1))
    before = manifest.get("status") or {}
    status = AgentProfileStatus(
        observed_generation=generation,
        conditions=conditions(before.get("conditions", ()), wanted, generation=generation, now=now),
        endpoints=derived(AgentProfileStatus, before).endpoints,
        tokens_used=sum(tokens_of(run) for run in runs),
    )
    again = MISSING_RECHECK_SECONDS if missing is not None else PRESENT_RECHECK_SECONDS
    return Decision(statuses=(StatusOf(PROFILE, manifest, status),), wake_at=now + again if references else None)


def tokens_of(run: Manifest) -> int:
    """Tokens that a run has booked, by its status."""
    spent = (run.get("status") or {}).get("spent") or {}
    return int(spent.get("tokens", 0))
