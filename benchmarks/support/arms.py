"""The servers that the benches compare: the tuned baseline, and stacks composed by the playbook. One evaluator measures
both, and one judge comes before it, on every platform."""

import secrets
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from benchmarks.support.record import Row, machine
from sartor_agents.backends.playbook import facts
from sartor_agents.backends.playbook.compose import Selection, Target, compose
from sartor_agents.baselines import VllmEngine
from sartor_agents.baselines.environment import existing_environment
from sartor_agents.baselines.find import engine_folders
from sartor_agents.baselines.grid import grid
from sartor_agents.checkpoints import SyntheticSource, cache_folder, resolve
from sartor_agents.judge.gate import judge
from sartor_agents.judge.opening import OpenReference
from sartor_agents.judge.verify import verifier
from sartor_agents.measurement.evaluation import evaluate
from sartor_agents.measurement.messages import (
    Endpoint,
    EvaluateRequest,
    EvaluateResponse,
    JudgeRequest,
    JudgeResponse,
    ScenarioSpec,
)
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.roles.judge import open_reference
from sartor_agents.run.candidates import READY_SECONDS, build, server_spec
from sartor_agents.run.device import AS_IT_IS, Access
from sartor_agents.run.engines import Engine, Setting
from sartor_agents.run.servers import RunningServer, ServerError, free_port
from sartor_api.search.records import Speedup
from sartor_skills.catalog import Scalar, load_catalog

Load = TypeVar("Load", str, int)
"""What a load is called in a bench: a condition, a concurrency."""

MODELS = {"52m": ("llama", "52m"), "500m": ("qwen3", "500m")}
"""Architecture and size of the chain checkpoints that the bars are stated for."""

JUDGED = 12
"""Answers that the judge compares, as in a quick run."""
JUDGING_SECONDS = 600.0


@dataclass(frozen=True)
class Envelope:
    input_tokens: int = 1536
    output_tokens: int = 1024
    model_len: int = 2048
    concurrency: int = 16

    def as_spec(self) -> dict[str, int]:
        return {
            "MAX_MODEL_LEN": self.model_len,
            "MAX_INPUT_TOKENS": self.input_tokens,
            "MAX_OUTPUT_TOKENS": self.output_tokens,
        }


@dataclass(frozen=True)
class Ground:
    """What the servers of a bench stand on. `always` are parameters of recipes that every stack gets here.

    `judged_alone`: the judge's reference does not fit beside both servers, so the stack is judged before the baseline is
    started; what was written in the scored windows is checked afterwards all the same.
    """

    platform: str
    model_dir: Path
    engine: Engine
    always: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict[str, Mapping[str, Scalar]])
    open_reference: OpenReference = open_reference
    judged_alone: bool = False
    judging_seconds: float = JUDGING_SECONDS
    judged: int = JUDGED
    cache_bytes: int | None = None
    """What a stack's keys and values may take, where the baseline is on the same device."""
    access: Access = AS_IT_IS
    """What a stack is shown and told besides."""
    ready_seconds: float = READY_SECONDS
    release: Callable[[], None] = lambda: None
    """Ends what the reference holds of the device, after the judging and after the answers of windows were checked."""


def cpu_ground(size: str, envelope: Envelope) -> Ground:
    """This machine's processor, a size of `MODELS`, and vLLM's CPU build."""
    architecture, named = MODELS[size]
    model_dir = resolve(SyntheticSource("chain", architecture, named, 0, "bfloat16"), cache=cache_folder())
    environment = existing_environment(cache_folder())
    if environment is None:
        raise SystemExit("vLLM's environment was not made; run: sartor baseline setup")
    engine = VllmEngine(environment, model_dir, "bench", envelope.model_len, [], *engine_folders())
    return Ground("cpu", model_dir, engine)


