"""What lies where in the runner's directory.

credentials/                            the runner's own keys; no pod sees it
pods/UID/pod.json                       name, address and user of the pod
pods/UID/volumes/NAME/                  its volumes
pods/UID/files/                         hosts, resolv.conf, passwd, group
pods/UID/containers/NAME/ATTEMPT/       attempt.json, log, and what the shim leaves
"""

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class PodDirectory:
    """The folder of one pod."""

    def __init__(self, root: Path, uid: str) -> None:
        self.uid = uid
        self.path = root / "pods" / uid
        self.volumes = self.path / "volumes"
        self.files = self.path / "files"

    def attempt(self, container: str, number: int) -> Path:
        return self.path / "containers" / container / str(number)

    def attempts(self) -> Iterator[tuple[str, int, Path]]:
        """(container, number, folder), oldest first."""
        for folder in sorted((self.path / "containers").glob("*/*"), key=lambda p: (p.parent.name, _number(p))):
            if folder.name.isdigit():
                yield folder.parent.name, int(folder.name), folder

    def read(self) -> dict[str, Any]:
        """`pod.json`; empty when it is not there."""
        return read_json(self.path / "pod.json") or {}

    def write(self, content: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "pod.json", content)


def pod_uids(root: Path) -> list[str]:
    """Every pod that has left something in the directory."""
    folder = root / "pods"
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def read_json(path: Path) -> dict[str, Any] | None:
    """None when the file is not there, or was cut short by a crash of the machine."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, readable by the runner only."""
    temporary = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file)
    temporary.rename(path)


def remove_tree(path: Path) -> None:
    """Removes a folder whatever the modes that a pod left in it; harmless when it is not there."""

    def open_up(_function: Callable[..., Any], name: str, _error: Any) -> None:
        entry = Path(name)
        for folder in (entry.parent, entry):
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(stat.S_IRWXU)
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)

    if path.exists():
        shutil.rmtree(path, onerror=open_up)


def _number(path: Path) -> int:
    return int(path.name) if path.name.isdigit() else -1
