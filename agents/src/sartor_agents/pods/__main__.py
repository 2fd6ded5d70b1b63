"""`python -m sartor_agents.pods ROLE`, also installed as `sartor-role`.

| role | container | ends with |
|---|---|---|
| `tuner` | of the baseline step | a report |
| `history`, `planner`, `recorder` | of the plan step, in this order | the recorder's report |
| `source`, `implementer`, `committer` | of the implement step, in this order | the committer's report |
| `judge`, `evaluator` | of the judge, evaluate and confirm steps | a report |
| `fetch-model` | before any of them, where the model is not mounted | nothing |

A report goes to the termination message (`$TERMINATION_LOG`, by default /dev/termination-log) and the exit code is 0, also
where the result is a failure with its class. Any other exit code means that there is no answer; the message then is a
sentence: 1 a defect of Sartor, 2 the pod was not given what it needs, 3 the repository or the model could not be had,
4 no space, 143 ended from outside.
"""

import os
import signal
import site
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from types import FrameType

from sartor_agents.checkpoints.errors import CheckpointError
from sartor_agents.pods import contract, implementer, model, planner
from sartor_agents.pods.contract import ContractError, Pod
from sartor_agents.pods.remote import RefusedError, RemoteError
from sartor_agents.pods.tools import Tools
from sartor_agents.run.errors import BadRequestError, StorageError
from sartor_agents.run.role import RoleError
from sartor_api.search.records import FailureClass
from sartor_api.search.wire import LONGEST_REPORT, StepReport, failed, report_text

ROLES = (*contract.STEPS, "fetch-model")
TERMINATION_LOG = "/dev/termination-log"


class ExitCode(IntEnum):
    """What a role's container ends with."""

    DONE = 0
    DEFECT = 1
    BAD_CONTRACT = 2
    NOT_TO_BE_HAD = 3
    NO_SPACE = 4
    ENDED = 143


def report(pod: Pod, tools: Tools) -> StepReport:
    """What the role says of its step. Raises `ContractError` and `StorageError`: those are no answers.

    Failure classes as in `sartor run`: a role's process that gave nothing, and a repository that could not keep the result,
    are the infrastructure's fault. A result without its evidence in the repository is none.
    """
    try:
        if pod.role in ("recorder", "committer"):
            return planner.record(pod, tools) if pod.role == "recorder" else implementer.commit(pod, tools)
        # Statistics and the judge take a second to load, which the containers around an agent do not have.
        from sartor_agents.pods import looking

        match pod.role:
            case "tuner":
                return looking.run(pod, tools, "evaluator", looking.tuned)
            case "judge":
                return looking.run(pod, tools, "judge", looking.judge)
            case _:
                return looking.run(pod, tools, "evaluator", looking.evaluate)
    except RoleError as error:
        return _failed(pod, error.reason, str(error))
    except RefusedError as error:
        return _failed(pod, "RepositoryRefused", f"the repository refused: {error}")
    except RemoteError as error:
        return _failed(pod, "RepositoryUnavailable", f"the repository could not be used: {error}")


def _failed(pod: Pod, reason: str, text: str) -> StepReport:
    gate = pod.begin.step.value
    return StepReport(step=pod.begin.id, result=failed(gate, reason, text, FailureClass.INFRASTRUCTURE))


def work(role: str, values: Mapping[str, str], tools: Tools, *, now: float, wall: float) -> StepReport | None:
    """One role, from its environment to its report (None for the containers that only prepare).

    Raises `ContractError`, `StorageError`, `RemoteError`, `RefusedError`, `CheckpointError`.
    """
    if role == "fetch-model":
        model.fetch(values)
        return None
    if role in ("committer", "recorder") and site.ENABLE_USER_SITE:
        raise ContractError(
            f"the {role} would load packages from its home folder, which the agent may write; set PYTHONNOUSERSITE=1"
        )
    pod = contract.read(role, values, now=now, wall=wall)
    match role:
        case "source":
            implementer.fetch_source(pod, tools)
            return None
        case "implementer":
            implementer.implement(pod, tools)
            return None
        case "history":
            planner.prepare(pod, tools)
            return None
        case "planner":
            planner.plan(pod, tools)
            return None
        case _:
            return report(pod, tools)


def main(arguments: Sequence[str] | None = None, tools: Tools | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1 or given[0] not in ROLES:
        sys.stderr.write(f"usage: python -m sartor_agents.pods {{{','.join(ROLES)}}}\n")
        return ExitCode.BAD_CONTRACT
    log = Path(os.environ.get("TERMINATION_LOG") or TERMINATION_LOG)
    signal.signal(signal.SIGTERM, _interrupt)
    if given[0] == "fetch-model":
        # The hub's client reads this when it is imported; its cache has to lie where there is room.
        os.environ["HF_HOME"] = str(Path(os.environ.get("SARTOR_MODEL") or "/model") / ".fetch" / "hub")
    try:
        answer = work(given[0], os.environ, tools or Tools(say=_say), now=time.monotonic(), wall=time.time())
        if answer is not None:
            log.write_text(report_text(answer), encoding="utf-8")
            _say(f"{answer.step}: {answer.result.kind}")
        return ExitCode.DONE
    except (ContractError, BadRequestError) as error:
        return _without(log, str(error), ExitCode.BAD_CONTRACT)
    except (RefusedError, RemoteError, CheckpointError) as error:
        return _without(log, str(error), ExitCode.NOT_TO_BE_HAD)
    except StorageError as error:
        return _without(log, error.message, ExitCode.NO_SPACE)
    except KeyboardInterrupt:
        return _without(log, "ended from outside before there was a result", ExitCode.ENDED)
    except Exception as error:  # noqa: BLE001 - the last place where a defect can become a sentence
        traceback.print_exc()
        return _without(log, f"defect in role {given[0]}: {type(error).__name__}: {error}", ExitCode.DEFECT)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _without(log: Path, sentence: str, code: ExitCode) -> int:
    """No answer: the sentence goes to the log and, for whoever reads only the pod's status, into the message."""
    _say(f"sartor-role: {sentence}")
    try:
        log.write_text(sentence[: LONGEST_REPORT // 4], encoding="utf-8")
    except OSError as error:
        _say(f"{log}: {error.strerror}")
    return code


if __name__ == "__main__":
    sys.exit(main())
