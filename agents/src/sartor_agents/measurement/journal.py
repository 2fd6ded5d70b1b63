"""What a measurement's samples do not say by themselves: windows, their scored parts, and pairs that do not count.

With the samples beside it, everything that a measurement claims can be computed again by somebody else (`sartor verify`):
one JSON line for what was asked, then one for each pair, written when the pair ended, void ones included with their reason.
A last line says how it ended. A measurement that was killed has no last line, so it is never taken for a whole one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from .contention import Contention
from .generator import GeneratorLoad
from .messages import EvaluateRequest, Message, Reason, ScenarioSpec
from .pairs import Pair
from .policy import MeasurementPolicy
from .sample_file import not_written
from .samples import GenerationRequest, Sample
from .surroundings import Disturbance
from .windows import StageRun, WindowRun

JOURNAL = "windows.jsonl"

_UNSAID = ("prediction", "cache_salt")
"""Fields of a body that may rest on a server's own answers, so that no seed determines them."""


class JournalError(ValueError):
    """The file is no journal, or not a whole one; the message names the line."""


class Asked(Message):
    """The first line: what was measured, without addresses or folders. The seed stands as its hash alone."""

    line: Literal["asked"] = "asked"
    scenario: ScenarioSpec
    policy: MeasurementPolicy
    confirmation: bool
    tie_tolerance: float
    seed_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    trace_digest: str | None = None
    accepts_prediction: dict[Literal["candidate", "baseline"], bool]


class StageNote(Message):
    """One stage of one window. Times on the client's clock, as in the samples."""

    name: str
    scored_from: float
    scored_to: float
    warm: bool


class GeneratorNote(Message):
    """The load generator in one window. Seconds; `lag` and `late` are 99th percentiles (`generator.GeneratorLoad`)."""

    seconds: float
    cpu_seconds: float
    lag: float
    late: float


class DisturbanceNote(Message):
    """Something that happened around a window and makes it no measurement."""

    reason: Reason
    message: str
    by: str | None = None


class WindowNote(Message):
    """One window of one arm; `stolen` and `foreign` are shares of the machine's CPU, `idle_arms` processors.

    `energy_j` (joules of the accelerators) and `device_bytes` (what the arm held of their memory) where they are counted.
    """

    stages: tuple[StageNote, ...]
    stolen: float
    foreign: float | None
    idle_arms: dict[str, float]
    generator: GeneratorNote
    disturbances: tuple[DisturbanceNote, ...]
    accelerators: tuple[dict[str, JsonValue], ...]
    seconds: float
    energy_j: float | None = None
    device_bytes: int | None = None


class PairNote(Message):
    """One pair. `requests` maps the id of each scored request to its digest (`request_digest`)."""

    line: Literal["pair"] = "pair"
    index: int = Field(ge=0)
    first: Literal["candidate", "baseline"]
    candidate: WindowNote
    baseline: WindowNote
    void: str | None
    why: str = ""
    requests: dict[str, str]
    elapsed: float = Field(description="seconds from the start of the measurement to the end of this pair")


class Ended(Message):
    """The last line: `stop` is why no pair was added, `time` when the next one would not have ended in time."""

    line: Literal["ended"] = "ended"
    stop: str
    pairs: int
    void: int


Line = Annotated[Asked | PairNote | Ended, Field(discriminator="line")]
_LINE: TypeAdapter[Asked | PairNote | Ended] = TypeAdapter(Line)


class Journal(Message):
    """A whole journal."""

    asked: Asked
    pairs: tuple[PairNote, ...]
    ended: Ended


def request_digest(request: GenerationRequest) -> str:
    """What a request asks, as two hashes: of all that a seed determines, and of the whole body.

    SHA-256 cut to 128 bits, hexadecimal, over the canonical JSON of path and body; one hash where both are equal.
    """
    said = {key: value for key, value in request.body.items() if key not in _UNSAID}
    prompt, whole = _digest(request.path, said), _digest(request.path, request.body)
    return prompt if prompt == whole else f"{prompt}:{whole}"


