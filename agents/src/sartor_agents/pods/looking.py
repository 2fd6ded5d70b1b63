"""The pods of tuner, judge and evaluator: what is looked at, and the sealed notes that keep what was seen.

Each pushes to its own notes (`refs/notes/sartor/judge`, `refs/notes/sartor/evaluator`): `steps/STEP/` with the full record,
the role's whole response and its samples, and the record once more as the note of the candidate's commit, so that
`git notes --ref sartor/judge show COMMIT` is the latest word on it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel

from sartor_agents.backends.protocol import Usage
from sartor_agents.baselines import vllm
from sartor_agents.measurement.messages import (
    Endpoint,
    EvaluateRequest,
    EvaluateResponse,
    JudgeRequest,
    JudgeResponse,
)
from sartor_agents.pods.agent import spent
from sartor_agents.pods.contract import Pod
from sartor_agents.pods.records import Answer, as_file, earlier, kept_files, store
from sartor_agents.pods.tools import Tools
from sartor_agents.roles.messages import ReviewResponse
from sartor_agents.run.engines import BaselineServer
from sartor_agents.run.guardrails import guarded
from sartor_agents.run.hardware import fingerprint
from sartor_agents.run.local import MARGIN_SECONDS
from sartor_agents.run.requests import (
    judge_samples,
    judge_wall_clock,
    measurement_policy,
    scenario_spec,
    tie_tolerance,
)
from sartor_agents.run.reviewing import review_request, wants_review, with_review
from sartor_agents.run.seals import CANARY_FILE
from sartor_agents.run.servers import free_port
from sartor_agents.run.tuning import tune
from sartor_api.search.records import BaselineRecord, FailureClass, Judgement, SeedCommitment, StepKind
from sartor_api.search.wire import StepReport, failed

NOTES = "refs/notes/sartor/"


def run(pod: Pod, tools: Tools, notes: str, look: Callable[[Pod, Tools], Answer]) -> StepReport:
    """Look and store. Raises `RoleError`, `RemoteError`, `RefusedError`, `ContractError`."""
    ref, folder = NOTES + notes, f"steps/{pod.step}"
    path = f"{folder}/record.json"
    with tools.remote(pod) as remote:
        # Asked first: a repository that is away is noticed before minutes of accelerator time are spent.
        if (known := earlier(remote, remote.fetch_tip(ref, contents=False), path)) is not None:
            return known
        answer = look(pod, tools)
        report = StepReport(step=pod.begin.id, result=answer.result, cost=answer.cost)

        def files(_tip: str | None) -> Mapping[str, bytes]:
            kept = {f"{folder}/{name}": data for name, data in answer.files.items()}
            return kept | ({pod.begin.commit: as_file(report)} if pod.begin.commit else {})

        return store(remote, pod, ref, path, report, files)


def _output(pod: Pod) -> Path:
    folder = pod.work / "output"
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder


def _kept(pod: Pod, tools: Tools, response: BaseModel) -> dict[str, bytes]:
    planted = {CANARY_FILE: pod.canary} if pod.canary else {}
    return kept_files(_output(pod), tools.say) | planted | {"response.json": as_file(response)}


def _endpoint(name: str, url: str) -> Endpoint:
    # Neither baseline engine takes `prediction`; a stack does. Processes of other pods are not ours to count.
    return Endpoint(name=name, url=url, accepts_prediction=name == "candidate")


def judge(pod: Pod, tools: Tools) -> Answer:
    """The judge's verdicts on the candidate."""
    request = JudgeRequest(
        candidate=_endpoint("candidate", pod.need_url("candidate")),
        baseline=_endpoint("baseline", pod.need_url("baseline")),
        model_dir=pod.model,
        scenario=scenario_spec(pod.spec),
        seed=pod.need_seed(),
        output_dir=_output(pod),
        samples=judge_samples(pod.spec),
        tie_tolerance=tie_tolerance(pod.spec),
        wall_clock=judge_wall_clock(pod.seconds()),
    )
    response = tools.ask(pod, "judge", request, JudgeResponse)
    files = _kept(pod, tools, response)
    if not wants_review(pod.spec, response.judgement):
        return Answer(response.judgement, files=files)
    return _reviewed(pod, tools, response.judgement, files)


