"""Fakes for the driver's tests: roles and stacks that are small programs, an engine that is a small HTTP server."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sartor_agents.backends.protocol import HardwareFacts
from sartor_agents.run import events
from sartor_agents.run.driver import Driver, StepOutcome
from sartor_agents.run.engines import ServerSpec, Setting
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.local import Limits, LocalSteps
from sartor_agents.run.placement import Placement
from sartor_agents.run.process import scrubbed_environment
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.seals import KEY_COMMITMENT, Seals
from sartor_api.search.decide import Begin
from sartor_api.search.intent import DEFAULT_RETRIES
from sartor_api.search.records import (
    BaselineRecord,
    Budget,
    Envelope,
    Implementation,
    Judgement,
    Measurement,
    Plan,
    RetryPolicy,
    RunSpec,
    SearchPolicy,
    Speedup,
    StepKind,
    StepPolicy,
    StepResult,
    Verdict,
)
from sartor_api.search.state import RunState

HARDWARE = HardwareFacts(platform="cpu", cores=2, memory_bytes=1 << 34, cpu_model="<b>test</b>")
MIB = 1 << 20


def run_spec(folder: str = "/model", rounds: int = 2, seconds: float = 30.0, **policy: object) -> RunSpec:
    """A run whose failed steps are tried again without waiting."""
    return RunSpec(
        name="fake",
        created=0.0,
        seed=1,
        scenario="chat",
        parameters={"concurrencies": [1]},
        model={"name": "m", "folder": folder},
        envelope=Envelope(max_input_tokens=64, max_output_tokens=64),
        measurement={"preset": "quick"},
        budget=Budget(rounds=rounds, wall_clock_seconds=3600),
        policy=SearchPolicy(
            steps={k: StepPolicy(expected_seconds=1, deadline_seconds=seconds) for k in StepKind},
            retries={k: RetryPolicy(tries=r.tries, base_seconds=0) for k, r in DEFAULT_RETRIES.items()},
            **policy,  # type: ignore[arg-type]
        ),
    )


def speedup(value: float) -> Speedup:
    return Speedup(value=value, low=value * 0.99, high=value * 1.01, n=4)


@dataclass
class FakeClock:
    time: float = 1000.0

    def now(self) -> float:
        self.time += 0.5
        return self.time

    def wait(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class FakeSteps:
    """Steps without processes: each round 20 % faster than the one before, unless `results` says otherwise."""

    repository: RunRepository
    results: Callable[[Begin], StepResult | None] = lambda _: None
    closed: int = 0
    delivered: list[str] = field(default_factory=list[str])

    def prepare(self, begin: Begin, run: RunState) -> Mapping[str, str]:
        return {f"seeds/{begin.id.replace('/', '-')}.json": "{}\n"}

    def execute(self, begin: Begin, run: RunState, progress: Callable[[str], None]) -> StepOutcome:
        progress("working")
        return StepOutcome(self.results(begin) or self._good(begin))

    def _good(self, begin: Begin) -> StepResult:
        match begin.step:
            case StepKind.BASELINE:
                return BaselineRecord(engine="vllm", version="1", chosen="plain")
            case StepKind.PLAN:
                return Plan(round=begin.round, action="build", hypothesis=f"try <{begin.round}>")
            case StepKind.IMPLEMENT:
                files = {"stack/__main__.py": b"print(%d)\n" % begin.round}
                return self.repository.save_candidate(begin.round, None, files, Implementation(), 1000.0)
            case StepKind.JUDGE:
                return Judgement(verdicts=(Verdict(gate="greedy", passed=True, reason="Passed"),))
            case StepKind.EVALUATE:
                return Measurement(metric="tok/s", speedup=speedup(1.2**begin.round))
            case StepKind.CONFIRM:
                assert begin.candidate is not None
                return Measurement(metric="tok/s", speedup=begin.candidate.speedup, confirmation=True)

    def deliver(self, commit: str) -> str:
        self.delivered.append(commit)
        return "stack"

    def close(self) -> None:
        self.closed += 1


# --- fakes that are processes ------------------------------------------------------------------------------------------

SERVER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

STACK = """
import gzip, os, subprocess, sys, time
from pathlib import Path
print("started:", sys.argv[1], "sees", repr(os.environ.get("CUDA_VISIBLE_DEVICES")), "--baseline" in sys.argv, flush=True)
def canary():
    return (Path.cwd().parents[1] / "sealed" / "canary").read_bytes()
behaviour = {behaviour!r}
if sys.argv[1] == "build":
    if behaviour == "build-fails":
        sys.exit("error: no compiler likes this")
    if behaviour == "leaks-build":
        Path("stack/build").mkdir(exist_ok=True)
        Path("stack/build/cache.bin").write_bytes(gzip.compress(canary()))
    sys.exit(0)
port = sys.argv[sys.argv.index("--port") + 1]
if behaviour == "leaks-log":
    print("prompt:", canary().hex(), flush=True)
if behaviour == "crashes":
    raise RuntimeError("the candidate fell over")
if behaviour == "hogs":
    hoard = bytearray(900 << 20)
    for page in range(0, len(hoard), 4096):
        hoard[page] = 1
    time.sleep(600)
subprocess.run([sys.executable, "-c", {server!r}, port])
"""

ROLE = """
import json, os, subprocess, sys, time
from pathlib import Path
role, behaviour, source, target = sys.argv[1:5]
request = json.loads(Path(source).read_text())
def answer(response):
    Path(target).write_text(json.dumps(response))
