"""The environment that processes of a cluster are given: nothing of the user's that could change what they do.

A proxy for the user's web traffic, above all, would swallow the components' own connections.
"""

import os
from collections.abc import Mapping
from pathlib import Path

PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")


def scrubbed(environment: Mapping[str, str], *, home: Path) -> dict[str, str]:
    """A fresh environment with `home` as HOME, in which this package can be imported from any folder."""
    ours = str(Path(__file__).resolve().parents[1])
    given = [str(Path(entry).absolute()) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {
        "LANG": "C.UTF-8",
        **{name: environment[name] for name in PASSED_ON if name in environment},
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([*given, ours])),
        "PYTHONUNBUFFERED": "1",
    }


def with_folder(path: str, folder: Path) -> str:
    """A PATH on which the programs of `folder` are found too, after all others."""
    entries = [entry for entry in path.split(os.pathsep) if entry]
    return os.pathsep.join(entries if str(folder) in entries else [*entries, str(folder)])
