"""What a synthesis refers to, and whether it is there: a chain of checks, the first that fails is what is said.

Checked before a run begins; a run then has its own snapshot, and goes on whatever becomes of what it was made from.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sartor_api.agent_profile import AgentProfile, AgentProfileSpec
from sartor_api.conditions import Reason
from sartor_api.fields import KeyReference
from sartor_api.hardware_target import HardwareTarget
from sartor_api.search.agents import agent_settings
from sartor_api.search.records import RunSpec
from sartor_api.search.snapshot import NotRunnableError, snapshot
from sartor_api.serving_synthesis import PaybackSummary, ServingSynthesis
from sartor_operator import payback
from sartor_operator.conditions import AnyReason
from sartor_operator.pods.common import model_needs_credentials
from sartor_operator.profile import missing_secret, profile_secrets
from sartor_operator.profile import unsupported as unsupported_profile
from sartor_operator.reasons import OperatorReason


@dataclass(frozen=True)
class References:
    """What was found. `secrets` maps the names of those that exist to their keys.

    `score` is the baseline's throughput as an earlier run of the same intent measured it.
    """

    synthesis: ServingSynthesis
    target: HardwareTarget | None
    profile: AgentProfile | None
    secrets: Mapping[str, frozenset[str]]
    score: float | None = None


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
        found += [(f"AgentProfile {profile.name}: {where}", ref) for where, ref in profile_secrets(profile.spec)]
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
    needed = needed_secrets(found.synthesis, found.target, found.profile)
    said = missing_secret(needed, found.secrets)
    return None if said is None else Refusal(Reason.SECRET_NOT_FOUND, said)


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
    if found.profile is not None and (problem := unsupported_profile(found.profile.spec)) is not None:
        return Refusal(unsupported, f"AgentProfile {found.profile.name}: {problem}")
    if spec.delivery.mode == "git":
        return Refusal(unsupported, "spec.delivery.mode: git cannot be run yet; use apply or none")
    try:
        planned(found)
    except NotRunnableError as error:
        return Refusal(unsupported, str(error))
    return None


def _priced(found: References) -> Refusal | None:
    """Money is bounded, or has to be earned back, and nobody says what anything costs."""
    spec = found.synthesis.spec
    assert found.target is not None, "an earlier check saw the target"
    price, name = found.target.spec.price_per_hour, found.target.name
    if price is None and spec.payback.policy == "require":
        text = (
            f"spec.payback.policy: require needs a price; set spec.pricePerHour of HardwareTarget {name}, or use warn"
        )
        return Refusal(OperatorReason.PRICE_UNKNOWN, text)
    bound = spec.budget.money
    if bound is None:
        return None
    if price is None:
        text = f"spec.budget.money: HardwareTarget {name} has no price; set its spec.pricePerHour, or remove money"
        return Refusal(OperatorReason.PRICE_UNKNOWN, text)
    if price.currency != bound.currency:
        text = (
            f"spec.budget.money is in {bound.currency}, the price of HardwareTarget {name} in {price.currency}; write "
            "both in one currency"
        )
        return Refusal(OperatorReason.PRICE_UNKNOWN, text)
    return _models_priced(found, bound.currency)


def _models_priced(found: References, currency: str) -> Refusal | None:
    """A budget in money bounds what models cost, so all of them have a price in its currency."""
    if found.profile is None or found.profile.spec.backend == "playbook":
        return None
    settings, name = agent_settings(found.profile.spec), found.profile.name
    missing = sorted({role.model for role in settings.roles.values()} - set(settings.prices))
    if missing:
        text = (
            f"spec.budget.money: AgentProfile {name} has no price for {', '.join(missing)}; add it to its spec.prices, "
            "or remove money"
        )
        return Refusal(OperatorReason.PRICE_UNKNOWN, text)
    if settings.currency != currency:
        text = (
            f"spec.budget.money is in {currency}, the prices of AgentProfile {name} in {settings.currency}; write both in "
            "one currency"
        )
        return Refusal(OperatorReason.PRICE_UNKNOWN, text)
    return None


def _pays(found: References) -> Refusal | None:
    assert found.target is not None, "an earlier check saw the target"
    said = payback.required(found.synthesis.spec, found.target.spec, planned(found), None, score=found.score)
    if said is None:
        return None
    text = (
        f"spec.payback.policy is require, and {said}. Set policy warn to search all the same, or change "
        "payback.outputTokensPerDay, payback.within or the budget"
    )
    return Refusal(Reason.CANNOT_PAY_BACK, text)


CHECKS: tuple[Check, ...] = (_target, _profile, _secrets, _supported, _priced, _pays)


def refusal(found: References) -> Refusal | None:
    """The first thing that keeps a run from beginning."""
    return next((said for check in CHECKS if (said := check(found)) is not None), None)


def forecast(found: References) -> PaybackSummary | None:
    """Whether a run that has not begun can pay, as far as that is known."""
    if found.target is None:
        return None
    try:
        spec = planned(found)
    except NotRunnableError:
        return None
    return payback.payback(
        found.synthesis.spec, found.target.spec, spec, None, cost=None, speedup=None, score=found.score
    )


def planned(found: References) -> RunSpec:
    """What a run would decide by; only its time and place are not those of a real one. Raises `NotRunnableError`."""
    assert found.target is not None, "there is a target"
    accelerator = found.target.spec.accelerator
    return snapshot(
        found.synthesis,
        now=0.0,
        model_folder="/model",
        platform=found.target.spec.platform,
        accelerators=0 if accelerator is None else accelerator.count,
        profile=agents_of(found.profile),
    )


def agents_of(profile: AgentProfile | None) -> AgentProfileSpec:
    """The agents of a synthesis: the playbook where it names no profile."""
    return profile.spec if profile is not None else AgentProfileSpec()
