"""An AgentProfile: its model proxy, and the status that says whether a run can use it and what was used of it.

The operator never speaks to a provider, and of a key it sees no more than that there is one: the proxy holds it. How the
providers do is what the proxy says of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sartor_api.agent_profile import AgentProfileSpec, AgentProfileStatus, EndpointState
from sartor_api.conditions import Reason
from sartor_api.fields import KeyReference
from sartor_operator import names
from sartor_operator.actions import Action, Apply, Create, CreateSecret, Decision, Delete, StatusOf
from sartor_operator.books import ProviderState
from sartor_operator.cache import Cache
from sartor_operator.conditions import Wanted, conditions, done, stalled, working
from sartor_operator.drift import covers
from sartor_operator.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    POD,
    PROFILE,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
    Manifest,
)
from sartor_operator.pods import model_proxy, state
from sartor_operator.reasons import OperatorReason
from sartor_operator.settings import Settings
from sartor_operator.understood import derived, understood

MISSING_RECHECK_SECONDS = 30.0
"""How often a missing Secret is looked for: Secrets of others are not watched."""
PROVIDERS_RECHECK_SECONDS = 30.0
"""How often it is looked how the providers do, while a run uses them."""
LONGEST_MESSAGE = 500
PRESENT_RECHECK_SECONDS = 300.0
"""How often one that is there is looked for, since it may be deleted."""
PARTS: tuple[Kind, ...] = (SECRET, DEPLOYMENT, SERVICE)
"""Kinds of the objects that have the proxy's name."""


@dataclass(frozen=True)
class ProxyObserved:
    """The objects of a profile's proxy that are there, by kind, its configurations, and its pod."""

    parts: Mapping[Kind, Manifest]
    configurations: tuple[Manifest, ...] = ()
    account: Manifest | None = None
    pod: Manifest | None = None

    @property
    def address(self) -> str:
        """Of its pod, where the operator asks it; empty as long as it has none."""
        host = str((self.pod or {}).get("status", {}).get("podIP") or "")
        return f"http://{f'[{host}]' if ':' in host else host}:{model_proxy.PORT}/v1" if host else ""

    @property
    def ready(self) -> bool:
        """Whether its Deployment has a replica that answers, as it is now."""
        there = self.parts.get(DEPLOYMENT)
        return there is not None and _ready(there)


def observe_proxy(cache: Cache, profile: Manifest) -> ProxyObserved:
    """What is there of the proxy."""
    namespace, name = str(profile["metadata"]["namespace"]), model_proxy.proxy_name(profile)
    found = {kind: one for kind in PARTS if (one := cache.get(kind, namespace, name)) is not None}
    mine = {kind: one for kind, one in found.items() if not names.deleting(one)}
    label = (namespace, names.PROFILE_LABEL, names.name_of(profile))
    pods = [pod for pod in cache.labelled(POD, *label) if not names.deleting(pod)]
    return ProxyObserved(
        mine,
        tuple(one for one in cache.labelled(CONFIG_MAP, *label) if names.owner_uid(one) == names.uid(profile)),
        cache.get(SERVICE_ACCOUNT, namespace, model_proxy.ACCOUNT),
        max(pods, key=state.created, default=None),
    )


def _ready(deployment: Manifest) -> bool:
    status = deployment.get("status") or {}
    current = int(status.get("observedGeneration", 0)) >= int(deployment["metadata"].get("generation", 1))
    return current and int(status.get("updatedReplicas", 0)) >= 1 and int(status.get("availableReplicas", 0)) >= 1


def profile_spec(manifest: Manifest) -> AgentProfileSpec:
    """The spec. Raises `NotUnderstoodError`, for a backend that this version does not know, say."""
    return understood(AgentProfileSpec, manifest.get("spec") or {}, f"AgentProfile {names.name_of(manifest)}: spec")


def profile_secrets(spec: AgentProfileSpec) -> Iterator[tuple[str, KeyReference]]:
    """(the field, the reference with its key) of every Secret that the profile refers to."""
    for number, endpoint in enumerate(spec.endpoints):
        if (reference := endpoint.secret_ref) is not None:
            yield f"spec.endpoints[{number}].secretRef", model_proxy.secret_of(reference)


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


def unsupported(spec: AgentProfileSpec) -> str | None:
    """Why nothing can be run with it yet; None if it can."""
    if spec.sandbox.allowed_hosts:
        return "spec.sandbox.allowedHosts: commands reach no host at all yet; remove it"
    return None


