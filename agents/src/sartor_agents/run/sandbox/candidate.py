"""The sandbox of a candidate on this machine: bubblewrap, so that agent-written code sees what it needs and no more.

Inside are the system's programs, this Python with its packages, the model and the stack itself, all read-only; a home that
is empty at every start and gone at its end; process and IPC namespaces of its own; no capabilities. Outside stay the run's
folder (sealed seeds, samples, other candidates), the user's home, the processes of judge, evaluator and baseline.

The network is the machine's: the stack has to reach the baseline and be reached. What a candidate does over it shows at the
baseline's own counter, and what work it does shows in its CPU time (`measurement.contention`).

Pods have their own isolation; this is for runs without a cluster.
"""

from collections.abc import Sequence
from pathlib import Path

from sartor_agents.run.sandbox.bubblewrap import HOME_BYTES, kernel, libraries, model, namespaces, python, system


def confined(
    command: Sequence[str],
    *,
    program: str,
    folder: Path,
    home: Path,
    model_dir: Path | None = None,
    writable: Path | None = None,
    nodes: Sequence[Path] | None = None,
) -> tuple[str, ...]:
    """`command` in the sandbox made by `program`, in `folder` (the checkout).

    `home` becomes an empty folder in memory. `writable` is a folder inside `folder` that may be written (a build's output).
    `nodes` are those of NVIDIA's devices that it sees (None: all of the machine).
    """
    # A private /tmp comes first: what is bound may lie below the machine's.
    arguments = [
        *namespaces("candidate"),
        *system(),
        "--size",
        str(HOME_BYTES),
        "--tmpfs",
        "/tmp",
        *python(),
        *libraries(nodes),
        *kernel(nodes=nodes),
    ]
    arguments += ["--ro-bind", "/sys", "/sys", "--tmpfs", "/sys/firmware"]
    if model_dir is not None:
        arguments += model(model_dir)
    arguments += ["--ro-bind", str(folder), str(folder)]
    if writable is not None:
        arguments += ["--bind", str(writable), str(writable)]
    arguments += ["--size", str(HOME_BYTES), "--tmpfs", str(home)]
    arguments += ["--remount-ro", "/", "--chdir", str(folder)]
    return (program, *arguments, "--", *command)
