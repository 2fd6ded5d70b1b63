"""`code-edit` and `chat` on the device the way `make bench` measures them (`benchmarks.support.arms`): stack and baseline
served over HTTP, judged before anything is timed, and compared by the evaluator in interleaved windows.

A step measures one workload against one baseline and gives rows. What was sent and received lies below its folder.
"""

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import chat as chats
from benchmarks import code_edit as edits
from benchmarks.gpu.choice import recorded
from benchmarks.gpu.ground import Baseline, ground
from benchmarks.gpu.models import MODELS
from benchmarks.gpu.plan import CannotRunError
from benchmarks.support.arms import Envelope, Workbench, ratio_row
from benchmarks.support.record import Row
from sartor_agents.measurement.messages import ChatParameters, ChatScenario, EvaluateResponse, ScenarioSpec
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.run.engines import Setting
from sartor_skills.catalog import Scalar

EDIT_TARGETS = {"match95": 6.0, "match0": 0.97}
NGRAM_TARGETS = {"match95": 2.0}
CHAT_TARGETS = {1: 1.15}
WIDEST_TARGET = 1.10


@dataclass(frozen=True)
class Load:
    """How much is sent. `pairs` are the windows of each arm, the fewest and the most."""

    file_tokens: int = 256
    rates: tuple[int, ...] = (0, 95)
    edit_len: int = 2048
    concurrencies: tuple[int, ...] = (1, 64, 128)
    prompt_tokens: int = 512
    output_tokens: int = 256
    chat_len: int = 1152
    window: float = 10.0
    pairs: tuple[int, int] = (6, 12)
    recipes: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict[str, Mapping[str, Scalar]])


LOADS = {
    "cuda": Load(),
    # Enough for every line of the path, and little enough for a processor that runs kernels' references.
    "cpu": Load(
        16, (0, 95), 1024, (1, 2), 16, 12, 1024, 1.5, (6, 6),
        {"cuda-decoder": {"GRAPH_ROWS": 8, "STEP_TOKENS": 1024, "MAX_SEQUENCES": 16}},
    ),
}  # fmt: skip
_BASE: Mapping[str, Mapping[str, Scalar]] = {"serving-core": {}, "model-loading": {}, "cuda-decoder": {}}


@dataclass
class Site:
    """Where a step works: its folder (below that of all results), its device, its model, and until when (monotonic s)."""

    folder: Path
    device: torch.device
    size: str
    model_dir: Path
    until: float
    clock: Callable[[], float] = time.monotonic

    @property
    def load(self) -> Load:
        return LOADS[self.device.type]

    def policy(self, share: float = 1.0, **overrides: Any) -> MeasurementPolicy:
        """For a measurement that begins now and may take this share of the time left."""
        fewest, most = self.load.pairs
        calm: dict[str, Any] = {}
        if self.device.type == "cpu":  # a dry run proves the path on any machine, however busy
            calm = {
                "maximum_contention": 1.0, "maximum_contention_difference": 1.0, "maximum_generator_share": 100.0,
                "maximum_generator_lag": 100.0, "maximum_idle_cores": 64.0, "maximum_idle_baseline_cores": 64.0,
            }  # fmt: skip
        values: dict[str, Any] = {
            "replicates_min": fewest, "replicates_max": most, "warmup_requests": 1, "verify_outputs": 4,
            "window_seconds": self.load.window, "wall_clock": max(1.0, share * (self.until - self.clock())), **calm,
        }  # fmt: skip
        return MeasurementPolicy.thorough(**{**values, **overrides})

    def workbench(self, scenario: str, envelope: Envelope) -> tuple[Workbench, Baseline]:
        made, baseline = ground(
            MODELS[self.size], self.model_dir, envelope, self.device, scenario, self.folder / "baseline-home",
            self._memory(),
        )  # fmt: skip
        return Workbench(self.folder, self.size, envelope, made), baseline

    def _memory(self) -> int:
        """Bytes of the device, as the step `device` found them."""
        if self.device.type == "cpu":
            return 0
        found = json.loads((self.folder.parent / "step-device.json").read_text(encoding="utf-8"))
        return int(found["memory_bytes"])

    def recipes(self, **more: Mapping[str, Scalar]) -> dict[str, dict[str, Scalar]]:
        """Recipes of a stack, with the kernels that were the faster ones on this device."""
        names = {**_BASE, **{name.replace("_", "-"): values for name, values in more.items()}}
        found = {name: {**values, **self.load.recipes.get(name, {})} for name, values in names.items()}
        found["cuda-decoder"] |= recorded(self.folder.parent, self.size)
        return found


