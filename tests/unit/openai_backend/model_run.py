"""One run with the real planner, implementer and model proxy; everything else of it is a small program.

The three are processes of their own only where `processes` says so: to start Python and import the SDK for each step would
take most of a test's time.
"""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from aiohttp import web
from run_fakes import HARDWARE, MIB, ROLE, SERVER, STACK, FakeClock, FakeEngine, run_spec
from scripted_provider import Provider

from sartor_agents.backends.openai import OpenAIBackend
from sartor_agents.model_proxy.__main__ import grant_key
from sartor_agents.model_proxy.config import EndpointConfig, read_config
from sartor_agents.model_proxy.service import Service
from sartor_agents.roles import implementer, planner
from sartor_agents.run import events, model_proxy
from sartor_agents.run.driver import Clock, Driver
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.local import Limits, LocalSteps
from sartor_agents.run.model_proxy import LocalModelProxy, ModelAccessFile, write_access
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.role import role_command
from sartor_agents.run.seals import KEY_COMMITMENT, Seals
from sartor_api.search.agents import AgentSettings, ModelPrice, RoleSettings, as_json
from sartor_api.search.records import Budget, FailureClass, Finished, RunSpec, StepKind, StepRecord
from sartor_api.search.snapshot import step_policies

ROLES = {"planner": planner, "implementer": implementer}


class Hurried:
    """A clock that sleeping moves on, without anybody waiting."""

    def __init__(self) -> None:
        self._slept = 0.0

    def clock(self) -> float:
        return time.monotonic() + self._slept

    def sleep(self, seconds: float) -> None:
        self._slept += seconds


class StepsHere(LocalSteps):
    """Planner and implementer within this process, as their own would call them; they wait for no provider."""

    def _role(self, role: str, request: Any, response: Any, begin: Any, seconds: float, progress: Any) -> Any:
        if role not in ROLES:
            return super()._role(role, request, response, begin, seconds, progress)
        folder = self._layout.exchange / f"{begin.id.replace('/', '-')}-{role}"
        folder.mkdir(parents=True)
        time = Hurried()
        backend = OpenAIBackend(
            environment=self._model_access(begin, folder), say=progress, clock=time.clock, sleep=time.sleep
        )
        with mock.patch.object(ROLES[role], "load_backend", lambda _: backend), contextlib.chdir(folder):
            return ROLES[role].answer(request)


class ProxyHere:
    """The proxy's program within this process: what `LocalModelProxy` starts."""

    def __init__(self, command: Sequence[str], **_: Any) -> None:
        self.alive = True
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="model proxy", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(Path(command[-1])), self._loop).result(20)

    async def _serve(self, file: Path) -> None:
        config = read_config(file)
        self._runner = web.AppRunner(Service(config, grant_key(config)).application(), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, config.host, config.port).start()
        assert config.port_file is not None
        config.port_file.write_text(f"{self._runner.addresses[0][1]}\n")

    def stop(self) -> None:
        if self.alive:
            self.alive = False
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(20)
            self._loop.close()


def served(number: int) -> dict[str, str] | None:
    """The fake stack of the run's tests, for two rounds."""
    if number > 2:
        return None
    return {
        "__main__.py": STACK.format(behaviour="good", server=SERVER) + f"# round {number}\n",
        "notes.md": f"{number}\n",
    }


@dataclass
class ModelRun:
    """One run in `root`, with `program` as its model."""

    root: Path
    provider: Provider
    api: str = "responses"
    settings: dict[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=lambda: Budget(rounds=3, wall_clock_seconds=3600))
    clock: Clock = field(default_factory=FakeClock)
    told: list[events.Event] = field(default_factory=list)
    processes: bool = False

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.root / "run")

    def make(self) -> RunRepository:
        layout, model = self.layout, self.root / "model"
        if layout.repository.exists():
            return RunRepository(layout.repository)
        layout.make()
        model.mkdir()
        (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        role = RoleSettings(model=self.provider.model, maximum_output_tokens=2000)
        values: dict[str, Any] = {
            "backend": "openai", "api": self.api, "tokens_per_step": 400_000, "turns_per_step": 20, "step_seconds": 60.0,
            "roles": {"planner": role, "implementer": role, "judge": role},
            "prices": {self.provider.model: ModelPrice(input=1, output=10)},
        }  # fmt: skip
        agents = AgentSettings(**(values | self.settings))
        base = run_spec(str(model))
        expected = dict.fromkeys(StepKind, 1.0)
        policy = base.policy.model_copy(update={"steps": step_policies(expected, agents)})
        spec = base.model_copy(
            update={"agents": as_json(agents), "budget": self.budget, "policy": policy, "skills": False}
        )
        sealed = {KEY_COMMITMENT: Seals(layout.sealed).key_commitment()}
        RunRepository.create(layout.repository, spec, "a: b\n", 0.0, sealed)
        key = self.root / "key"
        key.write_text(self.provider.key)
        write_access(layout.models, ModelAccessFile(endpoints=(EndpointConfig(url=self.provider.url, key_file=key),)))
        return RunRepository(layout.repository)

    def drive(self) -> Finished:
        repository = self.make()
        spec = repository.load().spec
        fake = self.root / "role.py"
        fake.write_text(f"SERVER = {SERVER!r}\nSTACK = {STACK!r}\n{ROLE}")

        def command(name: str) -> Any:
            return (
                role_command(name) if name in ("planner", "implementer") else (sys.executable, str(fake), name, "good")
            )

        steps_here = LocalSteps if self.processes else StepsHere
        with self._proxy(spec) as models:
            steps = steps_here(
                self.layout, repository, model_dir=self.root / "model", engine=FakeEngine(), hardware=HARDWARE,
                skills_root=None, limits=Limits(candidate_bytes=400 * MIB, role_bytes=2000 * MIB), models=models,
                command=command,
            )  # fmt: skip
            driver = Driver(repository, steps, clock=self.clock, emit=self.told.append, report=lambda _: "report.html")
            return driver.drive()

    @contextlib.contextmanager
    def _proxy(self, spec: RunSpec) -> Generator[LocalModelProxy]:
        with contextlib.ExitStack() as stack:
            if not self.processes:
                stack.enter_context(mock.patch.object(model_proxy, "GuardedProcess", ProxyHere))
            log = self.layout.logs / "model-proxy.log"
            yield stack.enter_context(LocalModelProxy(self.layout.models, spec, log=log))

    # --- what is left of it -------------------------------------------------------------------------------------------

    def records(self) -> list[StepRecord]:
        return list(RunRepository(self.layout.repository).load().state(0.0).records)

    def spent(self) -> int:
        """Tokens in the run's books for steps that asked a model."""
        return sum(record.cost.tokens for record in self.records())

    def failures(self, step: StepKind) -> list[tuple[str, FailureClass | None]]:
        return [
            (record.failure.reason, record.failure.failure_class)
            for record in self.records()
            if record.step is step and record.failure is not None
        ]
