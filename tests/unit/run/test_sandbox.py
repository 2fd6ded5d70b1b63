"""What a candidate on this machine sees, by a program that tries: its own folder, the model, and nothing of the run."""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_nvml import Device, FakeNvml

from sartor_agents.checkpoints.chain import FILE_NAME
from sartor_agents.measurement.accelerators import Nvml, foreign, memory_of
from sartor_agents.measurement.contention import tree_pids
from sartor_agents.run import candidates, sandbox
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.process import GuardedProcess, scrubbed_environment

PROGRAM = sandbox.sandbox_program()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="bubblewrap cannot make a sandbox here")

LOOK = """
import json, os, sys
from pathlib import Path
def attempt(action):
    try:
        return repr(action())
    except Exception as error:
        return type(error).__name__
seen = {name: attempt(lambda code=code: eval(code)) for name, code in json.loads(sys.argv[1]).items()}
print("SEEN " + json.dumps(seen), flush=True)
"""


def seen(
    folder: Path,
    model: Path,
    looks: dict[str, str],
    *,
    writable: Path | None = None,
    nodes: Sequence[Path] | None = None,
) -> dict[str, str]:
    """What the expressions `looks` evaluate to inside (or the name of the error)."""
    assert PROGRAM is not None
    home = folder / "home"
    home.mkdir(exist_ok=True)
    command = sandbox.confined(
        (sys.executable, "-c", LOOK, json.dumps(looks)),
        program=PROGRAM, folder=folder, home=home, model_dir=model, writable=writable, nodes=nodes,
    )  # fmt: skip
    lines: list[str] = []
    with GuardedProcess(
        command, cwd=folder, environment=scrubbed_environment(home), log=folder.parent / "log", on_line=lines.append
    ) as process:
        assert process.wait(60).code == 0, process.tail()
    return json.loads(next(line for line in lines if line.startswith("SEEN ")).removeprefix("SEEN "))


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    layout = RunLayout(tmp_path / "run")
    layout.make()
    (layout.sealed / "key").write_text("secret")
    (layout.work / "checkout-mine" / "stack").mkdir(parents=True)
    (layout.work / "checkout-mine" / "stack" / "__main__.py").write_text("")
    (layout.work / "checkout-other").mkdir()
    return layout


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / FILE_NAME).write_text('{"successor": [1]}')
    blob = tmp_path / "blobs" / "weights"
    blob.parent.mkdir()
    blob.write_text("weights")
    (folder / "model.safetensors").symlink_to(blob)
    return folder


def test_a_candidate_sees_its_device_s_node_and_no_other(run: RunLayout, model: Path, tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (dev / name).write_text(name)
    looks = {
        "nodes": f"sorted(os.listdir({str(dev)!r}))",
        "machine's": "[n for n in os.listdir('/dev') if 'nvidia' in n]",
    }
    mine = run.work / "checkout-mine"
    found = seen(mine, model, looks, nodes=[dev / "nvidia1", dev / "nvidiactl", dev / "nvidia-uvm"])
    assert found["nodes"] == "['nvidia1', 'nvidiactl']" and found["machine's"] == "[]"
    assert seen(mine, model, looks, nodes=())["nodes"] == "FileNotFoundError"


def test_a_driver_outside_the_system_s_folders_is_found_inside(
    run: RunLayout, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        (Path(folder) / "libcuda.so.1").write_text("driver")
        monkeypatch.setenv("LD_LIBRARY_PATH", f"{folder}:/usr/lib:relative:{run.root}")
        looks = {"library": f"Path({folder!r}, 'libcuda.so.1').read_text()", "run": f"os.listdir({str(run.sealed)!r})"}
        found = seen(run.work / "checkout-mine", model, looks)
        assert found == {"library": "'driver'", "run": "FileNotFoundError"}
        # Who sees no device needs no driver: what a user's variable names stays out of sight.
        assert seen(run.work / "checkout-mine", model, looks, nodes=())["library"] == "FileNotFoundError"
        monkeypatch.delenv("LD_LIBRARY_PATH")
        assert seen(run.work / "checkout-mine", model, looks)["library"] == "FileNotFoundError"


def test_what_computes_inside_is_recognised_outside(run: RunLayout, model: Path) -> None:
    """NVML gives process ids as this process sees them, and the sandbox has numbers of its own."""
    assert PROGRAM is not None
    mine = run.work / "checkout-mine"
    (mine / "home").mkdir()
    waits = "print(1, flush=True); import time; time.sleep(60)"
    text = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {waits!r}])"
    command = sandbox.confined((sys.executable, "-c", text), program=PROGRAM, folder=mine, home=mine / "home")
    up = threading.Event()
    with GuardedProcess(
        command,
        cwd=mine,
        environment=scrubbed_environment(mine / "home"),
        log=run.root / "log",
        on_line=lambda _: up.set(),
    ) as process:
        assert up.wait(30)
        found = {p.pid: p.info["cmdline"] for p in psutil.process_iter(["cmdline"])}
        (inner,) = [pid for pid, words in found.items() if words and words[-1] == waits]
        states = Nvml(FakeNvml(Device(pids=[inner], used={inner: 5 << 30}))).state()
        ours = tree_pids([process.pid])
        assert not foreign(states, ours) and memory_of(states, ours) == 5 << 30
        assert foreign(states, tree_pids([])) == {inner}


