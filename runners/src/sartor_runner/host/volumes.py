"""Volumes of a pod on disk.

Volumes from the API are written the way the kubelet does it, so that a reader sees all of an update or nothing of it: the
files lie in a folder with a time in its name, `..data` links to it and is replaced by one rename, and the visible names link
through `..data`. Specification: kubelet `volume/util/atomic_writer.go`.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from sartor_runner.core.payload import API_VOLUMES, File, volume_kind
from sartor_runner.core.pod import Json
from sartor_runner.errors import VolumeError
from sartor_runner.host.directories import remove_tree

DATA = "..data"
SHARED_MEMORY = Path("/dev/shm")


def write_files(folder: Path, files: Mapping[str, File], owner: int | None) -> bool:
    """Makes the folder hold exactly `files`; False when it does already. `owner`: user and group of everything in it.

    Raises `VolumeError` for a path that leads out of the folder.
    """
    for path in files:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
            raise VolumeError(f"{path!r} is not a path inside the volume")
    folder.mkdir(parents=True, exist_ok=True)
    old = _target(folder)
    if old is not None and _read(old) == {path: (file.data, file.mode) for path, file in files.items()}:
        return False
    stamp = f"..{time.strftime('%Y_%m_%d_%H_%M_%S', time.gmtime())}.{time.monotonic_ns()}"
    fresh = folder / stamp
    for path, file in files.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.data)
        target.chmod(file.mode)
    fresh.mkdir(exist_ok=True)
    if owner is not None:
        own(folder, owner)
    temporary = folder / "..data_tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(stamp)
    temporary.rename(folder / DATA)
    visible = {PurePosixPath(path).parts[0] for path in files}
    for name in visible:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{DATA}/{name}")
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in visible:
            entry.unlink()
    if old is not None:
        shutil.rmtree(old)
    return True


def make_plain(folder: Path, volume: Json, pod_uid: str, owner: int | None) -> Path:
    """An emptyDir; one in memory lies in the host's shared memory where there is one. Returns where its files are."""
    memory = (volume.get("emptyDir") or {}).get("medium") == "Memory"
    if memory and SHARED_MEMORY.is_dir():
        real = SHARED_MEMORY / f"sartor-runner-{pod_uid}" / volume["name"]
        real.mkdir(parents=True, exist_ok=True)
        real.parent.chmod(0o711)
    else:
        real = folder
        real.mkdir(parents=True, exist_ok=True)
    real.chmod(0o777)
    if owner is not None:
        os.chown(real, owner, owner)
    return real


def host_path(volume: Json, permitted: Callable[[str], bool]) -> Path:
    """The real path of a hostPath volume, made where its type says so.

    Raises `VolumeError` when it is not what it should be, or leads by links to where it is not `permitted`: a pod that may
    write into one folder could otherwise put a link to another into it.
    """
    path, kind = Path(volume["hostPath"]["path"]), volume["hostPath"].get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
    if kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    if not path.exists():
        raise VolumeError(f"hostPath {path} is not there")
    if (kind.startswith("Directory") and not path.is_dir()) or (kind.startswith("File") and not path.is_file()):
        raise VolumeError(f"hostPath {path} is no {kind.removesuffix('OrCreate').lower()}")
    real = path.resolve()
    if not permitted(str(real)):
        raise VolumeError(f"hostPath {path} is a link to {real}, which the node's configuration does not list")
    return real


def remove(pod_uid: str, folder: Path) -> None:
    """All volumes of a pod; harmless when they are gone."""
    remove_tree(folder)
    remove_tree(SHARED_MEMORY / f"sartor-runner-{pod_uid}")


def used_bytes(folder: Path) -> int:
    """Disk space of the files below, as `du` counts it."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(parent, name).lstat().st_blocks * 512
            except OSError:
                continue  # removed or replaced while we looked
    return total


def writable(volume: Json) -> bool:
    """Volumes from the API are read-only in every container."""
    return volume_kind(volume) not in API_VOLUMES


def own(folder: Path, owner: int) -> None:
    """Gives the folder and everything in it to a user, links themselves included."""
    os.chown(folder, owner, owner)
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            os.chown(Path(parent, name), owner, owner, follow_symlinks=False)


def _target(folder: Path) -> Path | None:
    link = folder / DATA
    return folder / link.readlink() if link.is_symlink() else None


def _read(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o7777)
        for path in folder.rglob("*")
        if path.is_file()
    }