def judged(site: Site, scenario: str) -> dict[str, Any]:
    """One workload's stack before the judge, and nothing timed: its checks, and a row that says that all passed."""
    load = site.load
    if scenario == "code-edit":
        spec: ScenarioSpec = edits.scenario(load.file_tokens, rates=load.rates)
        envelope, recipes = _edit_envelope(load), site.recipes(predicted_outputs={})
    else:
        spec, envelope, recipes = _chat(load, load.concurrencies[-1]), _chat_envelope(load), site.recipes()
    work, _ = site.workbench(scenario, envelope)
    with work.stack(scenario, recipes) as stack:
        response = work.judged(stack, None, spec)
    failed = float(sum(not check.passed for check in response.checks))
    note = (
        f"of {len(response.checks)} checks of the judge over HTTP; {response.ties} ties in {response.samples} answers"
    )
    bar = f"cuda/gate/{site.size}/{scenario}/failed-checks"
    row = Row(bar, "checks", "lower", 0.0, failed, failed, failed, 1, note)
    return {"checks": [check.model_dump(mode="json") for check in response.checks], "rows": [asdict(row)]}


def edit(site: Site, *, drafted: bool = False) -> dict[str, Any]:
    """`code-edit` at concurrency 1 against the baseline's plain decoding, or against the best of its n-gram settings."""
    load = site.load
    work, baseline = site.workbench("code-edit", _edit_envelope(load))
    if drafted and not baseline.drafted:
        raise CannotRunError(f"{baseline.words} has no n-gram speculation to be tuned")
    setting, listed = baseline.plain[0], ""
    if drafted:
        only = edits.scenario(load.file_tokens, rates=(95,))
        once = site.policy(single_windows=1, warmup_requests=1)
        setting, listed = work.tune(baseline.drafted, {"match95": only}, once, edits.at_95)["match95"]
    with work.stack("code-edit", site.recipes(predicted_outputs={})) as stack:
        scenario = edits.scenario(load.file_tokens, rates=load.rates)
        response = work.against(stack, setting, scenario, site.policy)
    against = f"{baseline.engine.name}-ngram" if drafted else baseline.engine.name
    targets = (NGRAM_TARGETS if drafted else EDIT_TARGETS) if baseline.engine.name == "vllm" else {}
    note = _note(baseline, setting, listed, response)
    rows = [
        ratio_row(f"cuda/code-edit/{site.size}/c1/{name}/vs-{against}", ratio, targets.get(name), f"{rates}; {note}")
        for name, ratio, rates in edits.conditions(response)
    ]
    return _result(rows, response, baseline)


def chat(site: Site) -> dict[str, Any]:
    """`chat` at each concurrency; `transformers` serves one request at a time and is compared at that."""
    load = site.load
    work, baseline = site.workbench("chat", _chat_envelope(load))
    vllm = baseline.engine.name == "vllm"
    concurrencies = load.concurrencies if vllm or site.device.type == "cpu" else load.concurrencies[:1]
    rows: list[Row] = []
    responses: list[EvaluateResponse] = []
    setting = baseline.plain[0]
    with work.stack("chat", site.recipes()) as stack:
        for place, concurrency in enumerate(concurrencies):
            policy = functools.partial(site.policy, share=1 / (len(concurrencies) - place))
            response = work.against(stack, setting, _chat(load, concurrency), policy)
            responses.append(response)
            widest = WIDEST_TARGET if concurrency == load.concurrencies[-1] else None
            target = CHAT_TARGETS.get(concurrency, widest) if vllm else None
            found = chats.rows(
                response, f"cuda/chat/{site.size}/c{concurrency}", target, _note(baseline, setting, "", response)
            )
            rows += [_named(row, baseline.engine.name) for row in found]
    return _result(rows, responses[-1], baseline)


def _named(row: Row, engine: str) -> Row:
    """`chat.rows` names vLLM; against another engine a row carries its name, and no bar that was set for vLLM."""
    if engine == "vllm":
        return row
    values = {**asdict(row), "bar": row.bar.replace("vs-vllm", f"vs-{engine}"), "target": None}
    return Row(**values)


def _chat(load: Load, concurrency: int) -> ChatScenario:
    return ChatScenario(
        parameters=ChatParameters(
            concurrencies=(concurrency,), prompt_tokens=load.prompt_tokens, output_tokens=load.output_tokens
        )
    )


def _edit_envelope(load: Load) -> Envelope:
    return Envelope(load.edit_len - load.file_tokens, load.file_tokens, load.edit_len, concurrency=4)


def _chat_envelope(load: Load) -> Envelope:
    most = 2 * load.output_tokens
    return Envelope(load.chat_len - most, most, load.chat_len, load.concurrencies[-1])


def _note(baseline: Baseline, setting: Setting, listed: str, response: EvaluateResponse) -> str:
    chosen = f"{setting.name}, of {listed}" if listed else setting.name
    checked = f"{response.verified_outputs} answers of scored windows checked"
    return f"{baseline.words}, {chosen}; judged, over HTTP, {response.pairs} interleaved pairs, {checked}"


def _result(rows: Sequence[Row], response: EvaluateResponse, baseline: Baseline) -> dict[str, Any]:
    return {
        "rows": [asdict(row) for row in rows],
        "baseline": baseline.words,
        "last": response.model_dump(mode="json", exclude={"samples"}),
    }
