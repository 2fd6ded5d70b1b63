"""The implementer's three containers, one after the other in one pod.

- `source` (with the identity) puts the files that the round starts from into the worktree;
- `implementer` (without it) is the agent: it writes `stack/` and says what it did in `answer.json`;
- `committer` (with it) runs when the agent has gone, takes nothing on trust of what lies in the shared folder, and commits.
"""

import shutil
import stat
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sartor_agents.backends.protocol import ImplementContext
from sartor_agents.pods.agent import declared_failure, read_answer, spent, write_answer
from sartor_agents.pods.contract import ContractError, Pod, first_problem
from sartor_agents.pods.records import MOST_TRIES, STEP_TRAILER, message
from sartor_agents.pods.remote import MovedError, RefusedError, Remote, RemoteError
from sartor_agents.pods.tools import Tools, serving_hardware
from sartor_agents.roles.messages import ImplementRequest, ImplementResponse
from sartor_agents.run.content import ContentError, content_hash, count_lines, snapshot
from sartor_agents.run.model import configuration_copy
from sartor_agents.run.role import RoleError
from sartor_agents.run.storage import storage_errors, write_atomic
from sartor_api.search.records import Cost, FailureClass, Implementation
from sartor_api.search.wire import StepReport, failed
from sartor_skills.library import library_root

LONGEST_SUMMARY, LONGEST_NAME, MOST_SKILLS = 4000, 64, 32
"""What is kept of what an agent says of its work, in characters and skills."""
ANSWER_TRAILER = "Sartor-Answer: "


class Declared(BaseModel):
    """What a commit says of itself, so that a pod that is started again can report it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: str = ""
    skills_used: tuple[str, ...] = ()
    cost: Cost = Cost()


def worktree(pod: Pod) -> Path:
    return pod.work / "tree"


# --- source -----------------------------------------------------------------------------------------------------------


def fetch_source(pod: Pod, tools: Tools) -> None:
    """The files that the step starts from, into the worktree. Raises `RemoteError`, `RefusedError`."""
    tree = worktree(pod)
    with storage_errors(tree):
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
    if pod.begin.source is None:
        return
    with tools.remote(pod) as remote:
        for path, data in remote.files(pod.begin.source, "stack").items():
            target = tree / path
            with storage_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
    write_atomic(pod.work / "source", pod.begin.source.encode())


# --- the agent --------------------------------------------------------------------------------------------------------


def implement(pod: Pod, tools: Tools) -> None:
    """Ask the backend, and write its answer for the committer: an answer in any case. Raises `ContractError`."""
    begin, spec, tree = pod.begin, pod.spec, worktree(pod)
    if begin.plan is None:
        raise ContractError(f"SARTOR_STEP_FILE: step {begin.id} has no plan to implement")
    marker = pod.work / "source"
    if begin.source is not None and (not marker.is_file() or marker.read_text(encoding="ascii") != begin.source):
        raise ContractError(
            f"{tree} does not hold commit {begin.source[:12]}, which step {begin.id} starts from; run the container "
            "`source` (with SARTOR_TOKEN_FILE) before the implementer"
        )
    tree.mkdir(exist_ok=True)
    context = ImplementContext(
        run=spec,
        plan=begin.plan,
        attempt=begin.attempt,
        worktree=tree,
        model_dir=configuration_copy(pod.model, pod.work / "model"),
        hardware=serving_hardware(spec, begin.baseline, tools.hardware()),
        skills_root=library_root() if spec.skills else None,
        feedback=begin.feedback,
        allowance=begin.reserve,
    )
    request = ImplementRequest(backend=str(spec.agents.get("backend", "playbook")), context=context)
    try:
        response = tools.ask(pod, "implementer", request, ImplementResponse, model=True)
    except RoleError as error:
        said = failed("implement", error.reason, str(error), FailureClass.INFRASTRUCTURE)
        response = ImplementResponse(failure=said)
    write_answer(pod, response)


# --- the committer ----------------------------------------------------------------------------------------------------


def commit(pod: Pod, tools: Tools) -> StepReport:
    """Check what the agent left and commit it to the round's branch. Raises `RemoteError`, `RefusedError`, `RoleError`."""
    begin = pod.begin
    if begin.plan is None:
        raise ContractError(f"SARTOR_STEP_FILE: step {begin.id} has no plan to implement")
    branch = begin.branch or f"candidate/{begin.round:03d}"
    ref = f"refs/heads/{branch}"
    with tools.remote(pod) as remote:
        for _ in range(MOST_TRIES):
            tip = remote.fetch_tip(ref)
            if tip is not None and (known := _pushed(remote, pod, tip)) is not None:
                return known
            answer = read_answer(pod, ImplementResponse, "implementer")
            cost = spent(pod, answer.usage, tools.say, tools.sleep)
            if answer.implementation is None:
                said = declared_failure(answer.failure, "implement", "implementer")
                return StepReport(step=begin.id, result=said, cost=cost)
            try:
                files = read_stack(worktree(pod))
            except ContentError as error:
                return _refused(pod, error.reason, str(error), cost)
            declared = Declared(
                summary=answer.implementation.summary[:LONGEST_SUMMARY],
                skills_used=tuple(skill[:LONGEST_NAME] for skill in answer.implementation.skills_used[:MOST_SKILLS]),
                cost=cost,
            )
            # As on one machine: the branch goes on from its own earlier attempts, a first one from the plan's parent.
            parent = tip or begin.plan.parent
            if parent is not None and tip is None:
                remote.fetch(parent, contents=False)
            said = f"Round {begin.round}: {declared.summary or 'candidate'}"
            text = message(pod, said, branch, f"{ANSWER_TRAILER}{declared.model_dump_json()}")
            made = remote.commit(parent, files, text, begin.begun, whole=True)
            try:
                remote.push(made, ref)
            except MovedError:
                continue
            except RefusedError as error:
                return _refused(pod, "PushRefused", f"the candidate was not taken: {error}", cost)
            return _report(pod, made, files, declared)
    raise RemoteError(f"{branch} moved on {MOST_TRIES} times while the candidate was stored")


