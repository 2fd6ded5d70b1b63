"""The planner's three containers, one after the other in one pod.

- `history` (with the identity) reads the run's repository and writes what the planner is to know;
- `planner` (without it) is the agent: it answers with the next hypothesis;
- `recorder` (with it) checks the answer, and stores it with the run's history in words and records on `main`.
"""

from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from sartor_agents.backends.protocol import PlanContext
from sartor_agents.memory.files import memory_files
from sartor_agents.pods.agent import declared_failure, exchange, read_answer, spent, write_answer
from sartor_agents.pods.contract import ContractError, Pod, first_problem
from sartor_agents.pods.records import MAIN, Answer, as_file, earlier, store
from sartor_agents.pods.remote import Remote, RemoteError
from sartor_agents.pods.tools import Tools, serving_hardware
from sartor_agents.roles.messages import PlanRequest, PlanResponse
from sartor_agents.run.contexts import plan_context
from sartor_agents.run.model import configuration_copy
from sartor_agents.run.record_paths import record_path
from sartor_agents.run.role import RoleError
from sartor_agents.run.storage import write_atomic
from sartor_api.search import plans
from sartor_api.search.budget import Ledger
from sartor_api.search.records import FailureClass, StepRecord
from sartor_api.search.state import RunState, fold
from sartor_api.search.wire import StepReport, failed
from sartor_skills.library import library_root

_RECORDS = ("baseline/", "rounds/", "confirm/")


def prepare(pod: Pod, tools: Tools) -> None:
    """What the planner is asked, from the repository; nothing for a step whose plan is stored already.

    Raises `RemoteError`, `RefusedError`, `ContractError`, `StorageError`.
    """
    with tools.remote(pod) as remote:
        tip = remote.fetch_tip(MAIN, contents=True)
        if earlier(remote, tip, _path(pod)) is not None:
            return
        context = planning(pod, tools, history(pod, stored_records(remote, tip)))
    request = PlanRequest(backend=str(pod.spec.agents.get("backend", "playbook")), context=context)
    write_atomic(exchange(pod), request.model_dump_json().encode())


def plan(pod: Pod, tools: Tools) -> None:
    """Ask the backend, and leave its answer for the recorder. Raises `ContractError`, `StorageError`."""
    if not exchange(pod).is_file():
        return  # the plan is stored
    try:
        request = PlanRequest.model_validate_json(exchange(pod).read_bytes())
    except ValidationError as error:
        raise ContractError(f"{exchange(pod)} is no PlanRequest: {first_problem(error)}") from error
    try:
        response = tools.ask(pod, "planner", request, PlanResponse, model=True)
    except RoleError as error:
        said = failed("plan", error.reason, str(error), FailureClass.INFRASTRUCTURE)
        response = PlanResponse(failure=said)
    write_answer(pod, response)


def record(pod: Pod, tools: Tools) -> StepReport:
    """Check the plan and store it. Raises `RoleError`, `RemoteError`, `RefusedError`, `ContractError`."""
    path = _path(pod)
    with tools.remote(pod) as remote:
        tip = remote.fetch_tip(MAIN, contents=True)
        if (known := earlier(remote, tip, path)) is not None:
            return known
        state = history(pod, stored_records(remote, tip))
        answer = checked(pod, tools, state, read_answer(pod, PlanResponse, "planner"))
        report = StepReport(step=pod.begin.id, result=answer.result, cost=answer.cost)
        return store(remote, pod, MAIN, path, report, lambda now: beside(remote, pod, state, now))


def _path(pod: Pod) -> str:
    return f"plans/{pod.step}.json"


def planning(pod: Pod, tools: Tools, state: RunState) -> PlanContext:
    """What a planner gets to know. Raises `ContractError`."""
    begin, spec = pod.begin, pod.spec
    if state.baseline is None:
        raise ContractError(f"SARTOR_RECORDS_FILE has no baseline, and step {begin.id} plans on top of one")
    return plan_context(
        state,
        begin,
        model_dir=configuration_copy(pod.model, pod.work / "model"),
        hardware=serving_hardware(spec, begin.baseline or state.baseline, tools.hardware()),
        baseline=begin.baseline or state.baseline,
        skills_root=library_root() if spec.skills else None,
    )


def checked(pod: Pod, tools: Tools, state: RunState, response: PlanResponse) -> Answer:
    """The answer as far as it fits what was asked, with what it cost. Raises `ContractError`."""
    begin, cost = pod.begin, spent(pod, response.usage, tools.say, tools.sleep)
    if response.plan is None:
        return Answer(declared_failure(response.failure, "plan", "planner"), cost)
    problem = plans.problem(response.plan, round_number=begin.round, directive=begin.directive, known=state.parents)
    if problem is not None:
        return Answer(failed("plan", "PlanInvalid", problem, FailureClass.PROVIDER), cost)
    return Answer(response.plan, cost)


def history(pod: Pod, stored: Iterable[StepRecord]) -> RunState:
    """The run so far: what the operator gave, and older records from the repository. Raises `ContractError`."""
    records = {record.id: record for record in (*stored, *pod.records)}
    begin = pod.begin
    before = [r for r in records.values() if r.sequence < begin.sequence and r.sequence not in begin.pending]
    try:
        state = fold(pod.spec, before, ledger=Ledger(), session_started=begin.begun, pending=begin.pending)
    except ValueError as error:
        raise ContractError(f"the run's history is not whole (SARTOR_RECORDS_FILE and {MAIN}): {error}") from error
    if len(state.records) != begin.sequence - 1 - len(begin.pending):
        found = len(state.records)
        raise ContractError(f"step {begin.id} has number {begin.sequence}, and {found} records lie before it")
    return state


def stored_records(remote: Remote, tip: str | None) -> list[StepRecord]:
    """The records that earlier planners put onto `main`. Raises `RemoteError` for one that cannot be read."""
    found: list[StepRecord] = []
    if tip is None:
        return found
    for path in remote.paths(tip):
        if not (path.startswith(_RECORDS) and path.endswith(".json")):
            continue
        try:
            found.append(StepRecord.model_validate_json(remote.read(tip, path) or b""))
        except ValidationError as error:
            raise RemoteError(f"{path} on {MAIN} is no record: {first_problem(error)}") from error
    return found


def beside(remote: Remote, pod: Pod, state: RunState, tip: str | None) -> Mapping[str, bytes]:
    """What goes onto `main` with the plan: the memory in words as it is now, and records that are missing."""
    there = set(remote.paths(tip)) if tip is not None else set[str]()
    files = {record_path(record): as_file(record) for record in state.records}
    files["run.json"] = as_file(pod.spec)
    missing = {path: data for path, data in files.items() if path not in there}
    return missing | {path: text.encode() for path, text in memory_files(state).items()}