@dataclass
class Workbench:
    """A folder for logs, stacks and samples, one model, and what it is served on (default: the processor)."""

    folder: Path
    size: str
    envelope: Envelope = field(default_factory=Envelope)
    on: InitVar[Ground | None] = None
    ground: Ground = field(init=False)

    def __post_init__(self, on: Ground | None) -> None:
        self.ground = on or cpu_ground(self.size, self.envelope)

    @property
    def model_dir(self) -> Path:
        return self.ground.model_dir

    # --- servers ----------------------------------------------------------------------------------------------------

    @contextmanager
    def baseline(self, setting: Setting, *, kv_gib: int | None = None) -> Generator[RunningServer]:
        """The baseline of this ground with one setting: vLLM, or what takes its place there."""
        server = self.ground.engine.server(setting, free_port())
        if kv_gib is not None:
            server = replace(server, environment={**server.environment, "VLLM_CPU_KVCACHE_SPACE": str(kv_gib)})
        with RunningServer(server, self.folder / f"{self.ground.engine.name}-{secrets.token_hex(3)}.log") as running:
            yield running

    @contextmanager
    def stack(self, scenario: str, recipes: Mapping[str, Mapping[str, Scalar]]) -> Generator[RunningServer]:
        folder = self.compose(scenario, recipes)
        spec = server_spec(
            folder, self.model_dir, free_port(), baseline_url=None, memory_bytes=None, access=self.ground.access,
            ready_seconds=self.ground.ready_seconds,
        )  # fmt: skip
        with RunningServer(spec, folder / "serve.log") as running:
            yield running

    def compose(self, scenario: str, recipes: Mapping[str, Mapping[str, Scalar]]) -> Path:
        """Composed and built once per selection; the folder that holds `stack/`."""
        model = facts.model_spec(self.model_dir)
        platform, always = self.ground.platform, self.ground.always
        known = load_catalog().recipes(architecture=model["ARCHITECTURE"], platform=platform, scenario=scenario)
        selection = Selection(
            {name: {**known[name].defaults(), **always.get(name, {}), **values} for name, values in recipes.items()}
        )
        name = "+".join("-".join([n, *(f"{v}" for v in values.values())]) for n, values in sorted(recipes.items()))
        folder = self.folder / self.size / scenario / name
        if not (folder / ".built").exists():
            shutil.rmtree(folder, ignore_errors=True)
            target = Target(
                "bench",
                model,
                scenario,
                platform,
                self.envelope.as_spec(),
                self.envelope.concurrency,
                {"made by": "bench"},
                self.ground.cache_bytes,
            )
            compose(selection, target, known, folder / "stack")
            build(folder, folder / "build.log", timeout=600, memory_bytes=None, access=self.ground.access)
        return folder

    # --- measuring --------------------------------------------------------------------------------------------------

    def alone(self, server: RunningServer, scenario: ScenarioSpec, policy: MeasurementPolicy) -> EvaluateResponse:
        response = self._alone(server, scenario, policy)
        if response.objective is None:
            raise SystemExit(f"could not be measured: {response.reason.value}: {response.message}")
        return response

    def _alone(self, server: RunningServer, scenario: ScenarioSpec, policy: MeasurementPolicy) -> EvaluateResponse:
        return self._evaluate(
            EvaluateRequest(
                mode="single", candidate=_endpoint(server), model_dir=self.model_dir, scenario=scenario,
                policy=policy, seed=secrets.token_hex(32), output_dir=self._samples(),
            )
        )  # fmt: skip

    def paired(
        self, candidate: RunningServer, baseline: RunningServer, scenario: ScenarioSpec, policy: MeasurementPolicy
    ) -> EvaluateResponse:
        """The judge first, as in a run: what does not pass is not timed. Then interleaved windows of both, whose answers
        are checked against the reference too."""
        self.judged(candidate, baseline, scenario)
        return self._measured(candidate, baseline, scenario, policy)

    def against(
        self,
        candidate: RunningServer,
        setting: Setting,
        scenario: ScenarioSpec,
        policy: Callable[[], MeasurementPolicy],
    ) -> EvaluateResponse:
        """`paired` with the baseline started for it, after the judging where the ground has no room for all at once.
        `policy` is asked when the measurement begins: judging and loading take of its time."""
        if self.ground.judged_alone:
            self.judged(candidate, None, scenario)
        with self.baseline(setting) as baseline:
            if not self.ground.judged_alone:
                self.judged(candidate, baseline, scenario)
            return self._measured(candidate, baseline, scenario, policy())

    def _measured(
        self, candidate: RunningServer, baseline: RunningServer, scenario: ScenarioSpec, policy: MeasurementPolicy
    ) -> EvaluateResponse:
        response = self._evaluate(
            EvaluateRequest(
                mode="paired", candidate=_endpoint(candidate), baseline=_endpoint(baseline),
                model_dir=self.model_dir, scenario=scenario, policy=policy, seed=secrets.token_hex(32),
                output_dir=self._samples(),
            )
        )  # fmt: skip
        if response.measurement is None:
            raise SystemExit(f"could not be measured: {response.reason.value}: {response.message}")
        return response

    def judged(self, candidate: RunningServer, baseline: RunningServer | None, scenario: ScenarioSpec) -> JudgeResponse:
        """The judge's checks. Ends the bench where one fails: what is not right is not timed."""
        request = JudgeRequest(
            candidate=_endpoint(candidate), baseline=_endpoint(baseline) if baseline else None,
            model_dir=self.model_dir, scenario=scenario, seed=secrets.token_hex(32), output_dir=self._samples(),
            samples=self.ground.judged, wall_clock=self.ground.judging_seconds,
        )  # fmt: skip
        try:
            response = uvloop.run(judge(request, open_reference=self.ground.open_reference))
        finally:
            self.ground.release()
        for check in response.checks:
            print(
                f"  judge: {check.name:22} {check.reason.value:14} {check.seconds:6.2f} s  {check.message}", flush=True
            )
        if not response.judgement.passed:
            failed = [f"{v.gate}: {v.reason}: {v.message}" for v in response.judgement.verdicts if not v.passed]
            raise SystemExit(f"the candidate does not pass the judge: {'; '.join(failed)}")
        return response

    def _evaluate(self, request: EvaluateRequest) -> EvaluateResponse:
        try:
            return uvloop.run(evaluate(request, verify=verifier(self.ground.open_reference), progress=_say))
        finally:
            self.ground.release()

    def _samples(self) -> Path:
        folder = self.folder / "samples" / secrets.token_hex(4)
        folder.mkdir(parents=True)
        return folder

    def tune(
        self,
        settings: Sequence[Setting],
        loads: Mapping[Load, ScenarioSpec],
        policy: MeasurementPolicy,
        key: Callable[[EvaluateResponse], float],
    ) -> dict[Load, tuple[Setting, str]]:
        """For each load the baseline's best of these settings by `key`, and a line with all of them. Each is measured alone.

        One that does not start, or is so slow that requests time out, is no choice, and a printed line says so.
        """
        found: dict[Load, list[tuple[float, Setting]]] = {load: [] for load in loads}
        for setting in settings:
            try:
                with self.baseline(setting) as server:
                    for load, scenario in loads.items():
                        response = self._alone(server, scenario, policy)
                        if response.objective is None:
                            print(
                                f"  {self.ground.engine.name}, {setting.name}, {load}: {response.message}", flush=True
                            )
                            continue
                        value = key(response)
                        print(f"  {self.ground.engine.name}, {setting.name}, {load}: {value:.1f} tok/s", flush=True)
                        found[load].append((value, setting))
            except ServerError as error:
                print(f"  {self.ground.engine.name}, {setting.name}: {error.reason}", flush=True)
        return {load: best(values) for load, values in found.items()}