def _reviewed(pod: Pod, tools: Tools, judgement: Judgement, files: dict[str, bytes]) -> Answer:
    """What a model that reads the source makes of it. It reads in this process's own program, and runs nothing."""
    commit = pod.begin.commit
    assert commit is not None, "a judged step names its candidate"
    with tools.remote(pod) as remote:
        after = remote.stack(commit)
        before = remote.stack(pod.begin.source) if pod.begin.source is not None else None
    asked = review_request(pod.spec, pod.begin.round, pod.begin.attempt, after, before, pod.work / "reviewed")
    said: list[ReviewResponse] = []

    def ask() -> ReviewResponse:
        said.append(tools.ask(pod, "reviewer", asked, ReviewResponse, model=True))
        return said[0]

    result = with_review(judgement, after, ask)
    cost = spent(pod, said[0].usage if said else Usage(), tools.say, tools.sleep)
    return Answer(result, cost, files | {"review.json": as_file(said[0])} if said else files)


def evaluate(pod: Pod, tools: Tools) -> Answer:
    """The candidate against the baseline, in a round or as the confirmation."""
    confirmation, gate = pod.begin.step is StepKind.CONFIRM, pod.begin.step.value
    seconds, seed = pod.seconds(), pod.need_seed()
    request = EvaluateRequest(
        candidate=_endpoint("candidate", pod.need_url("candidate")),
        baseline=_endpoint("baseline", pod.need_url("baseline")),
        model_dir=pod.model,
        scenario=scenario_spec(pod.spec),
        policy=measurement_policy(pod.spec, pod.begin.step, wall_clock=seconds - MARGIN_SECONDS),
        seed=seed,
        output_dir=_output(pod),
        confirmation=confirmation,
        tie_tolerance=tie_tolerance(pod.spec),
    )
    response = tools.ask(pod, "evaluator", request, EvaluateResponse)
    files = _kept(pod, tools, response)
    if response.measurement is None:
        blamed = response.failure_class or FailureClass.MEASUREMENT
        return Answer(failed(gate, response.reason.value, response.message, blamed), files=files)
    samples = response.samples.name if response.samples is not None else ""
    measurement = response.measurement.model_copy(
        update={
            "seed": SeedCommitment.of(seed),
            "samples": f"steps/{pod.step}/{samples}" if samples in files else None,
            "confirmation": confirmation,
        }
    )
    return Answer(guarded(measurement, pod.spec.guardrails, response.guardrails), files=files)


def _whole_environment(record: BaselineRecord) -> BaselineRecord:
    """The record with all that its engine was started with: the operator serves exactly what was measured."""
    if record.engine != "vllm":
        return record
    return record.model_copy(update={"environment": {**vllm.ENVIRONMENT, **record.environment}})


def tuned(pod: Pod, tools: Tools) -> Answer:
    """Every setting of the grid, served by a child process of this pod and measured alone; the best one counts."""
    engine = tools.engine(pod.spec, pod.model)
    seed = pod.need_seed()
    output = _output(pod)
    server = BaselineServer(engine, pod.work / "logs")

    def request(endpoint: Endpoint) -> EvaluateRequest:
        return EvaluateRequest(
            mode="single",
            candidate=endpoint,
            model_dir=pod.model,
            scenario=scenario_spec(pod.spec),
            policy=measurement_policy(pod.spec, pod.begin.step, wall_clock=pod.seconds()),
            seed=seed,
            output_dir=output,
        )

    def ask(asked: EvaluateRequest, seconds: float) -> EvaluateResponse:
        return tools.ask(pod, "evaluator", asked, EvaluateResponse, seconds)

    try:
        result = tune(
            engine,
            server,
            port=free_port(),
            seconds=pod.seconds(),
            request=request,
            ask=ask,
            progress=tools.say,
            fingerprint=fingerprint(tools.hardware()),
        )
    finally:
        server.stop()
    if isinstance(result, BaselineRecord):
        result = _whole_environment(result)
    return Answer(result, files=kept_files(output, tools.say))
