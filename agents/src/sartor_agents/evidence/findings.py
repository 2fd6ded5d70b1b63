"""What a check of a bundle found: one sentence each."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["holds", "fails", "unchecked"]


@dataclass(frozen=True)
class Finding:
    """`check` is a constant name, `message` a sentence: what holds, what is wrong, or why nobody looked."""

    check: str
    outcome: Outcome
    message: str


class Findings:
    """Collects findings; a check that finds nothing wrong says so once."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def holds(self, check: str, message: str) -> None:
        self.all.append(Finding(check, "holds", message))

    def fails(self, check: str, message: str) -> None:
        self.all.append(Finding(check, "fails", message))

    def unchecked(self, check: str, message: str) -> None:
        self.all.append(Finding(check, "unchecked", message))

    def settle(self, check: str, problems: Iterable[str], otherwise: str) -> bool:
        """All problems as failures, or the one sentence that holds. Returns whether it holds."""
        found = list(problems)
        for problem in found[:MOST]:
            self.fails(check, problem)
        if len(found) > MOST:
            self.fails(check, f"… and {len(found) - MOST} more of this kind")
        if not found:
            self.holds(check, otherwise)
        return not found

    @property
    def failed(self) -> bool:
        return any(finding.outcome == "fails" for finding in self.all)


MOST = 5
"""Failures of one check that are told one by one."""