def best(values: Sequence[tuple[float, Setting]]) -> tuple[Setting, str]:
    if not values:
        raise SystemExit("the baseline could be measured with no setting")
    listed = "; ".join(f"{setting.name}: {value:.0f}" for value, setting in values)
    return max(values, key=lambda one: one[0])[1], listed


def vllm_settings(scenario: str, *, all_cores: bool = False) -> tuple[list[Setting], list[Setting]]:
    """The documented grid for this machine: (plain, with n-gram speculation).

    `all_cores` leaves out the points with one thread, and all n-gram points but the one of the `quick` grid: for models
    whose measuring takes long, and only where the whole grid was measured on this machine with another size.
    """
    here = machine()
    settings = grid(
        scenario, "documentedGrid", arguments=(), cores=int(here["cores"]), native_bf16=bool(here["native_bf16"])
    )
    drafted = [setting for setting in settings if "--speculative-config" in setting.arguments]
    plain = [setting for setting in settings if setting not in drafted]
    if all_cores:
        plain = [setting for setting in plain if setting.environment]
        drafted = [setting for setting in drafted if setting.environment][1:2]
    return plain, drafted


def ratio_row(bar: str, ratio: Speedup, target: float | None, note: str) -> Row:
    return Row(bar, "ratio", "higher", target, ratio.value, ratio.low, ratio.high, ratio.n, note)


def _endpoint(server: RunningServer) -> Endpoint:
    own = server.spec.name not in ("vLLM", "transformers")
    return Endpoint(url=server.url, pid=server.process.pid, accepts_prediction=own)


def _say(event: str, **fields: Any) -> None:
    print(f"  {event}: {fields.get('message', '')}", flush=True)
