"""A machine with an NVIDIA device, for runs on one that has none.

NVML is stood for at the library's border, in this process and in those of the roles (`python device_world.py ROLE …`). On
the device computes every process whose environment names it, as CUDA would have it: a role that must not be there, or a
server that is not recognised through the walls of its sandbox, then shows as a stranger in the windows. The reference that a
request puts on `cuda` computes on the processor.
"""

import importlib
import os
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from fake_nvml import Device, FakeNvml

UUID = "GPU-7d2c1f4e-0000-4000-8000-000000000001"
OTHER = "GPU-7d2c1f4e-0000-4000-8000-000000000002"
GIB = 1 << 30
BASELINE = "sartor_agents.baselines.transformers_server"
PAUSE_SECONDS = 0.2


def computing(uuid: str) -> list[int]:
    """Processes whose environment names the device, but for the shells, guards and sandboxes around what computes."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"CUDA_VISIBLE_DEVICES={uuid}".encode() in variables and b"guard.py" not in words and b"bwrap" not in words:
            found.append(int(folder.name))
    return found


class Watched(Device):
    """A device that looks who computes on it."""

    def __getattribute__(self, name: str) -> Any:
        if name == "pids":
            return computing(object.__getattribute__(self, "uuid"))
        return object.__getattribute__(self, name)


def library() -> FakeNvml:
    """Two devices: one that others compute on, and a free one."""
    busy = Device(uuid=OTHER, minor=0, pids=[1])
    return FakeNvml(busy, Watched(uuid=UUID, minor=1, total=140 * GIB))


def role_command(role: str) -> tuple[str, ...]:
    """As `sartor_agents.run.role.role_command`, on this machine."""
    return (sys.executable, str(Path(__file__).resolve()), f"sartor_agents.roles.{role}")


def slow_baseline() -> None:
    """The server of last resort, with a pause for each token: reference kernels on a processor are no match for it."""
    server = importlib.import_module(BASELINE)
    tokens = server.Generator.tokens

    def slow(self: Any, *arguments: Any) -> Iterator[int]:
        for token in tokens(self, *arguments):
            time.sleep(PAUSE_SECONDS)
            yield token

    server.Generator.tokens = slow
    server.main()


def main() -> None:
    """Run a role's module with the stand-ins."""
    module = ModuleType("pynvml")
    stand_in = library()
    module.__getattr__ = lambda name: getattr(stand_in, name)  # type: ignore[method-assign]
    sys.modules["pynvml"] = module
    if sys.argv[1].endswith(("judge", "evaluator")):
        reference = importlib.import_module("sartor_agents.judge.reference_device").DeviceReference
        opened = reference.__init__

        def on_processor(self: Any, model_dir: Path, device: str, **named: Any) -> None:
            assert os.environ["CUDA_VISIBLE_DEVICES"] == UUID, "a reference on the device is shown it"
            print(f"reference on {device}", flush=True)
            opened(self, model_dir, "cpu", **named)

        reference.__init__ = on_processor
    del sys.argv[0]
    if sys.argv[0] == BASELINE:
        slow_baseline()
        return
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
