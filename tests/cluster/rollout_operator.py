"""The operator as a process whose verdicts a test writes into a file: `OUTCOME [STEP]`, read with every look.

Usage: python rollout_operator.py KUBECONFIG VERDICTS [NAMESPACE]
"""

import sys
import time
from pathlib import Path

from sartor_api.serving_rollout import VerdictSummary
from sartor_operator.connection import Connection
from sartor_operator.rollout.samples import ArmCounts, ArmsAsked, Reading, StepAsked
from sartor_operator.settings import Settings
from sartor_operator.shell import Options, run
from sartor_operator.times import at


class FromFile:
    """One outcome for every step, or for one step only; `pass` for those before it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def latest(self, step: StepAsked) -> Reading:
        outcome, _, number = self._file.read_text(encoding="utf-8").strip().partition(" ")
        if number and step.number < int(number):
            outcome = "pass"
        verdict = {"outcome": outcome, "at": at(time.time()), "message": f"the test says {outcome}"}
        counts = ArmCounts(samples=int(time.time() - step.since))
        return Reading(VerdictSummary.model_validate(verdict), counts, counts)

    def outage(self, arms: ArmsAsked) -> None:
        return None


def main() -> None:
    kubeconfig, verdicts, *only = sys.argv[1:]
    namespace = only[0] if only else None
    run(
        Options(
            connection=Connection.load(kubeconfig),
            settings=Settings(),
            namespace=namespace,
            identity="rollout-tests",
            lease_namespace=namespace or "default",
            lease_seconds=0.0,
            verdicts=FromFile(Path(verdicts)),
        )
    )


if __name__ == "__main__":
    main()
