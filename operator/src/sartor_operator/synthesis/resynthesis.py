"""When the search runs again for the same intent: what differs from what the last search found, and who asked.

| trigger | seen by |
|---|---|
| the annotation `sartor.dev/resynthesize` | another value than the newest run began with; no cooldown |
| `baselineVersion` | the image of the baseline's engine (HardwareTarget, installation) is another one |
| `driver` | none of the drivers that the run began with is on the HardwareTarget's nodes any more |
| `hardware` | the same for products; or platform, accelerator or resources of the HardwareTarget are others |
| `drift` | the rollout of the winner says so (`SynthesisObserved.drift`; rollouts tell no live speed-up yet) |
| `modelRevision` | pinned in the spec: another one is another intent, and its run says `ModelRevision` as its cause |
| `skills` | by nothing yet: they come with the image of the agents |

Compared is with the newest run of the intent, once it has ended: so each change starts one run, however often it is seen,
and a change during a search is seen after it. What a run began with stands in its immutable spec; nothing is remembered
elsewhere, so a repository that holds the annotation can be applied as often as one likes. A rolling update of the nodes
(the old driver beside the new one) waits for its end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sartor_api.policy import Trigger
from sartor_api.serving_synthesis import ServingSynthesisSpec
from sartor_api.synthesis_run import Environment, RunCause, RunPhase, SynthesisRunSpec
from sartor_operator.pods.common import Place
from sartor_operator.synthesis.intent import intent_of
from sartor_operator.synthesis.observe import RunSeen, SynthesisObserved
from sartor_operator.synthesis.references import agents_of
from sartor_operator.target import SEPARATOR
from sartor_operator.understood import understood

REQUEST = "sartor.dev/resynthesize"
"""Annotation of a ServingSynthesis; another value asks for another search."""
LONGEST_REQUEST = 256


@dataclass(frozen=True)
class Due:
    """Another search of the same intent: why, in a few words, and from when on (Unix seconds)."""

    cause: RunCause
    why: str
    not_before: float


def request_of(observed: SynthesisObserved) -> str:
    """The annotation's value; that of the newest run where there is none, so that removing it asks for nothing."""
    annotations = observed.manifest["metadata"].get("annotations") or {}
    said = str(annotations.get(REQUEST) or "")[:LONGEST_REQUEST]
    return said or (observed.runs[-1].request if observed.runs else "")


def environment_of(observed: SynthesisObserved) -> Environment:
    """What is found now and stands in no spec."""
    status = observed.nodes
    return Environment(
        product=status.product if status is not None else None,
        driver_version=status.driver_version if status is not None else None,
        baseline_image=_baseline_image(observed),
        request=request_of(observed),
    )


def _baseline_image(observed: SynthesisObserved) -> str | None:
    found = observed.references
    if found.target is None:
        return None
    spec = observed.synthesis.spec
    place = Place(
        observed.settings,
        found.target.spec,
        agents_of(found.profile),
        spec.model.source,
        baseline_image=spec.baseline.image,
    )
    return place.image("baseline")


def due(observed: SynthesisObserved) -> Due | None:
    """The search that is due for this intent, if its newest run has ended and something asks for another one."""
    newest = observed.current
    if newest is None or not newest.ended:
        return None
    request = request_of(observed)
    if request != observed.runs[-1].request:
        return Due(RunCause.MANUAL, f"annotation {REQUEST}: {request}", 0.0)
    if newest.status.phase is RunPhase.CANCELLED:
        return None  # a human ended it
    run = understood(SynthesisRunSpec, newest.manifest["spec"], f"SynthesisRun {newest.name}: spec")
    ended = max(r.status.finished_at for r in observed.runs if r.status.finished_at is not None)
    rest = ended.timestamp() + observed.synthesis.spec.resynthesis.cooldown.seconds
    for trigger, (cause, seen) in SEEN.items():
        if trigger in observed.synthesis.spec.resynthesis.triggers and (why := seen(observed, run)) is not None:
            return Due(cause, why, rest)
    return None