def _refused(pod: Pod, reason: str, text: str, cost: Cost) -> StepReport:
    result = failed("implement", reason, text, FailureClass.CANDIDATE)
    return StepReport(step=pod.begin.id, result=result, cost=cost)


def _report(pod: Pod, made: str, files: dict[str, bytes], declared: Declared) -> StepReport:
    result = Implementation(
        commit=made,
        content_hash=content_hash(files),
        lines=count_lines(files),
        summary=declared.summary,
        skills_used=declared.skills_used,
    )
    return StepReport(step=pod.begin.id, result=result, cost=declared.cost, commit=made)


def _pushed(remote: Remote, pod: Pod, tip: str) -> StepReport | None:
    """The candidate that an earlier life of this pod pushed, if there is one."""
    wanted = f"{STEP_TRAILER}{pod.begin.id}"
    for name, text in remote.messages(tip):
        lines = text.split("\n")  # not splitlines: a JSON text may hold other separators
        if wanted not in lines:
            continue
        said = next((line.removeprefix(ANSWER_TRAILER) for line in lines if line.startswith(ANSWER_TRAILER)), "{}")
        try:
            declared = Declared.model_validate_json(said)
        except ValidationError as error:
            raise RemoteError(f"the message of commit {name[:12]} is damaged: {first_problem(error)}") from error
        return _report(pod, name, remote.files(name, "stack"), declared)
    return None


def read_stack(tree: Path) -> dict[str, bytes]:
    """The candidate's files. Raises `ContentError` for what no candidate may be, a worktree that is a link included."""
    try:
        mode = tree.lstat().st_mode
    except FileNotFoundError:
        raise ContentError("StackIncomplete", "the worktree is gone") from None
    if not stat.S_ISDIR(mode):
        raise ContentError("LinkInStack", "the worktree itself is no folder")
    return snapshot(tree)
