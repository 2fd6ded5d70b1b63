"""Reasons that only the operator gives, beside those of `sartor_api.conditions`, and the reference of all its words.

`python -m sartor_operator.reasons` prints the reference; `operator/docs/reasons.md` is it (`--write`, `--check`).
"""

import argparse
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from sartor_api.conditions import ConditionType, Reason


class OperatorReason(StrEnum):
    """Why a condition has its status, where the API has no word for it."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> "OperatorReason":
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member

    NOT_SUPPORTED = (
        "NotSupported",
        "The spec asks for something that this version cannot do yet; the message says what it can.",
    )
    PRICE_UNKNOWN = (
        "PriceUnknown",
        "Money is bounded or has to be earned back, and the HardwareTarget names no price, or one in another currency.",
    )
    WRITE_REFUSED = (
        "WriteRefused",
        "The API server refuses a write (quota, admission, permissions), or a name is taken; the message has its words.",
    )
    DELIVERING = "Delivering", "The winner is confirmed, and its Deployments are not ready yet."
    NOT_DELIVERED = "NotDelivered", "The winner stays an artefact of its run, because spec.delivery.mode is none."


STEP_REASONS: dict[str, tuple[str, str]] = {
    "BaselineLost": ("infrastructure", "The run's baseline went away or was restarted while a step used it."),
    "BaselineNotReady": ("infrastructure", "The run's baseline was not ready within the target's startTimeout."),
    "BuildFailed": ("candidate", "`python -m stack build` ended with another code than 0."),
    "BuildMemoryExceeded": ("candidate", "The build used more memory than a candidate may."),
    "BuildTimedOut": ("candidate", "The build did not end in time."),
    "CandidateExited": ("candidate", "The candidate's server ended by itself."),
    "CandidateMemoryExceeded": ("candidate", "The candidate's server used more memory than it may."),
    "CandidateNotReady": ("candidate", "The candidate did not answer /health in time."),
    "CandidatePodLost": ("infrastructure", "The candidate's pod was deleted or replaced while a step looked at it."),
    "CommitMissing": ("candidate", "The run's repository has no such commit, or no stack/ in it."),
    "ContainerNotStarted": ("infrastructure", "The container runtime could not start a container."),
    "ContentChanged": ("candidate", "The commit does not hold the content that was said to be in it."),
    "ImageUnavailable": ("infrastructure", "An image, or something that a container refers to, cannot be had."),
    "PlanInvalid": ("provider", "The plan is for another round or starts from an unknown commit."),
    "PodDisrupted": ("infrastructure", "The pod was preempted or deleted, or its node was lost."),
    "PodEvicted": ("infrastructure", "The node evicted the pod, for memory or disk."),
    "PodFailed": ("infrastructure", "The pod failed, and no container says why."),
    "PodLost": ("infrastructure", "The pod was deleted, and its node does not answer."),
    "PodSetupFailed": ("infrastructure", "A container that prepares the pod (the model, the stack) failed."),
    "RecordLost": ("infrastructure", "The record of a step was deleted, and its Job is gone, too."),
    "ReportUntrue": ("candidate or infrastructure", "A role's report contradicts what it was asked."),
    "ResultLost": ("infrastructure", "The Job is complete, and its pod is gone with the result."),
    "RoleAnsweredGarbage": ("infrastructure", "The termination message of a role is no step report."),
    "RoleFailed": ("infrastructure", "A role's container ended with another code than 0."),
    "RoleGaveNothing": ("infrastructure", "A role ended well and left no termination message."),
    "RoleMemoryExceeded": ("infrastructure", "A role used more memory than it may."),
    "SealedDataLeaked": ("candidate", "The stack holds the run's canary or the key of its seeds, in whatever form."),
    "SealLost": ("infrastructure", "The key of the run's seeds was replaced after a seed had been committed to."),
    "StackTooLarge": ("candidate", "The stack does not fit into the ConfigMaps that deliver it."),
    "StepOverdue": ("infrastructure", "The step did not end within its deadline."),
}
"""Class and meaning of the failures that the operator itself sees; judge and evaluator have words of their own."""

EVENTS: dict[str, str] = {
    "RunStarted": "A search began.",
    "BaselineMeasured": "The baseline was tuned and measured.",
    "Planned": "A round has its hypothesis.",
    "Implemented": "A candidate is committed.",
    "Judged": "A candidate passed every gate.",
    "Measured": "A candidate was measured against the baseline.",
    "StepDone": "A step ended well.",
    "StepFailed": "A step failed; the message has the class and the reason.",
    "RunFinished": "A search ended.",
    "RunEnded": "A search was ended by a human or by a newer one.",
    "Delivered": "The winner and the baseline are ready in the cluster.",
    "WriteRefused": "The API server refuses a write (quota, admission, permissions); the message has its words.",
    "Stalled": "Nothing will happen until somebody changes something.",
    "RolloutCreated": "A rollout was made for a winner; the message says what will not be watched.",
    "RolloutEnded": "The rollout of a winner was promoted, came back, or was refused.",
    "RolloutStarted": "Traffic begins to move: the first step.",
    "StepStarted": "The Gateway accepted the weights of a step, and its time begins.",
    "StepPassed": "A step was left for the next one; the message says why.",
    "RolloutFrozen": "Nothing can be known, so nothing moves; the message has the reason.",
    "RolloutThawed": "What stood in the way of a rollout is over.",
    "RolloutPromoting": "All traffic moves to the candidate.",
    "RolloutPromoted": "All traffic is on the candidate, and that is durable.",
    "RolloutTurnedBack": "Traffic goes back to the baseline; the message says why.",
    "RolledBack": "All traffic is on the baseline again.",
    "RolloutSuperseded": "A newer rollout goes on from what this one promoted.",
    "RolloutWaits": "A rollout stands before its first step again.",
    "ArmLost": "An arm has no ready endpoint any more; its traffic goes to the other one.",
    "ArmUnreachable": "The gateway cannot connect to an arm that is ready on paper; its traffic goes to the other one.",
    "RouteChanged": "Somebody else changed the HTTPRoute of a rollout; it is put back.",
}
"""Reasons of the Events."""


def render() -> str:
    """The reference in Markdown."""
    lines = [
        "# Words of the operator",
        "",
        "Generated from `sartor_api.conditions` and `sartor_operator.reasons`; do not edit "
        "(`python -m sartor_operator.reasons --write operator/docs/reasons.md`).",
        "",
        "## Conditions",
        "",
        "| type | holds when |",
        "|---|---|",
        *(f"| `{one.value}` | {one.meaning} |" for one in ConditionType),
        "",
        "## Reasons of conditions",
        "",
        "| reason | holds when |",
        "|---|---|",
        *(f"| `{one.value}` | {one.meaning} |" for one in (*Reason, *OperatorReason)),
        "",
        "## Why a step failed",
        "",
        "| reason | class | holds when |",
        "|---|---|---|",
        *(f"| `{name}` | {blamed} | {meaning} |" for name, (blamed, meaning) in sorted(STEP_REASONS.items())),
        "",
        "## Events",
        "",
        "| reason | says |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in EVENTS.items()),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: printed, written, or current; 1: the page is out of date (with `--check`)."""
    parser = argparse.ArgumentParser(prog="python -m sartor_operator.reasons", description="The operator's words.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", type=Path, metavar="PAGE", help="write nothing; fail if this page is out of date")
    what.add_argument("--write", type=Path, metavar="PAGE", help="write this page if it is out of date")
    options = parser.parse_args(arguments)
    page: Path | None = options.check or options.write
    if page is None:
        sys.stdout.write(render())
        return 0
    if page.is_file() and page.read_text(encoding="utf-8") == render():
        return 0
    if options.check is not None:
        sys.stderr.write(f"{page} is out of date; run python -m sartor_operator.reasons --write {page}\n")
        return 1
    page.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"wrote {page}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