def test_nothing_of_the_run_is_in_sight(run: RunLayout, model: Path) -> None:
    mine = run.work / "checkout-mine"
    looks = {
        "key": f"Path({str(run.sealed / 'key')!r}).read_text()",
        "run": f"sorted(os.listdir({str(run.root)!r}))",
        "siblings": f"sorted(os.listdir({str(run.work)!r}))",
        "processes": "len([name for name in os.listdir('/proc') if name.isdigit()])",
        "shadow": "Path('/etc/shadow').read_text()",
        "sartor": "__import__('sartor_agents')",
        "numpy": "__import__('numpy').__name__",
        "judge": f"Path({candidates.__file__!r}).read_text()",
    }
    found = seen(mine, model, looks)
    assert found["key"] == found["shadow"] == found["judge"] == "FileNotFoundError"
    assert found["run"] == "['work']" and found["siblings"] == "['checkout-mine']"
    assert int(found["processes"]) <= 2
    assert found["sartor"] == "ModuleNotFoundError" and found["numpy"] == "'numpy'"


def test_a_stack_and_its_model_can_be_read_and_not_written(run: RunLayout, model: Path) -> None:
    mine = run.work / "checkout-mine"
    output = mine / "stack" / "build"
    output.mkdir()
    looks = {
        "stack": "Path('stack/__main__.py').write_text('x')",
        "model": f"Path({str(model / 'x')!r}).write_text('x')",
        "config": f"Path({str(model / 'config.json')!r}).read_text()",
        "linked": f"Path({str(model / 'model.safetensors')!r}).read_text()",
        "key": f"Path({str(model / FILE_NAME)!r}).read_text()",
        "packages": f"Path({str(Path(sys.prefix) / 'x')!r}).write_text('x')",
        "output": "Path('stack/build/x').write_text('x')",
    }
    found = seen(mine, model, looks)
    assert {found[name] for name in ("stack", "model", "packages", "output")} == {"OSError"}
    assert (found["config"], found["linked"], found["key"]) == ("'{}'", "'weights'", "''")
    assert seen(mine, model, looks, writable=output)["output"] == "1"
    assert not (model / "x").exists() and (output / "x").read_text() == "x"


def test_a_home_is_new_at_every_start(run: RunLayout, model: Path) -> None:
    mine = run.work / "checkout-mine"
    looks = {
        "before": "sorted(os.listdir(os.environ['HOME']))",
        "write": "Path(os.environ['HOME'], 'kept').write_text('x')",
        "tmp": "[name for name in os.listdir('/tmp') if name == 'kept' or Path('/tmp/kept').write_text('x') == 0]",
        "full": "Path(os.environ['HOME'], 'large').write_bytes(bytes(2**28 + 1))",
    }
    for _ in range(2):
        found = seen(mine, model, looks)
        assert (found["before"], found["write"], found["tmp"], found["full"]) == ("[]", "1", "[]", "OSError")
    assert list((mine / "home").iterdir()) == []


def test_it_has_no_power_over_the_machine(run: RunLayout, model: Path) -> None:
    looks = {
        "priority": "os.setpriority(os.PRIO_PROCESS, 0, -5)",
        "real-time": "os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))",
        "clock": "__import__('time').clock_settime(0, __import__('time').time())",
        "group": "os.write(os.open('/proc/self/autogroup', os.O_WRONLY), b'-5')",
        "kernel": "os.open('/proc/sys/vm/swappiness', os.O_WRONLY)",
        "mount": "__import__('subprocess').run(['mount', '-t', 'tmpfs', 'x', '/sys'], check=True)",
    }
    found = seen(run.work / "checkout-mine", model, looks)
    allowed = {name: value for name, value in found.items() if not value.endswith("Error")}
    assert not allowed


def test_a_command_in_the_sandbox_may_end_in_its_own_time(run: RunLayout, model: Path) -> None:
    assert PROGRAM is not None
    wait = "\n".join((
        "import signal, sys, time", "signal.signal(15, lambda *_: sys.exit(5))", "print('up', flush=True)", "time.sleep(60)",
    ))  # fmt: skip
    mine = run.work / "checkout-mine"
    (mine / "home").mkdir()
    command = sandbox.confined((sys.executable, "-c", wait), program=PROGRAM, folder=mine, home=mine / "home")
    lines: list[str] = []
    with GuardedProcess(
        command, cwd=mine, environment=scrubbed_environment(mine), log=run.logs / "log", on_line=lines.append
    ) as process:
        while not lines:
            assert process.alive
            os.sched_yield()
        ended = process.stop(grace=20)
    assert (ended.code, ended.problem) == (5, "Stopped") and ended.seconds < 20


def test_candidates_are_built_and_served_in_it(run: RunLayout, model: Path) -> None:
    folder = run.work / "checkout-mine"
    source = (
        "import sys\nfrom pathlib import Path\n"
        "Path('stack/build/made').write_text('x')\n"
        "try:\n    Path('stack/other').write_text('x')\n"
        "except OSError:\n    sys.exit(0)\n"
        "sys.exit('it could write into its sources')\n"
    )
    (folder / "stack" / "__main__.py").write_text(source)
    candidates.build(folder, run.logs / "build", timeout=60, memory_bytes=None)
    assert (folder / "stack" / "build" / "made").is_file()
    spec: Any = candidates.server_spec(folder, model, 1, baseline_url=None, memory_bytes=None)
    assert spec.command[0] == PROGRAM