def _digest(path: str, body: Mapping[str, Any]) -> str:
    canonical = json.dumps([path, dict(body)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class JournalWriter:
    """Appends to the journal of one measurement; `path` is written anew."""

    def __init__(self, path: Path, request: EvaluateRequest) -> None:
        """Raises `SamplesNotWrittenError`, as every other method does, when the file cannot be written."""
        assert request.candidate is not None and request.baseline is not None, "pairs have two arms"
        self._path = path
        trace = request.trace
        asked = Asked(
            scenario=request.scenario,
            policy=request.policy,
            confirmation=request.confirmation,
            tie_tolerance=request.tie_tolerance,
            seed_digest=hashlib.sha256(request.seed.encode()).hexdigest(),
            trace_digest=hashlib.sha256(trace.read_bytes()).hexdigest() if trace is not None else None,
            accepts_prediction={
                "candidate": request.candidate.accepts_prediction,
                "baseline": request.baseline.accepts_prediction,
            },
        )
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise not_written(path, error) from error
        self._append(asked)

    def pair(self, index: int, pair: Pair, requests: Mapping[str, GenerationRequest], elapsed: float) -> None:
        """One pair that ended; `requests` are all scored requests so far."""
        sent = {s.request_id for run in (pair.candidate, pair.baseline) for s in run.samples if s.purpose == "scored"}
        first = "candidate" if _begun(pair.candidate) <= _begun(pair.baseline) else "baseline"
        self._append(
            PairNote(
                index=index,
                first=first,
                candidate=_window(pair.candidate),
                baseline=_window(pair.baseline),
                void=pair.void.value if pair.void is not None else None,
                why=pair.why,
                requests={name: request_digest(requests[name]) for name in sorted(sent)},
                elapsed=elapsed,
            )
        )

    def ended(self, stop: str, *, pairs: int, void: int) -> None:
        self._append(Ended(stop=stop, pairs=pairs, void=void))

    def _append(self, line: Message) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line.model_dump_json() + "\n")
        except OSError as error:
            raise not_written(self._path, error) from error


def _begun(run: WindowRun) -> float:
    return min((sample.sent for sample in run.samples), default=0.0)


def _window(run: WindowRun) -> WindowNote:
    return WindowNote(
        stages=tuple(
            StageNote(name=stage.stage.name, scored_from=stage.scored_from, scored_to=stage.scored_to, warm=stage.warm)
            for stage in run.stages
        ),
        stolen=run.contention.stolen,
        foreign=run.contention.foreign,
        idle_arms=dict(run.contention.idle_arms),
        generator=GeneratorNote(
            seconds=run.generator.seconds,
            cpu_seconds=run.generator.cpu_seconds,
            lag=run.generator.lag,
            late=run.generator.late,
        ),
        disturbances=tuple(
            DisturbanceNote(reason=one.reason, message=one.message, by=one.by) for one in run.disturbances
        ),
        accelerators=run.accelerators,
        seconds=run.seconds,
        energy_j=run.energy_j,
        device_bytes=run.device_bytes,
    )


def read_journal(text: bytes) -> Journal:
    """A journal from the bytes of its file. Raises `JournalError`."""
    lines: list[Asked | PairNote | Ended] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            lines.append(_LINE.validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "content"
            raise JournalError(f"line {number} is no line of a journal: {where}: {first['msg']}") from None
    if not lines or not isinstance(lines[0], Asked):
        raise JournalError("the first line does not say what was asked")
    if not isinstance(lines[-1], Ended):
        raise JournalError("the last line does not say how it ended: the measurement was cut off")
    pairs = [line for line in lines[1:-1] if isinstance(line, PairNote)]
    if len(pairs) != len(lines) - 2:
        raise JournalError("there is more than one beginning or end in it")
    return Journal(asked=lines[0], pairs=tuple(pairs), ended=lines[-1])


def window_run(
    note: WindowNote, arm: str, index: int, stages: Mapping[str, Any], samples: Iterable[Sample]
) -> WindowRun:
    """A window as the evaluator had it, from its note and its samples (in the order in which they were kept).

    `stages` are the scenario's by name. Raises `JournalError` for a stage that the scenario does not have.
    """
    by_stage: dict[str, list[Sample]] = {}
    for sample in samples:
        by_stage.setdefault(sample.stage, []).append(sample)
    if [stage.name for stage in note.stages] != list(stages) or not set(by_stage) <= set(stages):
        raise JournalError(f"window {index} of the {arm} has other stages than the scenario")
    runs = tuple(
        StageRun(stages[one.name], tuple(by_stage.get(one.name, ())), one.scored_from, one.scored_to, one.warm)
        for one in note.stages
    )
    load = note.generator
    return WindowRun(
        arm,
        index,
        runs,
        Contention(note.stolen, note.foreign, note.idle_arms),
        note.seconds,
        tuple(Disturbance(one.reason, one.message, one.by) for one in note.disturbances),
        GeneratorLoad(load.seconds, load.cpu_seconds, (load.lag,), (load.late,)),
        note.accelerators,
        note.energy_j,
        note.device_bytes,
    )
