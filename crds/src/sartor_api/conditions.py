"""Condition types and reasons: every word that a status may use, with when it holds.

`Ready`, `Reconciling` and `Stalled` follow kstatus, so that Argo CD, Flux and `kubectl wait` read them; the others
are Sartor's own. Reasons are shared by the kinds, and the reference page lists them from here.
"""

from enum import StrEnum


class _Documented(StrEnum):
    """A closed set of words, each with the sentence that says when it holds."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> "_Documented":
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member


class ConditionType(_Documented):
    """What is observed."""

    READY = "Ready", "The object is what its spec wants, as far as anybody can see."
    RECONCILING = "Reconciling", "Work is under way; absent or False when there is nothing to do."
    STALLED = "Stalled", "Nothing will happen until somebody changes something; the message says what."
    BASELINE_READY = "BaselineReady", "The baseline was measured, or, in a rollout, can take all traffic."
    CANDIDATE_READY = "CandidateReady", "The candidate can take the share of traffic that it is meant to have."
    CONFIRMED = "Confirmed", "The winner was measured again on a seed that no round saw, and the claim held."
    DELIVERED = "Delivered", "The winner is in the cluster, or its commit in the repository that the team follows."
    ROUTE_ACCEPTED = "RouteAccepted", "The Gateway named in the spec accepted the route of this generation."
    FROZEN = "Frozen", "Weights stand still because nothing can be known."
    WITHIN_BUDGET = "WithinBudget", "Every budget has enough left for the next step and the confirmation."
    PAYS_BACK = "PaysBack", "At the traffic known, the search earns back what it costs within the time set."
    DRIFTED = "Drifted", "The live speed-up left its confirmed interval."


class Reason(_Documented):
    """Why a condition has its status."""

    # Ready and Reconciling
    SUCCEEDED = "Succeeded", "Everything that was wanted is done."
    PROGRESSING = "Progressing", "Work is under way."
    SERVING = "Serving", "The winner serves the traffic."
    SUSPENDED = "Suspended", "spec.suspend is true; set it to false to go on."
    PAUSED = "Paused", "A human, or a pause step, stopped it; resume or promote to go on."
    AWAITING_PROMOTION = "AwaitingPromotion", "All steps passed and promotion is manual; promote to go on."
    AWAITING_QUOTA = "AwaitingQuota", "Kueue has not admitted the Job yet."
    AWAITING_NODE = "AwaitingNode", "No node has room for the pod yet."
    AWAITING_COMMIT = "AwaitingCommit", "The commit is in the repository; whoever follows it has not applied it yet."
    COOLDOWN = "Cooldown", "A re-synthesis is due, and waits for the cooldown to end."
    RETRYING = "Retrying", "A step failed for reasons outside the candidate and is tried again."
    # Stalled: references and input
    HARDWARE_TARGET_NOT_FOUND = "HardwareTargetNotFound", "spec.hardware.targetRef names no HardwareTarget."
    AGENT_PROFILE_NOT_FOUND = "AgentProfileNotFound", "spec.agents.profileRef names no AgentProfile."
    SECRET_NOT_FOUND = "SecretNotFound", "A Secret that the spec refers to, or its key, does not exist."
    MODEL_UNAVAILABLE = "ModelUnavailable", "The checkpoint cannot be had from its source."
    MODEL_UNSUPPORTED = "ModelUnsupported", "The architecture is none that the skills know for this platform."
    TRACE_INVALID = "TraceInvalid", "The trace is missing, empty or malformed."
    NO_MATCHING_NODE = "NoMatchingNode", "No node has what the HardwareTarget asks for."
    PROVIDER_UNAVAILABLE = "ProviderUnavailable", "No endpoint of the AgentProfile answers."
    CREDENTIALS_REFUSED = "CredentialsRefused", "A provider, registry or repository refuses the credentials."
    # Ends of a run
    TARGET_MET = "TargetMet", "The speed-up asked for was reached."
    PLATEAU = "Plateau", "The last rounds brought no significant gain."
    THRASHING = "Thrashing", "The last rounds brought nothing new to measure."
    EXHAUSTED = "Exhausted", "The planner has nothing left to try."
    BUDGET_SPENT = "BudgetSpent", "A budget has nothing left beyond the reserve for the confirmation; the best is kept."
    BELOW_MINIMUM_SPEEDUP = "BelowMinimumSpeedup", "The best stack is confirmed, and below minimumSpeedup."
    NOT_CONFIRMED = "NotConfirmed", "The fresh measurement did not bear out the claim."
    CANNOT_PAY_BACK = (
        "CannotPayBack",
        "At the traffic known the search cannot earn back its cost; with policy require it does not begin, or ends.",
    )
    CANCELLED = "Cancelled", "A human ended it."
    SUPERSEDED = "Superseded", "A newer run or rollout took its place."
    # Failure classes
    CANDIDATE_FAILURE = "CandidateFailure", "The candidate's own fault: does not build, start, answer or hold a gate."
    INFRASTRUCTURE_FAILURE = "InfrastructureFailure", "Pods, nodes, storage or the network failed too often."
    PROVIDER_FAILURE = "ProviderFailure", "The model's provider failed too often."
    MEASUREMENT_FAILURE = (
        "MeasurementFailure",
        "No valid measurement could be made: contention, throttling, foreign load.",
    )
    BASELINE_FAILURE = "BaselineFailure", "The baseline does not start, or died while it was measured."
    # Rollout
    ROUTE_NOT_ACCEPTED = "RouteNotAccepted", "The Gateway did not accept the route; the message has its reason."
    ROUTE_CONFLICT = "RouteConflict", "Somebody else writes the HTTPRoute, or another rollout owns it."
    FEATURE_MISSING = "FeatureMissing", "The Gateway lacks a feature that a step needs (mirroring, say)."
    GUARDRAIL_FAILED = "GuardrailFailed", "A guardrail failed; traffic is back at the baseline."
    INCONCLUSIVE = "Inconclusive", "The samples of this step decide nothing within the time set."
    NO_SAMPLES = "NoSamples", "No source gives samples."
    CLOCK_JUMPED = "ClockJumped", "The clock jumped; samples of this step are void."
    BOTH_ARMS_BAD = "BothArmsBad", "Both arms break the guardrail, so it says nothing about the candidate."
    BASELINE_NOT_READY = "BaselineNotReady", "The baseline has no ready capacity for all traffic."
    CANDIDATE_NOT_READY = "CandidateNotReady", "The candidate has no ready capacity for its share."
    BASELINE_UNREACHABLE = (
        "BaselineUnreachable",
        "The gateway cannot connect to the baseline, whose endpoints are ready, while the candidate answers.",
    )
    CANDIDATE_UNREACHABLE = (
        "CandidateUnreachable",
        "The gateway cannot connect to the candidate, whose endpoints are ready, while the baseline answers.",
    )
    CONTENT_REJECTED = "ContentRejected", "These bytes were rolled back before; they are not tried again by themselves."
    DEADLINE_EXCEEDED = "DeadlineExceeded", "A step took longer than its deadline."
    PROMOTED = "Promoted", "All traffic is on the candidate, durably."
    ROLLED_BACK = "RolledBack", "All traffic is on the baseline again."