print(json.dumps({"message": f"{role} at work"}), file=sys.stderr, flush=True)
print("sees", repr(os.environ.get("CUDA_VISIBLE_DEVICES")), flush=True)
if behaviour == "crash":
    raise RuntimeError("boom")
if behaviour == "hang":
    subprocess.Popen(["sleep", "600.25"], start_new_session=True)
    time.sleep(600)
if behaviour == "garbage":
    Path(target).write_text("{ not json"); sys.exit(0)
if behaviour == "nothing":
    sys.exit(0)
if behaviour == "environment":
    Path(target).write_text(json.dumps({"plan": None, "failure": {"gate": "plan", "passed": False, "reason": "Seen",
        "message": json.dumps([sorted(os.environ), os.getcwd(), sorted(os.listdir())]), "failure_class": "provider"}}))
    sys.exit(0)
if role == "planner":
    number = request["context"]["round"]
    answer({"plan": {"round": number, "action": "build", "hypothesis": f"hypothesis {number}"}})
elif role == "implementer":
    context = request["context"]
    stack = Path(context["worktree"]) / "stack"
    stack.mkdir(exist_ok=True)
    kind = behaviour if context["attempt"] == 1 else "good"
    text = STACK.format(behaviour=kind, server=SERVER)
    (stack / "__main__.py").write_text(text + f"# round {context['plan']['round']}\\n")
    sealed = Path(context["worktree"]).parents[1] / "sealed"
    if behaviour == "leaks-source":
        (stack / "notes.py").write_text(f"SEED = {(sealed / 'key').read_text()[::-1]!r}")
    if behaviour == "links":
        (stack / "escape").symlink_to("/etc/passwd")
    if behaviour == "outside":
        (stack.parent / "notes.txt").write_text("x")
    summary = "made" if behaviour != "leaks-summary" else (sealed / "canary").read_text()
    answer({"implementation": {"summary": summary, "skills_used": ["serving-core"]}})
elif role == "judge":
    answer({"judgement": {"verdicts": [{"gate": "exact-greedy", "passed": True, "reason": "Passed"}]}})
elif role == "evaluator":
    if request["mode"] == "single":
        answer({"objective": 100.0, "metric": "tok/s", "reason": "Measured", "message": "fine"})
    elif behaviour == "invalid":
        answer({"measurement": {"metric": "tok/s", "valid": False, "invalid_reason": "BaselineDied", "message": "gone",
            "failure_class": "measurement"}, "reason": "BaselineDied", "message": "gone"})
    else:
        ratio = {"value": 2.0, "low": 1.9, "high": 2.1, "n": 4}
        arm = {"metric": 1.0, "requests": 4, "quantiles": {"ttft": [0.01, 0.02, 0.05]}}
        answer({"measurement": {"metric": "tok/s", "speedup": ratio, "conditions": [
            {"name": "c=1 <script>", "ratio": ratio, "candidate": arm, "baseline": arm}]},
            "reason": "Measured", "message": "fine", "samples": str(Path(request["output_dir"]) / "samples.parquet")})
"""


@dataclass
class FakeEngine:
    """An engine whose settings start, or do not."""

    program: str = SERVER
    broken: tuple[str, ...] = ()
    name: str = "vllm"
    version: str = "0.0"
    fallback_reason: str | None = None
    accepts_prediction: bool = False
    grid: tuple[str, ...] = ("plain",)

    def settings(self) -> Sequence[Setting]:
        return [Setting(name) for name in self.grid]

    def server(self, setting: Setting, port: int) -> ServerSpec:
        program = "import sys; sys.exit('libgomp is missing')" if setting.name in self.broken else self.program
        return ServerSpec(
            name="the baseline",
            command=(sys.executable, "-c", program, str(port)),
            cwd=Path("/"),
            port=port,
            environment=scrubbed_environment(Path("/tmp")),
            ready_seconds=20.0,
        )


@dataclass
class LocalRun:
    """A run of fake roles, servers and stacks; `behaviours` maps a role to how it behaves."""

    root: Path
    behaviours: dict[str, str] = field(default_factory=dict[str, str])
    engine: FakeEngine = field(default_factory=FakeEngine)
    spec: RunSpec | None = None
    limits: Limits = field(default_factory=lambda: Limits(candidate_bytes=400 * MIB, role_bytes=400 * MIB))
    told: list[events.Event] = field(default_factory=list)
    placement: Placement | None = None

    def driver(self) -> Driver:
        layout = RunLayout(self.root / "run")
        model = self.root / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text("{}")
        if not layout.repository.exists():
            layout.make()
            sealed = {KEY_COMMITMENT: Seals(layout.sealed).key_commitment()}
            RunRepository.create(layout.repository, self.spec or run_spec(str(model)), "a: b\n", 0.0, sealed)
        role = self.root / "role.py"
        role.write_text(f"SERVER = {SERVER!r}\nSTACK = {STACK!r}\n{ROLE}")
        repository = RunRepository(layout.repository)
        steps = LocalSteps(
            layout,
            repository,
            model_dir=model,
            engine=self.engine,
            hardware=HARDWARE,
            skills_root=None,
            limits=self.limits,
            placement=self.placement,
            command=lambda name: (sys.executable, str(role), name, self.behaviours.get(name, "good")),
        )
        return Driver(repository, steps, clock=FakeClock(), emit=self.told.append, report=lambda _: "report.html")