def cause_of(observed: SynthesisObserved) -> RunCause:
    """Why a run for an intent that has none begins: what of the spec is another than in the newest run."""
    if not observed.runs:
        return RunCause.CREATED
    newest = observed.runs[-1]
    before = understood(
        SynthesisRunSpec, newest.manifest["spec"], f"SynthesisRun {newest.name}: spec"
    ).snapshot.synthesis
    now = observed.synthesis.spec
    if newest.intent == observed.intent:
        return RunCause.SPEC_CHANGED
    model = now.model.model_copy(update={"source": before.model.source})
    if _same(now.model_copy(update={"model": model}), newest):
        return RunCause.MODEL_REVISION
    baseline = now.baseline.model_copy(update={"image": before.baseline.image})
    if _same(now.model_copy(update={"baseline": baseline}), newest):
        return RunCause.BASELINE_VERSION
    return RunCause.SPEC_CHANGED


def _same(spec: ServingSynthesisSpec, run: RunSeen) -> bool:
    return intent_of(spec) == run.intent


# --- what is seen ---------------------------------------------------------------------------------------------------


def _baseline_version(observed: SynthesisObserved, run: SynthesisRunSpec) -> str | None:
    before = run.snapshot.environment.baseline_image if run.snapshot.environment is not None else None
    now = _baseline_image(observed)
    return f"baseline image {before} → {now}" if before and now and before != now else None


def _driver(observed: SynthesisObserved, run: SynthesisRunSpec) -> str | None:
    before = run.snapshot.environment.driver_version if run.snapshot.environment is not None else None
    now = observed.nodes.driver_version if observed.nodes is not None else None
    return f"driver {before} → {now}" if _replaced(before, now) else None


def _hardware(observed: SynthesisObserved, run: SynthesisRunSpec) -> str | None:
    before = run.snapshot.environment.product if run.snapshot.environment is not None else None
    now = observed.nodes.product if observed.nodes is not None else None
    if _replaced(before, now):
        return f"hardware {before} → {now}"
    target = observed.references.target
    if target is None:
        return None
    others = [field for field in _SHAPE if getattr(run.snapshot.hardware, field) != getattr(target.spec, field)]
    if not others:
        return None
    return f"HardwareTarget {target.name}: spec.{', spec.'.join(others)} changed"


_SHAPE = ("platform", "accelerator", "resources")
"""Fields of a HardwareTarget's spec that say what a replica gets. The names are the same in the manifest."""


def _replaced(before: str | None, now: str | None) -> bool:
    """Whether nothing of what was there is there any more. What is unknown is no change."""
    return bool(before and now) and not set((before or "").split(SEPARATOR)) & set((now or "").split(SEPARATOR))


def _drift(observed: SynthesisObserved, run: SynthesisRunSpec) -> str | None:
    return observed.drift


SEEN: Mapping[Trigger, tuple[RunCause, Callable[[SynthesisObserved, SynthesisRunSpec], str | None]]] = {
    "hardware": (RunCause.HARDWARE, _hardware),
    "driver": (RunCause.DRIVER, _driver),
    "baselineVersion": (RunCause.BASELINE_VERSION, _baseline_version),
    "drift": (RunCause.DRIFT, _drift),
}
"""Triggers that are looked for, the one that explains most first."""

UNSEEN: Mapping[Trigger, str] = {
    "drift": "no rollout tells a live speed-up",
    "skills": "skills come with the image of the agents",
}
"""Triggers that nothing in this version can set off, and why."""


def unseen(spec: ServingSynthesisSpec) -> str:
    """What to say of triggers that are asked for in vain; empty if there are none."""
    vain = [f"{trigger} ({why})" for trigger, why in UNSEEN.items() if trigger in spec.resynthesis.triggers]
    return f"not seen by this version: spec.resynthesis.triggers {', '.join(vain)}" if vain else ""
