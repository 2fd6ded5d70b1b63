"""What a synthesis refers to, and whether it is there: a chain of checks, the first that fails is what is said.

Checked before a run begins; a run then has its own snapshot, and goes on whatever becomes of what it was made from.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sartor_api.agent_profile import AgentProfile, AgentProfileSpec
from sartor_api.conditions import Reason
from sartor_api.fields import KeyReference
from sartor_api.hardware_target import HardwareTarget
from sartor_api.search.snapshot import NotRunnableError, snapshot
from sartor_api.serving_synthesis import ServingSynthesis
from sartor_operator.conditions import AnyReason
from sartor_operator.pods.common import model_needs_credentials
from sartor_operator.reasons import OperatorReason


@dataclass(frozen=True)
class References:
    """What was found. `secrets` maps the names of those that exist to their keys."""

    synthesis: ServingSynthesis
    target: HardwareTarget | None
    profile: AgentProfile | None
    secrets: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Refusal:
    """Why nothing can begin."""

    reason: AnyReason
    message: str


Check = Callable[[References], Refusal | None]


def needed_secrets(
    synthesis: ServingSynthesis, target: HardwareTarget | None, profile: AgentProfile | None
) -> Iterator[tuple[str, KeyReference]]:
    """(where it is referred to, the reference) of every Secret that a run would use."""
    source = synthesis.spec.model.source
    found: list[tuple[str, KeyReference | None]] = [
        ("spec.model.source.huggingFace.tokenSecretRef", source.hugging_face and source.hugging_face.token_secret_ref),
        ("spec.model.source.oci.pullSecretRef", source.oci and source.oci.pull_secret_ref),
        ("spec.model.source.s3.credentialsSecretRef", source.s3 and source.s3.credentials_secret_ref),
    ]
    if target is not None:
        found.append((f"HardwareTarget {target.name}: spec.images.pullSecretRef", target.spec.images.pull_secret_ref))
    if profile is not None:
        for number, endpoint in enumerate(profile.spec.endpoints):
            found.append((f"AgentProfile {profile.name}: spec.endpoints[{number}].secretRef", endpoint.secret_ref))
    return ((where, reference) for where, reference in found if reference is not None)


def _target(found: References) -> Refusal | None:
    if found.target is not None:
        return None
    name = found.synthesis.spec.hardware.target_ref.name
    return Refusal(
        Reason.HARDWARE_TARGET_NOT_FOUND,
        f"spec.hardware.targetRef: there is no HardwareTarget {name}; create it, or name one of `kubectl get hwt`",
    )


def _profile(found: References) -> Refusal | None:
    reference = found.synthesis.spec.agents.profile_ref
    if reference is None or found.profile is not None:
        return None
    return Refusal(
        Reason.AGENT_PROFILE_NOT_FOUND,
        f"spec.agents.profileRef: there is no AgentProfile {reference.name} in this namespace; create it, or remove "
        "profileRef to use the playbook",
    )


def _secrets(found: References) -> Refusal | None:
    for where, reference in needed_secrets(found.synthesis, found.target, found.profile):
        keys = found.secrets.get(reference.name)
        if keys is None:
            text = f"{where}: there is no Secret {reference.name} in this namespace; create it"
            return Refusal(Reason.SECRET_NOT_FOUND, text)
        if reference.key is not None and reference.key not in keys:
            has = ", ".join(sorted(keys)) or "none"
            text = f"{where}: Secret {reference.name} has no key {reference.key}; it has: {has}"
            return Refusal(Reason.SECRET_NOT_FOUND, text)
    return None


def _supported(found: References) -> Refusal | None:
    spec = found.synthesis.spec
    unsupported = OperatorReason.NOT_SUPPORTED
    if (where := model_needs_credentials(spec.model.source)) is not None:
        text = (
            f"spec.model.source.{where}: a model that needs credentials cannot be fetched in a candidate's pod; put "
            "the checkpoint on a volume and use persistentVolumeClaim"
        )
        return Refusal(unsupported, text)
    if spec.model.source.oci is not None or spec.model.source.s3 is not None:
        which = "oci" if spec.model.source.oci is not None else "s3"
        text = f"spec.model.source.{which} cannot be fetched yet; use huggingFace, or a persistentVolumeClaim"
        return Refusal(unsupported, text)
    backend = found.profile.spec.backend if found.profile is not None else "playbook"
    if backend != "playbook":
        text = (
            f"AgentProfile: backend {backend} cannot be run yet; use backend playbook, or remove spec.agents.profileRef"
        )
        return Refusal(unsupported, text)
    if spec.delivery.mode == "git":
        return Refusal(unsupported, "spec.delivery.mode: git cannot be run yet; use apply or none")
    assert found.target is not None, "an earlier check saw the target"
    accelerator = found.target.spec.accelerator
    try:
        snapshot(
            found.synthesis,
            now=0.0,
            model_folder="/model",
            platform=found.target.spec.platform,
            accelerators=0 if accelerator is None else accelerator.count,
            agents={"backend": backend},
        )
    except NotRunnableError as error:
        return Refusal(unsupported, str(error))
    return None


CHECKS: tuple[Check, ...] = (_target, _profile, _secrets, _supported)


def refusal(found: References) -> Refusal | None:
    """The first thing that keeps a run from beginning."""
    return next((said for check in CHECKS if (said := check(found)) is not None), None)


def agents_of(profile: AgentProfile | None) -> AgentProfileSpec:
    """The agents of a synthesis: the playbook where it names no profile."""
    return profile.spec if profile is not None else AgentProfileSpec()
