"""The phases of a run, and why its actions are taken."""

from enum import StrEnum


class Phase(StrEnum):
    """Where a run stands. Derived, never stored."""

    TUNING = "Tuning"
    PLANNING = "Planning"
    IMPLEMENTING = "Implementing"
    JUDGING = "Judging"
    EVALUATING = "Evaluating"
    CONFIRMING = "Confirming"
    FINISHED = "Finished"


class Reason(StrEnum):
    """Why an action is taken. Every constant is documented by the row of `TRANSITIONS` (or the stop rule) that gives it."""

    # waiting, in any phase
    STEP_OVERDUE = "StepOverdue"
    STEP_IN_FLIGHT = "StepInFlight"
    BACKING_OFF = "BackingOff"
    # work
    BASELINE_NOT_MEASURED = "BaselineNotMeasured"
    ROUND_DUE = "RoundDue"
    PLAN_READY = "PlanReady"
    REPAIR_DUE = "RepairDue"
    CANDIDATE_COMMITTED = "CandidateCommitted"
    GATES_PASSED = "GatesPassed"
    CONFIRMATION_DUE = "ConfirmationDue"
    RUNNER_UP_DUE = "RunnerUpDue"
    # the end without a search
    BASELINE_UNAVAILABLE = "BaselineUnavailable"
    # the end of the search
    TARGET_MET = "TargetMet"
    PLATEAU = "Plateau"
    THRASHING = "Thrashing"
    NOTHING_LEFT = "NothingLeft"
    ROUNDS_SPENT = "RoundsSpent"
    WALL_CLOCK_SPENT = "WallClockSpent"
    ACCELERATOR_TIME_SPENT = "AcceleratorTimeSpent"
    TOKENS_SPENT = "TokensSpent"
    MONEY_SPENT = "MoneySpent"
    INFRASTRUCTURE_UNAVAILABLE = "InfrastructureUnavailable"
    PROVIDER_UNAVAILABLE = "ProviderUnavailable"
    MEASUREMENT_IMPOSSIBLE = "MeasurementImpossible"
    # the end of a confirmation
    CONFIRMATION_REFUTED = "ConfirmationRefuted"
    CONFIRMATION_UNAVAILABLE = "ConfirmationUnavailable"


MEANINGS: dict[Reason, str] = {
    Reason.STEP_OVERDUE: "The step in flight is past its deadline; it is stopped and counts as an infrastructure failure.",
    Reason.STEP_IN_FLIGHT: "A step was begun and has not ended.",
    Reason.BACKING_OFF: "The last try failed for no fault of the candidate; the next one waits.",
    Reason.BASELINE_NOT_MEASURED: "The baseline is tuned and measured before anything else.",
    Reason.ROUND_DUE: "No stop rule holds, and a whole round with its confirmation fits into every budget.",
    Reason.PLAN_READY: "The round has a plan to implement.",
    Reason.REPAIR_DUE: "The attempt failed by the candidate's own fault, and another is allowed.",
    Reason.CANDIDATE_COMMITTED: "The candidate is committed and not yet judged.",
    Reason.GATES_PASSED: "Every gate passed; the candidate may be measured.",
    Reason.CONFIRMATION_DUE: "The search is over; its best candidate is measured again on a seed that no round saw.",
    Reason.RUNNER_UP_DUE: "The best candidate did not hold; the incumbent before it is measured again.",
    Reason.BASELINE_UNAVAILABLE: "The baseline could not be measured in any try.",
    Reason.TARGET_MET: "The lower end of the incumbent's interval reached the target.",
    Reason.PLATEAU: "The last rounds each show that they gain less than the minimum effect, and no way out is left.",
    Reason.THRASHING: "The last rounds brought nothing new to measure, and no way out is left.",
    Reason.NOTHING_LEFT: "The planner has no hypothesis left.",
    Reason.ROUNDS_SPENT: "All rounds of the budget are used.",
    Reason.WALL_CLOCK_SPENT: "What is left of the wall clock is not enough for the next steps and the confirmation.",
    Reason.ACCELERATOR_TIME_SPENT: "What is left of the accelerator time is not enough for the next steps.",
    Reason.TOKENS_SPENT: "What is left of the tokens is not enough for the next steps.",
    Reason.MONEY_SPENT: "What is left of the money is not enough for the next steps.",
    Reason.INFRASTRUCTURE_UNAVAILABLE: "A step failed for the machine's fault as often as the retry policy allows.",
    Reason.PROVIDER_UNAVAILABLE: "A step failed for the agent provider's fault as often as the retry policy allows.",
    Reason.MEASUREMENT_IMPOSSIBLE: "No valid measurement could be had in as many tries as the retry policy allows.",
    Reason.CONFIRMATION_REFUTED: "Measured again, no candidate reached the minimum speed-up.",
    Reason.CONFIRMATION_UNAVAILABLE: "The confirmation could not be measured in any try.",
}
"""When each reason holds, for the reference page."""
