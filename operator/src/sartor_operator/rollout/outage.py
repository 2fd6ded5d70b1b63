"""An arm that a gateway cannot connect to, although its endpoints are said to be ready: it counts as lost, for as long.

Kubernetes notices a lost node after 40 to 50 s; until then its pods are ready on paper, and the gateway sends them a share.
The gateway's own records tell within seconds (`analysis.reach`). They are a suspicion, and what is known goes first:

- An arm without a ready endpoint is lost, whatever the records say.
- The other arm must have ready capacity for everything. Else all stays as it is.
- The candidate gets the baseline's traffic only where its step gives it some anyway.
- Where traffic goes back (an abort, a verdict, a deletion), it goes back: no suspicion against the baseline holds it up.
- Outside of steps and promotion nothing is suspected: there is no other arm to compare with.
"""

from dataclasses import replace

from sartor_operator.rollout.doubt import wanted_share
from sartor_operator.rollout.observed import RolloutObserved
from sartor_operator.rollout.progress import acting
from sartor_operator.rollout.samples import Outage


def suspects(observed: RolloutObserved) -> bool:
    """Whether an outage would be believed where the rollout stands, so that it is worth asking for."""
    return observed.deleting_since is None and acting(observed).stage in ("steps", "promoting")


def with_outage(observed: RolloutObserved, outage: Outage | None) -> RolloutObserved:
    """The rollout with what the records say, and the arm unreachable if that is to be believed."""
    observed = replace(observed, outage=outage)
    if outage is None or not suspects(observed):
        return observed
    if outage.arm == "candidate":
        if not observed.candidate.ready or not observed.baseline.can_take(100):
            return observed
        return replace(observed, candidate=replace(observed.candidate, unreachable=outage.message))
    if not observed.baseline.ready or not observed.candidate.can_take(100):
        return observed
    if wanted_share(observed, acting(observed)) == 0:
        return observed
    return replace(observed, baseline=replace(observed.baseline, unreachable=outage.message))
