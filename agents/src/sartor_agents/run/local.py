"""The steps of a run on this machine: role processes, candidate servers, the baseline server."""

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sartor_agents.backends.protocol import HardwareFacts, ImplementContext, Usage
from sartor_agents.measurement.accelerators import MissingAcceleratorError
from sartor_agents.measurement.messages import Endpoint, EvaluateRequest, EvaluateResponse, JudgeRequest, JudgeResponse
from sartor_agents.roles.messages import (
    ImplementRequest,
    ImplementResponse,
    PlanRequest,
    PlanResponse,
    ReviewRequest,
    ReviewResponse,
)
from sartor_agents.run.arms import Arms
from sartor_agents.run.candidates import CandidateError
from sartor_agents.run.content import ContentError, snapshot
from sartor_agents.run.contexts import plan_context
from sartor_agents.run.deaths import memory_death, with_death
from sartor_agents.run.device import HIDDEN
from sartor_agents.run.driver import StepOutcome, failed
from sartor_agents.run.engines import Engine
from sartor_agents.run.guardrails import guarded
from sartor_agents.run.hardware import fingerprint
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.leakage import LeakWatch
from sartor_agents.run.model import configuration_copy
from sartor_agents.run.model_proxy import LocalModelProxy
from sartor_agents.run.placement import Placement
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.requests import (
    judge_samples,
    judge_wall_clock,
    measurement_policy,
    scenario_spec,
    tie_tolerance,
)
from sartor_agents.run.reviewing import review_request, wants_review, with_review
from sartor_agents.run.role import Response, RoleError, role_command, run_role
from sartor_agents.run.seals import CANARY_FILE, KEY_COMMITMENT, Seals, seed_path
from sartor_agents.run.servers import RunningServer, ServerError
from sartor_agents.run.storage import storage_errors, write_atomic
from sartor_agents.run.tuning import tune
from sartor_api.search import plans
from sartor_api.search.decide import Begin
from sartor_api.search.estimate import ACCELERATED
from sartor_api.search.records import Cost, FailureClass, Judgement, SeedCommitment, StepKind
from sartor_api.search.state import RunState

Progress = Callable[[str], None]

MARGIN_SECONDS = 20.0
"""What an evaluator's process may take to end after the last pair that it may begin."""


@dataclass(frozen=True)
class Limits:
    """Memory in bytes for the process tree of one candidate, and of one role."""

    candidate_bytes: int
    role_bytes: int


