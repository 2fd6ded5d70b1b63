"""Role pods in folders: the mounts that the operator makes, roles that are small programs, and a real git service."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from repository_world import NAMESPACE, RUN, World, caller, serving
from run_fakes import HARDWARE, ROLE, SERVER, STACK, FakeEngine, run_spec

from sartor_agents.pods import __main__ as pods
from sartor_agents.pods.tools import Tools
from sartor_api.search.records import Plan, RunSpec, StepKind, StepRecord
from sartor_api.search.wire import StepBegin, StepReport, read_report
from sartor_repository.policy import Role

SEED = "5e" * 32
ROLES = {
    StepKind.BASELINE: ("tuner", Role.EVALUATOR),
    StepKind.PLAN: ("recorder", Role.PLANNER),
    StepKind.IMPLEMENT: ("committer", Role.IMPLEMENTER),
    StepKind.JUDGE: ("judge", Role.JUDGE),
    StepKind.EVALUATE: ("evaluator", Role.EVALUATOR),
    StepKind.CONFIRM: ("evaluator", Role.EVALUATOR),
}
BEFORE = {StepKind.PLAN: ("history", "planner"), StepKind.IMPLEMENT: ("source", "implementer")}
"""The containers of a step before the one that reports."""
SEALED = (StepKind.BASELINE, StepKind.JUDGE, StepKind.EVALUATE, StepKind.CONFIRM)


@dataclass
class PodWorld:
    """One run: its records so far, its git service, and how its roles behave."""

    root: Path
    git: World
    monkeypatch: pytest.MonkeyPatch
    behaviours: dict[str, str] = field(default_factory=dict[str, str])
    records: list[StepRecord] = field(default_factory=list[StepRecord])
    engine: FakeEngine = field(default_factory=FakeEngine)
    spec: RunSpec = field(default_factory=lambda: run_spec())
    log: list[str] = field(default_factory=list[str])
    patience: float = 0.0

    def begin(
        self, step: StepKind, round_number: int = 1, attempt: int = 1, execution: int = 1, **more: object
    ) -> StepBegin:
        number = 0 if step in (StepKind.BASELINE, StepKind.CONFIRM) else round_number
        seed = hashlib.sha256(SEED.encode()).hexdigest() if step in SEALED else None
        values = {
            "id": f"{number:03d}/{step.value}/{attempt}/{execution}",
            "sequence": len(self.records) + 1,
            "step": step,
            "round": number,
            "attempt": attempt,
            "reason": "Next",
            "begun": 1_750_000_000.5 + len(self.records),
            "deadline_seconds": 60.0,
            "seed_digest": seed,
        }
        return StepBegin.model_validate(values | more)

    def environment(self, begin: StepBegin, role: str, **changed: str | None) -> dict[str, str]:
        """The mounts and variables of a pod, as `sartor_operator.pods.jobs` makes them."""
        mounts = self.root / "mounts" / begin.id.replace("/", "-")
        work, model = self.work(begin), self.root / "model"
        for folder in (mounts, work, model):
            folder.mkdir(parents=True, exist_ok=True)
        (model / "config.json").write_text("{}")
        (mounts / "step.json").write_text(begin.model_dump_json(exclude_none=True))
        (mounts / "spec.json").write_text(self.spec.model_dump_json(exclude_none=True))
        (mounts / "records.json").write_text(json.dumps([json.loads(r.model_dump_json()) for r in self.records]))
        (mounts / "seed").write_text(SEED)
        account = ROLES[begin.step][1]
        step = begin.id.replace("/", "-")
        token = f"secret-token-{step}"
        self.git.tokens[token] = caller(account, step)
        (mounts / "token").write_text(token + "\n")
        sealed, looking = begin.step in SEALED, begin.step in SEALED and begin.step is not StepKind.BASELINE
        values: dict[str, str | None] = {
            "SARTOR_ROLE": role,
            "SARTOR_STEP_FILE": str(mounts / "step.json"),
            "SARTOR_SPEC_FILE": str(mounts / "spec.json"),
            "SARTOR_RECORDS_FILE": str(mounts / "records.json") if role in ("history", "recorder") else None,
            "SARTOR_SEED_FILE": str(mounts / "seed") if sealed else None,
            "SARTOR_TOKEN_FILE": str(mounts / "token") if role not in ("planner", "implementer") else None,
            "SARTOR_MODEL": str(model),
            "SARTOR_WORK": str(work),
            "SARTOR_REPOSITORY": self.git.address(),
            "SARTOR_CANDIDATE_URL": "http://127.0.0.1:9" if looking else None,
            "SARTOR_BASELINE_URL": "http://127.0.0.1:9" if looking else None,
            "TERMINATION_LOG": str(mounts / f"{role}.termination"),
        }
        return {name: value for name, value in (values | changed).items() if value is not None}

    def work(self, begin: StepBegin) -> Path:
        return self.root / "work" / begin.id.replace("/", "-")

    def said(self, begin: StepBegin, role: str | None = None) -> str:
        """The termination message of a container."""
        name = role or ROLES[begin.step][0]
        path = self.root / "mounts" / begin.id.replace("/", "-") / f"{name}.termination"
        return path.read_text() if path.is_file() else ""

    def run(self, begin: StepBegin, role: str | None = None, **changed: str | None) -> int:
        """One container; returns its exit code."""
        name = role or ROLES[begin.step][0]
        for variable in [v for v in os.environ if v.startswith("SARTOR_")]:
            self.monkeypatch.delenv(variable)
        for variable, value in self.environment(begin, name, **changed).items():
            self.monkeypatch.setenv(variable, value)
        return int(pods.main([name], self.tools()))

    def tools(self) -> Tools:
        program = self.root / "role.py"
        program.write_text(f"SERVER = {SERVER!r}\nSTACK = {STACK!r}\n{ROLE}")
        return Tools(
            say=self.log.append,
            command=lambda name: (sys.executable, str(program), name, self.behaviours.get(name, "good")),
            engine=lambda _spec, _model: self.engine,
            hardware=lambda: HARDWARE,
            patience_seconds=self.patience,
            sleep=lambda _seconds: None,
        )

    def report(self, begin: StepBegin) -> StepReport:
        return read_report(self.said(begin))

    def prepare(self, begin: StepBegin) -> None:
        """The containers before the one that reports."""
        for role in BEFORE.get(begin.step, ()):
            assert self.run(begin, role) == 0, self.said(begin, role)

    def done(self, begin: StepBegin) -> StepReport:
        """Carry out a whole step and put its record into the run."""
        self.prepare(begin)
        assert self.run(begin) == 0, self.said(begin)
        report = self.report(begin)
        self.records.append(
            StepRecord(
                id=begin.id,
                sequence=begin.sequence,
                step=begin.step,
                round=begin.round,
                attempt=begin.attempt,
                started=begin.begun,
                finished=begin.begun + 1,
                cost=report.cost,
                result=report.result,
            )
        )
        return report

    def up_to_plan(self) -> Plan:
        """Baseline and the first plan."""
        self.done(self.begin(StepKind.BASELINE))
        plan = self.done(self.begin(StepKind.PLAN)).result
        assert isinstance(plan, Plan)
        return plan

    def stored(self, commit: str | None, path: str, *, sealed: bool = False) -> bytes:
        """A file of a commit, straight from the volume."""
        vault = self.git.root / NAMESPACE / RUN / ("sealed.git" if sealed else "open.git")
        return subprocess.run(
            ["git", f"--git-dir={vault}", "cat-file", "blob", f"{commit}:{path}"], capture_output=True, check=True
        ).stdout


@contextmanager
def pod_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodWorld]:
    with serving(folder) as git:
        yield PodWorld(folder, git, monkeypatch)
