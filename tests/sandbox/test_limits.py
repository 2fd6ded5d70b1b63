"""What a command may use. Beside each limit a run in which it is higher: then the program does what it set out to do."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from sartor_agents.run.process import LONGEST_LINE
from sartor_agents.run.sandbox import command
from sartor_agents.run.sandbox.cgroups import group
from sartor_agents.run.sandbox.command import CommandResult, CommandSandbox
from sartor_agents.run.sandbox.limits import MIB, Limits

FORKS = """
import os, time
made = 0
try:
    for _ in range(150):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        made += 1
except OSError:
    pass
print("made", made, flush=True)
time.sleep(WAIT)
"""
SPREAD = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = b"x" * (64 << 20)
        time.sleep(20)
        os._exit(0)
time.sleep(WAIT)
print("all there", flush=True)
"""
FILL = """
import sys
written = 0
try:
    with open(sys.argv[1] + "/large", "wb") as file:
        for _ in range(48):
            file.write(bytes(1 << 20))
            file.flush()
            written += 1
except OSError as error:
    print(error.strerror)
print("written", written)
"""
BURN = "import time\nbegin = time.process_time()\nwhile time.process_time() - begin < 1.6: pass\nprint('burnt')"


def run(sandbox: CommandSandbox, script: str, *arguments: str, **limits: float | int) -> CommandResult:
    limited = replace(sandbox, limits=replace(sandbox.limits, **limits))  # type: ignore[arg-type]
    return limited.run(("python", "-c", script, *arguments))


@contextmanager
def without_groups() -> Iterator[None]:
    @contextmanager
    def none(_: Limits) -> Iterator[None]:
        yield None

    with mock.patch.object(command, "group", none):
        yield


def made(result: CommandResult) -> int:
    found = re.search(r"(?:made|written) (\d+)", result.output)
    return int(found.group(1)) if found else -1


def has_groups() -> bool:
    with group(Limits()) as found:
        return found is not None


def test_processes(sandbox: CommandSandbox) -> None:
    script = FORKS.replace("WAIT", "0")
    few = run(sandbox, script, processes=40)
    assert 0 < made(few) < 40 or few.problem == "ProcessesExceeded"
    assert made(run(sandbox, script, processes=400)) == 150


def test_processes_are_watched_where_there_are_no_groups(sandbox: CommandSandbox) -> None:
    """The kernel exempts the machine's root from the limit of a user's processes; then the parent ends the command."""
    with without_groups():
        few = run(sandbox, FORKS.replace("WAIT", "5"), processes=40)
        assert (few.problem == "ProcessesExceeded") if os.geteuid() == 0 else (0 < made(few) < 40)
        assert made(run(sandbox, FORKS.replace("WAIT", "0"), processes=400)) == 150


def test_memory_of_one_process(sandbox: CommandSandbox) -> None:
    script = "held = b'x' * (400 << 20)\nprint('there')"
    assert "MemoryError" in run(sandbox, script, memory_bytes=200 * MIB).output
    assert "there" in run(sandbox, script, memory_bytes=600 * MIB).output


@pytest.mark.parametrize("groups", [True, False])
def test_memory_of_many_processes(sandbox: CommandSandbox, groups: bool) -> None:
    if groups and not has_groups():
        pytest.skip("this user can make no control groups")
    script = SPREAD.replace("WAIT", "2")
    sizes = {"workspace_bytes": MIB, "temporary_bytes": MIB, "shared_bytes": MIB}

    def attempt(memory: int) -> CommandResult:
        if groups:
            with mock.patch.object(command.GuardedProcess, "_watch", lambda _: None):  # the group alone
                return run(sandbox, script, memory_bytes=memory, **sizes)
        with without_groups():
            return run(sandbox, script, memory_bytes=memory, **sizes)

    assert attempt(200 * MIB).problem == "MemoryExceeded"
    enough = attempt(900 * MIB)
    assert enough.problem is None and "all there" in enough.output


