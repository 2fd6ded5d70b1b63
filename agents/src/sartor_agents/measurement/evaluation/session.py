"""What one measurement works with: both servers, the scenario's requests, the clock, where samples go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sartor_agents.measurement.client import LoadClient, UnreachableError, discover_model, healthy
from sartor_agents.measurement.handover import HandoverWatch
from sartor_agents.measurement.messages import Endpoint, EvaluateRequest, FailureClass, Reason
from sartor_agents.measurement.pairs import MeasurementFailure
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.progress import Progress
from sartor_agents.measurement.samples import GenerationRequest, write_samples
from sartor_agents.measurement.tokens import TokenCounter
from sartor_agents.measurement.windows import WindowRun, WindowRunner
from sartor_agents.scenarios import Scenario, open_scenario

_VERIFY_SHARE = 0.15  # of the wall clock, kept for checking answers after the last window


@dataclass
class Session:
    """The state that single and paired measurements share."""

    request: EvaluateRequest
    scenario: Scenario
    counter: TokenCounter
    candidate: LoadClient
    baseline: LoadClient | None
    runner: WindowRunner
    progress: Progress
    clock: Callable[[], float]
    started: float
    samples_path: Path
    handover: HandoverWatch | None

    @property
    def policy(self) -> MeasurementPolicy:
        return self.request.policy

    @classmethod
    async def open(cls, request: EvaluateRequest, progress: Progress, clock: Callable[[], float]) -> "Session":
        """Read the model's text, look whether both servers are up. Raises `ScenarioError`, `MeasurementFailure`."""
        scenario, counter = open_scenario(request.scenario, request.model_dir, request.seed, trace=request.trace)
        assert request.candidate is not None
        single = request.mode == "single"
        candidate = await _connect(request.candidate, "baseline" if single else "candidate", counter, request.policy)
        baseline = None
        if request.baseline is not None and not single:
            baseline = await _connect(request.baseline, "baseline", counter, request.policy)
        trusted = baseline or candidate

        async def oracle(wanted: Sequence[GenerationRequest]) -> list[str]:
            answers: list[str] = []
            for one in wanted:
                # A salt of its own keeps these answers out of the prefix cache that the windows will meet.
                salted = one.with_body(cache_salt=f"oracle-{one.id}", prediction=None)
                sample = await trusted.send(salted, purpose="accuracy")
                if handover is not None:
                    handover.note_own(1)
                answers.append(sample.text)
            return answers

        handover = HandoverWatch(baseline) if baseline is not None else None
        if handover is not None:
            await handover.begin()
        pids = [e.pid for e in (request.candidate, request.baseline) if e is not None and e.pid is not None]
        runner = WindowRunner(scenario, request.policy, oracle, seed=request.seed, pids=pids)
        path = request.output_dir / "samples.jsonl.gz"
        path.unlink(missing_ok=True)
        return cls(request, scenario, counter, candidate, baseline, runner, progress, clock, clock(), path, handover)

    def left(self) -> float:
        """Seconds in which windows may still run."""
        reserve = _VERIFY_SHARE * self.policy.wall_clock if self.policy.verify_outputs else 0.0
        return self.started + self.policy.wall_clock - reserve - self.clock()

    def keep(self, run: WindowRun) -> None:
        """Write the samples of a window to the file that the measurement rests on."""
        write_samples(self.samples_path, run.samples)


async def _connect(endpoint: Endpoint, name: str, counter: TokenCounter, policy: MeasurementPolicy) -> LoadClient:
    candidate = name == "candidate"
    reason = Reason.CANDIDATE_UNREACHABLE if candidate else Reason.BASELINE_UNREACHABLE
    blamed = FailureClass.CANDIDATE if candidate else FailureClass.INFRASTRUCTURE
    try:
        if not await healthy(endpoint):
            raise UnreachableError(f"{endpoint.url}/health does not answer 200")
        model = await discover_model(endpoint)
    except UnreachableError as error:
        raise MeasurementFailure(reason, blamed, f"the {name} is not up: {error}") from None
    return LoadClient(
        endpoint.model_copy(update={"name": name}),
        model=model,
        counter=counter,
        request_timeout=policy.request_timeout,
        stall_timeout=policy.stall_timeout,
    )
