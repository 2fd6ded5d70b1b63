"""`sartor run` on a target of platform `cuda`: what it takes, what it refuses and in which words; nothing is left of what
was refused. NVML is stood for; steps are fakes."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_nvml import Device, FakeNvml
from test_cli import MANIFEST, Sartor, assert_said, checkpoint, sartor
from typer.testing import CliRunner

from sartor_agents.baselines import environment, find, find_engine
from sartor_agents.baselines.environment import existing_environment
from sartor_agents.cli.exits import ExitCode
from sartor_agents.cli.main import app
from sartor_agents.measurement.accelerators import Accelerators, open_accelerators
from sartor_agents.run import device, session
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.placement import Placement
from sartor_agents.run.repository import RunRepository
from sartor_agents.tools.device_rates import Rates

__all__ = ["checkpoint", "sartor"]

TARGET = """
apiVersion: sartor.dev/v1alpha1
kind: HardwareTarget
metadata: {name: h200}
spec:
  platform: cuda
  accelerator: {resource: nvidia.com/gpu, product: NVIDIA-H200}
---"""
CUDA = TARGET + MANIFEST.replace("name: local", "name: h200")


class Machine:
    """The devices of this machine; `timed` are those whose rates were asked for."""

    def __init__(self, *devices: Device) -> None:
        self.devices = list(devices)
        self.timed: list[str | None] = []

    def open(self, *, only: str | None = None) -> Accelerators:
        return open_accelerators(lambda: FakeNvml(*self.devices, broken=not self.devices), only=only)

    def rates(self, devices: Accelerators, _: Path) -> Rates:
        self.timed += [str(one["uuid"]) for one in devices.identity()]
        return Rates(4e12, 7e14, ("NVIDIA H200",))


@pytest.fixture
def machine(sartor: Sartor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(Device("GPU-a", minor=0, pids=[3]), Device("GPU-b", minor=1))
    monkeypatch.setattr(session, "open_accelerators", made.open)
    monkeypatch.setattr(session, "rates", made.rates)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    dev = tmp_path / "dev"
    dev.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (dev / name).touch()
    monkeypatch.setattr(device, "DEV", dev)
    sartor.manifest.write_text(CUDA)
    return made


def test_a_run_on_a_device_records_it_and_goes_on_there(sartor: Sartor, machine: Machine) -> None:
    result = sartor.run("--json")
    assert result.exit_code == 0, result.output
    repository = RunRepository(RunLayout(sartor.dir).repository)
    recorded = session.recorded_device(repository)
    assert recorded is not None and (recorded.uuid, recorded.minor) == ("GPU-b", 1)
    spec = repository.load().spec
    assert (spec.platform, spec.accelerators) == ("cuda", 1)
    assert machine.timed == ["GPU-b"], "before a server is on it, and no other"
    assert "NVIDIA H200 (150.0 GiB" in (sartor.dir / "report.html").read_text()
    machine.devices = []  # a run that is over is told of anywhere
    assert sartor("report", str(sartor.dir)).exit_code == 0
    assert "NVIDIA H200 (150.0 GiB" in (sartor.dir / "report.html").read_text()
    assert sartor("run", "--resume", "--dir", str(sartor.dir)).exit_code == 0


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ((), ["HardwareTarget h200", "NVML shows no NVIDIA device here", "nvidia-smi", "platform cpu"]),
        ((Device(name="NVIDIA L4"),), ["product NVIDIA-H200 is not in this machine; found: NVIDIA L4"]),
        ((Device(pids=[41]),), ["is used by process 41", "beside others nothing can be measured"]),
        ((Device(total=6 << 30),), ["both arms need", "and the device has 6.0 GiB"]),
        ((Device(minor=7),), ["has no", "nvidia7", "nvidia-modprobe"]),
        ((Device(mig=1),), ["is cut into MIG slices"]),
    ],
)
def test_a_machine_that_cannot_run_it_says_why_and_keeps_nothing(
    sartor: Sartor, machine: Machine, devices: tuple[Device, ...], words: list[str]
) -> None:
    machine.devices = list(devices)
    assert_said(sartor.run(), ExitCode.BAD_REQUEST, *words)
    assert not sartor.dir.exists()


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ("platform: cuda", "platform: metal", ["platform metal cannot be run", "cpu or cuda"]),
        ("nvidia.com/gpu,", "nvidia.com/mig-3g.40gb,", ["nvidia.com/mig-3g.40gb is a MIG slice"]),
        ("product: NVIDIA-H200", "count: 8", ["count 8: sartor run takes one device"]),
        ("  budget:", "  baseline: {arguments: [--max-num-seqs=2]}\n  budget:", ["--max-num-seqs", "set by the run"]),
    ],
)
def test_a_target_that_no_single_machine_can_give_is_refused(
    sartor: Sartor, machine: Machine, was: str, now: str, words: list[str]
) -> None:
    assert was in CUDA
    sartor.manifest.write_text(CUDA.replace(was, now))
    assert_said(sartor.run(), ExitCode.BAD_REQUEST, *words)
    assert not sartor.dir.exists()


def test_a_run_goes_on_with_the_device_that_it_began_on(
    sartor: Sartor, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session.Driver, "drive", stopped)
        assert sartor.run().exit_code == ExitCode.INTERRUPTED
    machine.devices[1].pids = [77]
    again = ("run", "--resume", "--dir", str(sartor.dir))
    assert_said(sartor(*again), ExitCode.BAD_REQUEST, "its device NVIDIA H200 (GPU-b) is used by process 77")
    machine.devices = [Device("GPU-a"), Device("GPU-c")]
    assert_said(sartor(*again), ExitCode.BAD_REQUEST, "began on NVIDIA H200 (GPU-b), which is not in this machine")
    machine.devices = [Device("GPU-b", minor=0), Device("GPU-a")]
    given: list[Placement | None] = []
    monkeypatch.setattr("sartor_agents.cli.run.find_engine", lambda _, __, place: given.append(place))
    result = sartor(*again)
    assert result.exit_code == 0, result.output
    (place,) = given
    assert place is not None and (place.device.uuid, place.device.minor) == ("GPU-b", 0)


def test_the_engine_on_a_device_has_its_share_and_sees_nothing_else(
    sartor: Sartor, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = environment.VllmEnvironment(tmp_path / "bin" / "python", "0.26.0")
    asked: list[str] = []
    monkeypatch.setattr(find, "existing_environment", lambda _, platform: asked.append(platform) or made)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    session.create(sartor.manifest, sartor.dir, session.Options())
    layout, repository = session.open_run(sartor.dir)
    spec = repository.load().spec
    model = Path(str(spec.model["folder"]))
    place = session.find_placement(repository, spec, model)
    assert place is not None
    engine = find_engine(spec, model, place)
    assert asked == ["cuda"] and engine.name == "vllm"
    settings = engine.settings()
    assert [s.name for s in settings][:2] == ["bfloat16, no speculation", "bfloat16, n-gram 8 (2–4)"]
    for setting in settings:
        words = list(setting.arguments)
        assert words[words.index("--gpu-memory-utilization") + 1] == str(place.shares.utilization)
        assert words[words.index("--max-num-seqs") + 1] == "1" and setting.environment == {}
    server = engine.server(settings[0], 4711)
    assert server.environment["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    monkeypatch.setattr(find, "existing_environment", lambda *_: None)
    fallback = find_engine(spec, model, place)
    assert fallback.name == "transformers" and "setup --platform cuda" in (fallback.fallback_reason or "")
    (setting,) = fallback.settings()
    assert "--device cuda" in " ".join(setting.arguments)
    assert fallback.server(setting, 1).environment["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert layout.root == sartor.dir


# --- baseline setup ---------------------------------------------------------------------------------------------------


def interpreter(folder: Path, *, cuda: str | None, vllm: bool = True) -> Path:
    """A `python` whose torch has this CUDA."""
    site = folder / "lib" / "python3.12" / "site-packages"
    site.mkdir(parents=True)
    (site / "torch.py").write_text(f"__version__ = '2.11'\nversion = type('V', (), {{'cuda': {cuda!r}}})\n")
    if vllm:
        info = site / "vllm-0.26.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.26.0\n")
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -S -c \"import sys; sys.path.insert(0, '{site}'); sys.prefix = '{folder}'\n"
        f'exec(sys.argv[1])" "$2"\n'
    )
    python.chmod(0o755)
    return python


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SARTOR_VLLM", raising=False)
    return tmp_path / "cache"


def setup(*more: str) -> SimpleNamespace:
    done = CliRunner().invoke(app, ["baseline", "setup", *more])
    assert "Traceback" not in done.output
    return SimpleNamespace(code=done.exit_code, out=done.stdout, err=done.stderr)


def test_an_environment_with_vllm_is_checked_and_remembered(cache: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "own", cuda="13.0")
    done = setup("--platform", "cuda", "--python", str(python))
    assert (done.code, done.out.strip()) == (0, f"vLLM 0.26.0 is ready ({python})"), done.err
    found = existing_environment(cache, "cuda")
    assert found is not None and (found.python, found.version) == (python, "0.26.0")
    assert existing_environment(cache, "cpu") is None
    assert json.loads((cache / "vllm-cuda.json").read_text())["cuda"] == "13.0"
    assert setup("--platform", "cuda").out.strip() == f"vLLM 0.26.0 is ready ({python})", "and nothing is installed"
    python.unlink()
    with pytest.raises(
        environment.BaselineEnvironmentError, match=r"no vLLM any more; name another one .* --python PATH"
    ):
        existing_environment(cache, "cuda")


def test_an_environment_that_cannot_serve_is_refused(cache: Path, tmp_path: Path) -> None:
    cpu = interpreter(tmp_path / "cpu", cuda=None)
    done = setup("--platform", "cuda", "--python", str(cpu))
    assert done.code == ExitCode.BAD_REQUEST and "PyTorch 2.11 without CUDA" in done.err
    bare = interpreter(tmp_path / "bare", cuda="13.0", vllm=False)
    done = setup("--platform", "cuda", "--python", str(bare))
    assert done.code == ExitCode.BAD_REQUEST and "has no vLLM that can be used" in done.err and "vllm" in done.err
    done = setup("--platform", "cuda", "--python", str(tmp_path / "nowhere"))
    assert done.code == ExitCode.BAD_REQUEST and "is no interpreter" in done.err
    assert not (cache / "vllm-cuda.json").exists()


def test_each_platform_has_a_lock_of_its_own(cache: Path) -> None:
    assert environment.lock_file("cuda").name == "vllm-cuda.txt"
    assert environment.folder(cache, "cuda") != environment.folder(cache, "cpu")
    lock = environment.lock_file("cuda").read_text()
    assert "\nvllm==0.26.0 \\\n    --hash=sha256:" in lock and "://" not in lock.replace("https://docs", "")
