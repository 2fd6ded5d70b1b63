"""Judge and evaluator over one or two servers at given addresses, in processes of their own as in a run."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
from pydantic import ValidationError

from sartor_agents.checkpoints import cache_folder
from sartor_agents.measurement.messages import (
    Endpoint,
    EvaluateRequest,
    EvaluateResponse,
    FailureClass,
    JudgeRequest,
    JudgeResponse,
    ScenarioSpec,
)
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.seeds import new_seed
from sartor_agents.run.errors import BadRequestError, RunError
from sartor_agents.run.role import Response, RoleError, role_command, run_role
from sartor_agents.scenarios import ScenarioError, scenario_spec
from sartor_api.search.records import Judgement

PRESETS: dict[str, Callable[[], MeasurementPolicy]] = {
    "quick": MeasurementPolicy.quick,
    "default": MeasurementPolicy,
    "thorough": MeasurementPolicy.thorough,
}
JUDGE_SECONDS = 1800.0
MARGIN_SECONDS = 600.0


@dataclass(frozen=True)
class Options:
    """What was asked on the command line. `folder` takes samples, logs and the roles' messages."""

    url: str
    model_dir: Path
    folder: Path
    against: str | None = None
    scenario: str = "chat"
    parameters: Sequence[str] = ()
    trace: Path | None = None
    preset: str = "default"
    served_name: str | None = None
    prediction: bool = False
    only: str | None = None
    samples: int = 24
    seed: str | None = None


@dataclass(frozen=True)
class Result:
    """What the gates said. `judgement` and `response` are None where they were not asked for."""

    options: Options
    scenario: ScenarioSpec
    judgement: Judgement | None
    response: EvaluateResponse | None

    @property
    def judged_well(self) -> bool:
        return self.judgement is None or self.judgement.passed

    @property
    def unmeasured(self) -> str | None:
        """Why there are no figures though they were asked for."""
        response = self.response
        if response is None or (response.measurement is not None or response.objective is not None):
            return None
        return f"{response.reason.value}: {response.message}"

    @property
    def blamed(self) -> bool:
        """Whether it is the server's own fault that it could not be measured."""
        return self.response is not None and self.response.failure_class is FailureClass.CANDIDATE


def evaluate_server(
    options: Options,
    say: Callable[[str], None],
    *,
    command: Callable[[str], Sequence[str]] = role_command,
) -> Result:
    """Ask judge and evaluator. Measured only when the judge let it pass: the speed of wrong answers is no figure.

    Raises `BadRequestError` for options that make no sense, `RunError` when a role gave no answer.
    """
    scenario = _scenario(options)
    if options.preset not in PRESETS:
        raise BadRequestError(f"--preset {options.preset}: there are {', '.join(PRESETS)}")
    if options.only not in (None, "judge", "measure"):
        raise BadRequestError(f"--only {options.only}: there are judge and measure")
    if not (options.model_dir / "config.json").is_file():
        raise BadRequestError(f"--model: {options.model_dir} holds no config.json", "name the folder of the checkpoint")
    mine = endpoint(options.url, "candidate", options.served_name, takes_prediction=options.prediction)
    theirs = None
    if options.against is not None:
        theirs = endpoint(options.against, "baseline", None, takes_prediction=False)
    asked = _Asked(options, scenario, mine, theirs, command, say)
    judgement = asked.judge() if options.only != "measure" else None
    passed = judgement is None or judgement.passed
    response = asked.measure() if options.only != "judge" and passed else None
    return Result(options, scenario, judgement, response)


@dataclass(frozen=True)
class _Asked:
    options: Options
    scenario: ScenarioSpec
    mine: Endpoint
    theirs: Endpoint | None
    command: Callable[[str], Sequence[str]]
    say: Callable[[str], None]

    def judge(self) -> Judgement:
        request = JudgeRequest(
            candidate=self.mine,
            # Whose requests reach the other server is not for us to know: it may have clients of its own.
            baseline=None,
            model_dir=self.options.model_dir,
            scenario=self.scenario,
            trace=self.options.trace,
            seed=self._seed(),
            output_dir=self.options.folder / "judge",
            samples=self.options.samples,
            # It was not made to pass these gates: where it reports no log-probabilities, its text has to do.
            logprobs="ifOffered",
            reference_cache=cache_folder() / "reference",
        )
        judgement = self._ask("judge", request, JudgeResponse, JUDGE_SECONDS).judgement
        failure = judgement.failure
        if failure is not None and failure.failure_class is not FailureClass.CANDIDATE:
            raise RunError(f"the server could not be judged ({failure.reason}): {failure.message}")
        return judgement

    def measure(self) -> EvaluateResponse:
        policy = PRESETS[self.options.preset]()
        mode: Literal["paired", "single"] = "single" if self.theirs is None else "paired"
        request = EvaluateRequest(
            mode=mode,
            candidate=self.mine,
            baseline=self.theirs,
            model_dir=self.options.model_dir,
            scenario=self.scenario,
            trace=self.options.trace,
            policy=policy,
            seed=self._seed(),
            output_dir=self.options.folder / "measure",
            baseline_is_ours=False,
        )
        return self._ask("evaluator", request, EvaluateResponse, policy.wall_clock + MARGIN_SECONDS)

    def _seed(self) -> str:
        return self.options.seed or new_seed()

    def _ask(self, role: str, request: Any, response: type[Response], seconds: float) -> Response:
        try:
            return run_role(
                role,
                request,
                response,
                folder=self.options.folder / f"exchange-{role}",
                log=self.options.folder / "logs" / f"{role}.log",
                timeout=seconds,
                memory_bytes=None,
                on_progress=self.say,
                command=self.command,
            )
        except RoleError as error:
            raise RunError(f"the {role} gave no answer ({error.reason}): {error}") from error


def _scenario(options: Options) -> ScenarioSpec:
    given: dict[str, Any] = {}
    for text in options.parameters:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadRequestError(f"--parameter {text}: write NAME=VALUE, as in -p concurrencies=[1,16]")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    try:
        return scenario_spec(options.scenario, given)
    except ScenarioError as error:
        raise BadRequestError(f"--scenario {options.scenario}: {error}") from error


def endpoint(url: str, name: str, model: str | None, *, takes_prediction: bool) -> Endpoint:
    """The server at `url`; one of this machine with its process, so that its CPU is not taken for foreign load.

    Raises `BadRequestError`.
    """
    try:
        return Endpoint(name=name, url=url, model=model, pid=listener(url), accepts_prediction=takes_prediction)
    except (ValidationError, ValueError):
        raise BadRequestError(
            f"{url} is no address of a server", "write http://HOST:PORT, without a path; https is not supported"
        ) from None


def listener(url: str) -> int | None:
    """The process that listens at a loopback address, None for any other host or where that cannot be seen."""
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return None
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.AccessDenied, OSError):
        return None
    listening = [c for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr[1] == parts.port]
    return next((c.pid for c in listening if c.pid), None)
