"""What one measurement works with: both servers, the scenario's requests, the clock, where samples go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sartor_agents.measurement.accelerators import Accelerators, MissingAcceleratorError, open_accelerators
from sartor_agents.measurement.client import LoadClient
from sartor_agents.measurement.connect import NotUpError, connect
from sartor_agents.measurement.handover import HandoverWatch
from sartor_agents.measurement.messages import Endpoint, EvaluateRequest, FailureClass, Reason
from sartor_agents.measurement.pairs import MeasurementFailure
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.progress import Progress
from sartor_agents.measurement.sample_file import SAMPLES_NAME, SampleFile
from sartor_agents.measurement.samples import GenerationRequest
from sartor_agents.measurement.seeds import commitment
from sartor_agents.measurement.surroundings import Surroundings
from sartor_agents.measurement.tokens import TokenCounter
from sartor_agents.measurement.windows import WindowRun, WindowRunner
from sartor_agents.scenarios import Scenario, open_scenario
from sartor_api.search.records import Peak

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
    file: SampleFile
    handover: HandoverWatch | None
    surroundings: Surroundings
    peaks: dict[str, Peak] = field(default_factory=dict[str, Peak])

    @property
    def samples_path(self) -> Path:
        """Where the samples are once the measurement has ended."""
        return self.file.path

    @property
    def policy(self) -> MeasurementPolicy:
        return self.request.policy

    @classmethod
    async def open(cls, request: EvaluateRequest, progress: Progress, clock: Callable[[], float]) -> "Session":
        """Read the model's text, wait until both servers are up, begin the file of samples.

        Raises `ScenarioError`, `MeasurementFailure`, `SamplesNotWrittenError`.
        """
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
                    handover.note_samples([sample])
                answers.append(sample.text)
            return answers

        handover = HandoverWatch(baseline) if baseline is not None and request.baseline_is_ours else None
        if handover is not None:
            await handover.begin()
        arms = {candidate.endpoint.name: candidate, **({"baseline": baseline} if baseline is not None else {})}
        pids = {name: client.endpoint.pid for name, client in arms.items() if client.endpoint.pid is not None}
        surroundings = Surroundings(pids, len(arms), _devices(request))
        runner = WindowRunner(scenario, request.policy, oracle, seed=request.seed, surroundings=surroundings)
        file = SampleFile(request.output_dir / SAMPLES_NAME, {"seed": commitment(request.seed)})
        return cls(
            request,
            scenario,
            counter,
            candidate,
            baseline,
            runner,
            progress,
            clock,
            clock(),
            file,
            handover,
            surroundings,
        )

    def left(self) -> float:
        """Seconds in which windows may still run."""
        reserve = _VERIFY_SHARE * self.policy.wall_clock if self.policy.verify_outputs else 0.0
        return self.started + self.policy.wall_clock - reserve - self.clock()

    def keep(self, run: WindowRun) -> None:
        """Write the samples of a window to the file that the measurement rests on."""
        self.file.write(run.samples)


def _devices(request: EvaluateRequest) -> Accelerators:
    """The devices to watch: the one that the servers are on, or all. Raises `MeasurementFailure`."""
    try:
        return open_accelerators(only=request.device)
    except MissingAcceleratorError as error:
        raise MeasurementFailure(Reason.ACCELERATOR_FAULT, FailureClass.INFRASTRUCTURE, str(error)) from error


async def _connect(endpoint: Endpoint, name: str, counter: TokenCounter, policy: MeasurementPolicy) -> LoadClient:
    try:
        return await connect(endpoint, name, counter, policy, startup=policy.startup_seconds)
    except NotUpError as error:
        raise MeasurementFailure(error.reason, error.failure_class, str(error)) from None