class LocalSteps:
    """`Steps` on this machine. The baseline stays up from one step to the next; everything else lives for one step."""

    def __init__(
        self,
        layout: RunLayout,
        repository: RunRepository,
        *,
        model_dir: Path,
        engine: Engine,
        hardware: HardwareFacts,
        skills_root: Path | None,
        limits: Limits,
        models: LocalModelProxy | None = None,
        placement: Placement | None = None,
        command: Callable[[str], Sequence[str]] = role_command,
    ) -> None:
        self._layout = layout
        self._repository = repository
        self._model_dir = model_dir
        self._hardware = hardware
        self._skills_root = skills_root
        self._limits = limits
        self._models = models
        self._placement = placement
        self._command = command
        self._seals = Seals(layout.sealed)
        self._seals.check(repository.read_text(KEY_COMMITMENT))
        self._leaks = LeakWatch(layout, repository, self._seals)
        self._arms = Arms(
            layout,
            repository,
            model_dir=model_dir,
            engine=engine,
            candidate_bytes=limits.candidate_bytes,
            place=placement,
        )
        # Roles of different rounds may be at work side by side; what reads the repository's objects may not.
        self._reading = threading.Lock()

    # --- the border to the driver -----------------------------------------------------------------------------------

    def prepare(self, begin: Begin, run: RunState) -> Mapping[str, str]:
        if begin.step not in ACCELERATED:
            return {}
        return {seed_path(begin.id): self._seals.commitment(begin.id).model_dump_json() + "\n"}

    def execute(self, begin: Begin, run: RunState, progress: Progress) -> StepOutcome:
        deadline = time.monotonic() + begin.deadline_seconds
        work: dict[StepKind, Callable[[Begin, RunState, Progress, float], StepOutcome]] = {
            StepKind.BASELINE: self._tune,
            StepKind.PLAN: self._plan,
            StepKind.IMPLEMENT: self._implement,
            StepKind.JUDGE: self._judge,
            StepKind.EVALUATE: self._evaluate,
            StepKind.CONFIRM: self._evaluate,
        }
        try:
            return work[begin.step](begin, run, progress, deadline)
        except RoleError as error:
            return failed(begin.step.value, error.reason, str(error), FailureClass.INFRASTRUCTURE)
        except CandidateError as error:
            return failed(begin.step.value, error.reason, str(error), FailureClass.CANDIDATE)
        except MissingAcceleratorError as error:
            return failed(begin.step.value, "DeviceGone", str(error), FailureClass.INFRASTRUCTURE)

    def deliver(self, commit: str) -> str:
        target = self._layout.stack
        staging = self._layout.root / f".delivery-{commit[:12]}"
        with storage_errors(target):
            shutil.rmtree(staging, ignore_errors=True)
            self._repository.export(commit, staging)
            shutil.rmtree(target, ignore_errors=True)
            (staging / "stack").rename(target)
            shutil.rmtree(staging, ignore_errors=True)
        return str(target)

    def close(self) -> None:
        self._arms.stop()

    # --- steps ------------------------------------------------------------------------------------------------------

    def _tune(self, begin: Begin, run: RunState, progress: Progress, deadline: float) -> StepOutcome:
        def request(endpoint: Endpoint) -> EvaluateRequest:
            return EvaluateRequest(
                mode="single",
                candidate=endpoint,
                model_dir=self._model_dir,
                scenario=scenario_spec(run.spec),
                policy=measurement_policy(run.spec, begin.step, wall_clock=deadline - time.monotonic()),
                seed=self._seals.seed(begin.id),
                output_dir=self._samples(begin),
                device=None if self._placement is None else self._placement.device.uuid,
            )

        def ask(message: EvaluateRequest, seconds: float) -> EvaluateResponse:
            return self._role("evaluator", message, EvaluateResponse, begin, seconds, progress)

        result = tune(
            self._arms.engine,
            self._arms.baseline,
            port=self._arms.port,
            seconds=deadline - time.monotonic(),
            request=request,
            ask=ask,
            progress=progress,
            fingerprint=fingerprint(self._hardware),
        )
        return StepOutcome(result)

    def _plan(self, begin: Begin, run: RunState, progress: Progress, deadline: float) -> StepOutcome:
        assert run.baseline is not None, "planning begins after the baseline was measured"
        context = plan_context(
            run,
            begin,
            model_dir=self._configuration(),
            hardware=self._hardware,
            baseline=run.baseline,
            skills_root=self._skills_root,
        )
        request = PlanRequest(backend=self._backend(run), context=context)
        response = self._role("planner", request, PlanResponse, begin, deadline - time.monotonic(), progress)
        if response.plan is None:
            assert response.failure is not None, "a response has one of the two"
            return StepOutcome(response.failure, _cost(response.usage))
        plan = response.plan
        problem = plans.problem(plan, round_number=begin.round, directive=begin.directive, known=run.parents)
        if problem is not None:
            outcome = failed("plan", "PlanInvalid", problem, FailureClass.PROVIDER)
            return StepOutcome(outcome.result, _cost(response.usage))
        return StepOutcome(plan, _cost(response.usage))

    def _implement(self, begin: Begin, run: RunState, progress: Progress, deadline: float) -> StepOutcome:
        current = run.round(begin.round)
        assert current is not None and current.plan is not None, "implementing begins after a plan"
        worktree = self._layout.worktree(begin.round)
        with storage_errors(worktree):
            shutil.rmtree(worktree, ignore_errors=True)
            worktree.mkdir(parents=True)
        # A repair goes on from the failed try, a first try from the plan's parent.
        failed_try = current.implementation
        source = failed_try.commit if failed_try is not None else current.plan.parent
        if source is not None:
            with self._reading:
                self._repository.export(source, worktree)
        context = ImplementContext(
            run=run.spec,
            plan=current.plan,
            attempt=begin.attempt,
            worktree=worktree,
            model_dir=self._configuration(),
            hardware=self._hardware,
            skills_root=self._skills_root,
            feedback=begin.feedback,
            allowance=begin.reserve,
        )
        request = ImplementRequest(backend=self._backend(run), context=context)
        response = self._role("implementer", request, ImplementResponse, begin, deadline - time.monotonic(), progress)
        cost = _cost(response.usage)
        if response.implementation is None:
            assert response.failure is not None, "a response has one of the two"
            return StepOutcome(response.failure, cost)
        try:
            files = snapshot(worktree)
        except ContentError as error:
            outcome = failed("implement", error.reason, str(error), FailureClass.CANDIDATE)
            return StepOutcome(outcome.result, cost)
        with self._reading:
            if (leak := self._leaks.files(files, "implement")) is not None:
                return StepOutcome(leak, cost)
            done = self._repository.save_candidate(
                begin.round, current.plan.parent, files, response.implementation, time.time()
            )
        return StepOutcome(done, cost)

    def _judge(self, begin: Begin, run: RunState, progress: Progress, deadline: float) -> StepOutcome:
        baseline: RunningServer | None = None
        if self._placement is not None and self._placement.shares.judged_alone:
            self._arms.stop()  # the reference takes its place on the device
        else:
            try:
                baseline = self._arms.ensure_baseline(run)
            except ServerError as error:
                return failed("judge", f"Baseline{error.reason}", str(error), FailureClass.INFRASTRUCTURE)
        behind = None if baseline is None else baseline.url
        with self._candidate(begin, run, behind, deadline, progress) as server:
            seconds = deadline - time.monotonic()
            request = JudgeRequest(
                candidate=Endpoint(name="candidate", url=server.url, pid=server.process.pid),
                baseline=None if baseline is None else self._arms.endpoint(baseline),
                model_dir=self._model_dir,
                scenario=scenario_spec(run.spec),
                seed=self._seals.seed(begin.id),
                output_dir=self._sealed(begin),
                samples=judge_samples(run.spec),
                tie_tolerance=tie_tolerance(run.spec),
                reference="cpu" if self._placement is None else self._placement.shares.judge,
                wall_clock=judge_wall_clock(seconds),
            )
            response = self._role("judge", request, JudgeResponse, begin, seconds, progress)
            if (leak := self._leaks.folder(server.spec.cwd, "judge")) is not None:
                return StepOutcome(leak)
            judgement = with_death(response.judgement, server)
        if not wants_review(run.spec, judgement):
            return StepOutcome(judgement)
        return self._reviewed(begin, run, judgement, progress, deadline)

    def _reviewed(
        self, begin: Begin, run: RunState, judgement: Judgement, progress: Progress, deadline: float
    ) -> StepOutcome:
        """What a model that reads the source makes of it; its time is the rest of the step's."""
        current = run.round(begin.round)
        parent = current.plan.parent if current is not None and current.plan is not None else None
        with self._reading:
            files = self._repository.candidate_files(self._under_test(begin, run)[0])
            before = None if parent is None else self._repository.candidate_files(parent)
        folder = self._layout.exchange / f"{begin.id.replace('/', '-')}-reviewed"
        request = review_request(run.spec, begin.round, begin.attempt, files, before, folder)
        usage = Usage()

        def ask() -> ReviewResponse:
            nonlocal usage
            seconds = deadline - time.monotonic()
            response = self._role("reviewer", request, ReviewResponse, begin, seconds, progress)
            usage = response.usage
            return response

        return StepOutcome(with_review(judgement, files, ask), _cost(usage))

    def _evaluate(self, begin: Begin, run: RunState, progress: Progress, deadline: float) -> StepOutcome:
        gate = begin.step.value
        try:
            baseline = self._arms.ensure_baseline(run)
        except ServerError as error:
            return failed(gate, f"Baseline{error.reason}", str(error), FailureClass.INFRASTRUCTURE)
        with self._candidate(begin, run, baseline.url, deadline, progress) as server:
            seconds = deadline - time.monotonic()
            seed = self._seals.seed(begin.id)
            folder = self._samples(begin)
            request = EvaluateRequest(
                candidate=Endpoint(name="candidate", url=server.url, pid=server.process.pid),
                baseline=self._arms.endpoint(baseline),
                model_dir=self._model_dir,
                scenario=scenario_spec(run.spec),
                policy=measurement_policy(run.spec, begin.step, wall_clock=seconds - MARGIN_SECONDS),
                seed=seed,
                output_dir=folder,
                confirmation=begin.step is StepKind.CONFIRM,
                tie_tolerance=tie_tolerance(run.spec),
                reference="cpu" if self._placement is None else self._placement.shares.evaluator,
                device=None if self._placement is None else self._placement.device.uuid,
            )
            response = self._role("evaluator", request, EvaluateResponse, begin, seconds, progress)
            if (leak := self._leaks.folder(server.spec.cwd, gate)) is not None:
                return StepOutcome(leak)
            if (death := memory_death(server)) is not None:
                return failed(gate, *death, FailureClass.CANDIDATE)
            if response.measurement is None:
                blamed = response.failure_class or FailureClass.MEASUREMENT
                return failed(gate, response.reason.value, response.message, blamed)
            measurement = response.measurement.model_copy(
                update={
                    "seed": SeedCommitment.of(seed),
                    "samples": self._relative(response.samples),
                    "confirmation": begin.step is StepKind.CONFIRM,
                }
            )
            return StepOutcome(guarded(measurement, run.spec.guardrails, response.guardrails))

    # --- parts ------------------------------------------------------------------------------------------------------

    def _under_test(self, begin: Begin, run: RunState) -> tuple[str, str]:
        """Commit and content hash of the candidate that the step is about."""
        if begin.candidate is not None:
            return begin.candidate.commit, begin.candidate.content_hash
        current = run.round(begin.round)
        implementation = current.implementation if current is not None else None
        assert implementation is not None, "judging begins after an implementation"
        return implementation.commit, implementation.content_hash

    def _candidate(
        self, begin: Begin, run: RunState, baseline_url: str | None, deadline: float, progress: Progress
    ) -> RunningServer:
        """The step's candidate, built and ready. Raises `CandidateError`."""
        commit, content_hash = self._under_test(begin, run)
        log = self._log(begin, "candidate")
        return self._arms.candidate(
            commit, content_hash, log, baseline_url=baseline_url, deadline=deadline, progress=progress
        )

    def _role(
        self,
        role: str,
        request: PlanRequest | ImplementRequest | JudgeRequest | EvaluateRequest | ReviewRequest,
        response: type[Response],
        begin: Begin,
        seconds: float,
        progress: Progress,
    ) -> Response:
        return run_role(
            role,
            request,
            response,
            folder=self._layout.exchange / f"{begin.id.replace('/', '-')}-{role}",
            log=self._log(begin, role),
            timeout=max(1.0, seconds),
            memory_bytes=self._limits.role_bytes,
            on_progress=progress,
            command=self._command,
            environment=lambda folder: {
                **(HIDDEN if self._placement is None else self._placement.role_environment(role)),
                **({} if role == "judge" else self._model_access(begin, folder)),
            },
        )

    def _model_access(self, begin: Begin, folder: Path) -> Mapping[str, str]:
        """How the step's process asks its model; nothing for steps that ask none."""
        return {} if self._models is None else self._models.access(begin, folder)

    def _backend(self, run: RunState) -> str:
        return str(run.spec.agents.get("backend", "playbook"))

    def _configuration(self) -> Path:
        with self._reading:
            return configuration_copy(self._model_dir, self._layout.exchange / "model")

    def _log(self, begin: Begin, what: str) -> Path:
        return self._layout.logs / f"{begin.id.replace('/', '-')}-{what}.log"

    def _samples(self, begin: Begin) -> Path:
        return self._planted(self._layout.samples / begin.id.replace("/", "-"))

    def _sealed(self, begin: Begin) -> Path:
        return self._planted(self._layout.sealed / begin.id.replace("/", "-"))

    def _planted(self, folder: Path) -> Path:
        """A folder for what is sealed, with the canary in it."""
        write_atomic(_folder(folder) / CANARY_FILE, (self._seals.canary + "\n").encode(), mode=0o600)
        return folder

    def _relative(self, path: Path | None) -> str | None:
        root = self._layout.root
        return None if path is None else str(path.relative_to(root) if path.is_relative_to(root) else path)


def _folder(path: Path) -> Path:
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _cost(usage: Usage) -> Cost:
    return Cost(tokens=usage.tokens, money=usage.money)