@pytest.mark.parametrize(
    ("place", "limit"),
    [("/workspace", "workspace_bytes"), ("/tmp", "temporary_bytes"), ("/tmp/home", "temporary_bytes"),
     ("/dev/shm", "shared_bytes")],
)  # fmt: skip
def test_disk(sandbox: CommandSandbox, place: str, limit: str) -> None:
    full = run(sandbox, FILL, place, **{limit: 16 * MIB})
    assert "No space left" in full.output and made(full) <= 16
    assert made(run(sandbox, FILL, place, **{limit: 64 * MIB})) == 48


@pytest.mark.parametrize("place", ["/", "/dev", "/run/sartor", "/run/sartor/source", "/usr", "/etc", "/sys", "/proc"])
def test_nothing_else_takes_files(sandbox: CommandSandbox, place: str) -> None:
    refused = run(sandbox, f"open({place!r} + '/x', 'w')").output
    assert "Read-only file system" in refused or (place == "/proc" and "No such file" in refused), refused


def test_processor_time(sandbox: CommandSandbox) -> None:
    cut = run(sandbox, BURN, cpu_seconds=1)
    assert cut.code >= 128 and "burnt" not in cut.output
    assert "burnt" in run(sandbox, BURN, cpu_seconds=20).output


@pytest.mark.skipif(not has_groups(), reason="this user can make no control groups")
def test_processors(sandbox: CommandSandbox) -> None:
    script = (
        "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\n"
        "print('made', int(1000 * time.process_time()))"
    )
    assert made(run(sandbox, script, cpus=0.2)) < 600
    assert made(run(sandbox, script)) > 600


def test_time(sandbox: CommandSandbox) -> None:
    begin = time.monotonic()
    late = run(sandbox, "import time\nprint('begun', flush=True)\ntime.sleep(60)", seconds=1)
    assert (late.problem, late.code, late.output) == ("TimedOut", 124, "begun\n")
    assert time.monotonic() - begin < 10
    assert run(sandbox, "import time\ntime.sleep(1.2)", seconds=30).problem is None


def test_output(sandbox: CommandSandbox) -> None:
    flood = run(sandbox, "print('begin' + 'x' * (20 << 20) + 'end', end='')", output_bytes=2000)
    assert flood.output.startswith("begin") and flood.output.endswith("end") and len(flood.output) < 2100
    assert "bytes left out" in flood.output
    assert (sandbox.scratch / "commands.log").stat().st_size < command.LOG_BYTES + 1000
    assert run(sandbox, "print('x' * 3000)", output_bytes=8000).output == "x" * 3000 + "\n"


def test_a_line_without_end_is_heard_in_pieces(sandbox: CommandSandbox) -> None:
    """Else the parent would hold as much of it as a command cares to write."""
    pieces: list[int] = []
    script = ("python", "-c", "print('x' * (1 << 20), end='')")
    with command.started(sandbox, script, keep=False, hear=lambda data: pieces.append(len(data))) as running:
        assert running.result().code == 0
    assert sum(pieces) == MIB and max(pieces) <= LONGEST_LINE


def test_open_files(sandbox: CommandSandbox) -> None:
    script = "import os\nprint('made', len([os.open('/dev/null', 0) for _ in range(200)]))"
    assert "Too many open files" in run(sandbox, script, files=100).output
    assert made(run(sandbox, script, files=300)) == 200


def test_the_weights_of_a_model_that_is_shown_may_be_mapped_beside_what_a_command_has(
    sandbox: CommandSandbox, tmp_path: Path
) -> None:
    """PyTorch maps them so that they count as the process's own data; a model is larger than any command's limit."""
    model = tmp_path / "model"
    model.mkdir()
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(600 * MIB)
    shown = replace(sandbox, model_dir=model)
    script = """
import mmap
with open("/model/model.safetensors", "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
print("mapped", len(mapped) >> 20)
own = bytearray(500 << 20)
"""
    with without_groups():
        result = run(shown, script, memory_bytes=400 * MIB)
    assert "mapped 600" in result.output and "MemoryError" in result.output, result.output
