"""One run with real planner and implementer processes and the real model proxy; everything else of it is a small program."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from run_fakes import HARDWARE, MIB, ROLE, SERVER, STACK, FakeClock, FakeEngine, run_spec
from scripted_provider import Provider

from sartor_agents.model_proxy.config import EndpointConfig
from sartor_agents.run import events
from sartor_agents.run.driver import Clock, Driver
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.local import Limits, LocalSteps
from sartor_agents.run.model_proxy import LocalModelProxy, ModelAccessFile, write_access
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.role import role_command
from sartor_agents.run.seals import KEY_COMMITMENT, Seals
from sartor_api.search.agents import AgentSettings, ModelPrice, RoleSettings, as_json
from sartor_api.search.records import Budget, FailureClass, Finished, StepKind, StepRecord
from sartor_api.search.snapshot import step_policies


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

        with LocalModelProxy(self.layout.models, spec, log=self.layout.logs / "model-proxy.log") as models:
            steps = LocalSteps(
                self.layout, repository, model_dir=self.root / "model", engine=FakeEngine(), hardware=HARDWARE,
                skills_root=None, limits=Limits(candidate_bytes=400 * MIB, role_bytes=2000 * MIB), models=models,
                command=command,
            )  # fmt: skip
            driver = Driver(repository, steps, clock=self.clock, emit=self.told.append, report=lambda _: "report.html")
            return driver.drive()

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