def decide_profile(
    manifest: Manifest,
    secrets: Mapping[str, frozenset[str]],
    runs: Iterable[Manifest],
    proxy: ProxyObserved,
    settings: Settings,
    now: float,
    *,
    providers: Sequence[ProviderState] | None = None,
) -> Decision:
    """What its proxy needs, and the status to show. `runs` are those whose snapshot names this profile; `providers` is how
    the proxy says that they do, in the profile's order (None: it was not asked, or says nothing).

    Raises `NotUnderstoodError`.
    """
    if names.deleting(manifest):
        return Decision()  # the garbage collector takes what the profile owns
    spec = profile_spec(manifest)
    references = list(profile_secrets(spec))
    missing = missing_secret(references, secrets)
    actions: tuple[Action, ...] = ()
    wanted: list[Wanted]
    if (problem := unsupported(spec)) is not None:
        wanted = stalled(OperatorReason.NOT_SUPPORTED, problem)
    elif spec.backend == "playbook":
        actions = _nothing(manifest, proxy)
        wanted = done(Reason.SUCCEEDED, "backend playbook needs no provider")
    elif missing is not None:
        wanted = stalled(Reason.SECRET_NOT_FOUND, missing)
    else:
        actions = _proxy(manifest, spec, proxy, settings)
        if proxy.ready and not actions:
            wanted = done(Reason.SUCCEEDED, f"backend {spec.backend}: the model proxy answers")
        else:
            held = state.waiting(proxy.pod) if proxy.pod is not None else None
            wanted = working(Reason.PROGRESSING, f"the model proxy starts{f': {held.message}' if held else ''}")
    generation = int(manifest["metadata"].get("generation", 1))
    before = manifest.get("status") or {}
    runs = tuple(runs)
    status = AgentProfileStatus(
        observed_generation=generation,
        conditions=conditions(before.get("conditions", ()), wanted, generation=generation, now=now),
        endpoints=_endpoints(spec, derived(AgentProfileStatus, before).endpoints, providers),
        tokens_used=sum(tokens_of(run) for run in runs),
    )
    again = MISSING_RECHECK_SECONDS if missing is not None else PRESENT_RECHECK_SECONDS
    if proxy.ready and any(map(_under_way, runs)):
        again = min(again, PROVIDERS_RECHECK_SECONDS)
    wakes = bool(references) or proxy.ready
    return Decision(actions, (StatusOf(PROFILE, manifest, status),), wake_at=now + again if wakes else None)


def _under_way(run: Manifest) -> bool:
    return (run.get("status") or {}).get("finishedAt") is None


def _endpoints(
    spec: AgentProfileSpec, before: Sequence[EndpointState], providers: Sequence[ProviderState] | None
) -> tuple[EndpointState, ...]:
    """One for each address, that of the first provider there; what was said before of those that are still in the spec."""
    urls = [str(endpoint.url) for endpoint in spec.endpoints]
    if providers is None or len(providers) != len(urls):
        return tuple(one for one in before if str(one.url) in urls)
    found: dict[str, EndpointState] = {}
    for endpoint, one in zip(spec.endpoints, providers, strict=True):
        said = EndpointState(url=endpoint.url, state=one.state, message=one.message[:LONGEST_MESSAGE])
        found.setdefault(str(endpoint.url), said)
    return tuple(found.values())


def _proxy(profile: Manifest, spec: AgentProfileSpec, proxy: ProxyObserved, settings: Settings) -> tuple[Action, ...]:
    """The writes that make the proxy what the profile says; none where it is."""
    actions: list[Action] = []
    if proxy.account is None or proxy.account.get("automountServiceAccountToken") is not False:
        actions.append(Apply(model_proxy.account(profile), "sartor-access"))
    if SECRET not in proxy.parts:
        actions.append(CreateSecret(model_proxy.grant_key(profile), model_proxy.GRANT_KEY))
    config = model_proxy.config_map(profile, spec)
    current = names.name_of(config)
    if current not in map(names.name_of, proxy.configurations):
        actions.append(Create(config))
    wanted = (
        (SERVICE, model_proxy.service(profile)),
        (DEPLOYMENT, model_proxy.deployment(profile, spec, settings)),
    )
    for kind, one in wanted:
        if not covers(one["spec"], (proxy.parts.get(kind) or {}).get("spec")):
            actions.append(Apply(one, "sartor-profile"))
    actions += [_delete(CONFIG_MAP, one) for one in proxy.configurations if names.name_of(one) != current]
    return tuple(actions)


def _nothing(profile: Manifest, proxy: ProxyObserved) -> tuple[Action, ...]:
    """No proxy for a profile that asks no model (any more)."""
    uid = names.uid(profile)
    parts = [_delete(kind, one) for kind, one in proxy.parts.items() if names.owner_uid(one) == uid]
    return (*parts, *(_delete(CONFIG_MAP, one) for one in proxy.configurations))


def _delete(kind: Kind, manifest: Manifest) -> Delete:
    return Delete(kind, manifest["metadata"]["namespace"], names.name_of(manifest), names.uid(manifest))


def tokens_of(run: Manifest) -> int:
    """Tokens that a run has booked, by its status."""
    spent = (run.get("status") or {}).get("spent") or {}
    return int(spent.get("tokens", 0))
