"""A whole run with real measurements of fake servers: what evidence is made from."""

import asyncio
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_servers import Behaviour, serving
from run_fakes import FakeClock, FakeSteps, run_spec

from sartor_agents.evidence import archive
from sartor_agents.evidence.build import bundle
from sartor_agents.evidence.deliver import deliver
from sartor_agents.evidence.statement import PROVENANCE, Statement, byproducts
from sartor_agents.measurement.evaluation import evaluate
from sartor_agents.measurement.messages import Endpoint, EvaluateRequest
from sartor_agents.measurement.sample_file import read_samples, write_samples
from sartor_agents.measurement.samples import Sample
from sartor_agents.run.driver import Driver, StepOutcome
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.requests import measurement_policy, scenario_spec
from sartor_agents.run.seals import KEY_COMMITMENT, Seals, seed_path
from sartor_api.search.decide import Begin
from sartor_api.search.estimate import ACCELERATED
from sartor_api.search.records import (
    BaselineRecord,
    Finished,
    Implementation,
    Outcome,
    Plan,
    SeedCommitment,
    StepKind,
)
from sartor_api.search.state import RunState

POLICY: dict[str, Any] = {
    "window_seconds": 0.3, "requests_per_condition": 1, "warmup_requests": 1, "warmup_requests_max": 3,
    "maximum_contention": 1.0, "maximum_contention_difference": 1.0, "invalid_pairs_max": 30, "verify_outputs": 0,
    "maximum_generator_share": 100.0, "maximum_generator_lag": 1e6,  # the servers share the load generator's loop
    "precision": 2.0, "confidence": 0.6, "replicates_min": 3, "replicates_max": 6,
    "request_timeout": 20.0, "stall_timeout": 10.0, "wall_clock": 300.0,
}  # fmt: skip


class MeasuredSteps(FakeSteps):
    """Evaluate and confirm measure two fake servers; seeds, samples and commitments as `LocalSteps` has them."""

    def __init__(self, repository: RunRepository, layout: RunLayout, model_dir: Path) -> None:
        super().__init__(repository)
        self.layout, self.model_dir, self.seals = layout, model_dir, Seals(layout.sealed)

    def prepare(self, begin: Begin, run: RunState) -> Mapping[str, str]:
        if begin.step not in ACCELERATED:
            return {}
        return {seed_path(begin.id): self.seals.commitment(begin.id).model_dump_json() + "\n"}

    def execute(self, begin: Begin, run: RunState, progress: Any) -> StepOutcome:
        if begin.step is StepKind.BASELINE:
            return StepOutcome(BaselineRecord(engine="vllm", version="1", arguments=("--x",), chosen="plain"))
        if begin.step is StepKind.PLAN:
            first = run.rounds[0].implementation if begin.round > 1 else None
            parent = first.commit if first is not None else None
            return StepOutcome(Plan(round=begin.round, action="build", parent=parent, hypothesis="faster"))
        if begin.step is StepKind.IMPLEMENT:
            files = {"stack/__main__.py": b"print(%d)\n" % begin.round, "stack/same.py": b"SAME = 1\n"}
            return StepOutcome(self.repository.save_candidate(begin.round, None, files, Implementation(), 1000.0))
        if begin.step not in (StepKind.EVALUATE, StepKind.CONFIRM):
            return super().execute(begin, run, progress)
        folder = self.layout.samples / begin.id.replace("/", "-")
        folder.mkdir(parents=True)
        # The second candidate is four times as fast as the first, so that it wins on a busy machine, too.
        seconds = 0.004 / begin.round**2 if begin.round else 0.001
        response = asyncio.run(self._measure(begin, run, folder, Behaviour(token_seconds=seconds)))
        assert response.measurement is not None, response.message
        seed = SeedCommitment.of(self.seals.seed(begin.id))
        path = str((response.samples or folder).relative_to(self.layout.root))
        return StepOutcome(response.measurement.model_copy(update={"seed": seed, "samples": path}))

    async def _measure(self, begin: Begin, run: RunState, folder: Path, mine: Behaviour) -> Any:
        async with (
            serving(self.model_dir, Behaviour(token_seconds=0.008)) as theirs,
            serving(self.model_dir, mine) as server,
        ):
            request = EvaluateRequest(
                candidate=Endpoint(url=server.url),
                baseline=Endpoint(url=theirs.url, accepts_prediction=False),
                model_dir=self.model_dir,
                scenario=scenario_spec(run.spec),
                policy=measurement_policy(run.spec, begin.step, wall_clock=200.0),
                seed=self.seals.seed(begin.id),
                output_dir=folder,
                confirmation=begin.step is StepKind.CONFIRM,
            )
            return await evaluate(request, verify=lambda *_: None)


@dataclass(frozen=True)
class World:
    """A finished run, and the files of its winner's bundle."""

    layout: RunLayout
    model_dir: Path
    finished: Finished
    evidence: Path

    @property
    def content(self) -> bytes:
        return self.evidence.read_bytes()

    @property
    def files(self) -> dict[str, bytes]:
        return archive.unpack(self.content)

    def again(self) -> bytes:
        """The bundle made anew from the same run."""
        repository = RunRepository(self.layout.repository)
        found = bundle(repository.load().state(0.0), self.layout, repository, self.model_dir, None)
        assert found is not None
        return archive.pack(found[0])


def made_run(root: Path, model_dir: Path) -> World:
    """Two rounds, the second one made from the first, and a confirmation."""
    layout = RunLayout(root / "run")
    layout.make()
    sealed = {KEY_COMMITMENT: Seals(layout.sealed).key_commitment()}
    spec = run_spec(str(model_dir), rounds=2, seconds=600.0).model_copy(
        update={
            "scenario": "code-edit",
            "parameters": {"matchRates": [0, 90], "fileTokens": 24},
            "measurement": {"preset": "quick", "overrides": POLICY},
        }
    )
    RunRepository.create(layout.repository, spec, "a: b\n", 0.0, sealed)
    repository = RunRepository(layout.repository)
    told: list[Any] = []
    driver = Driver(
        repository,
        MeasuredSteps(repository, layout, model_dir),
        clock=FakeClock(),
        emit=told.append,
        report=lambda _: "report.html",
        prove=lambda run: deliver(run, layout, repository, model_dir, None),
    )
    finished = driver.drive()
    assert finished.outcome is Outcome.CONFIRMED, finished
    return World(layout, model_dir, finished, Path(told[-1].evidence))


# --- a forger's tools -------------------------------------------------------------------------------------------------


def resealed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The bundle with all hashes of its statement made anew, as a forger would."""
    statement = Statement.model_validate_json(files[PROVENANCE])
    details = statement.predicate.run_details.model_copy(update={"byproducts": byproducts(files)})
    predicate = statement.predicate.model_copy(update={"run_details": details})
    return {**files, PROVENANCE: statement.model_copy(update={"predicate": predicate}).as_file()}


def journal_lines(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["steps/confirm/windows.jsonl"].splitlines()]


def with_journal(
    files: dict[str, bytes], edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> dict[str, bytes]:
    """The confirmation's journal edited."""
    lines = edit(journal_lines(files))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return {**files, "steps/confirm/windows.jsonl": text.encode()}


def with_samples(files: dict[str, bytes], edit: Callable[[list[Sample]], list[Sample]]) -> dict[str, bytes]:
    """The confirmation's samples edited, in the format in which they are kept."""
    name = next(path for path in files if path.startswith("steps/confirm/samples."))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(files[name])
        samples = edit(list(read_samples(path)))
        path.unlink()
        write_samples(path, samples)
        return {**files, name: path.read_bytes()}
