"""The repositories on the volume: `ROOT/NAMESPACE/RUN/{open,sealed}.git`.

A run's folder is made aside and renamed into place, so it is there whole or not at all, however often that is tried at the
same time. One service owns the volume (a lock on `ROOT/.lock`, which git's processes inherit: a service that was killed is
followed by another one only when its last git process has gone). What a killed git left is swept away at the start;
references and objects themselves are git's business, which writes them atomically and flushed (`core.fsync`).
"""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sartor_repository.policy import Limits, Vault

_LOCK = ".lock"
_HOOKS = ".hooks"
NEW = ".new-"
"""Prefix of folders that are being made or removed; they are swept away at the start."""

GIT_CONFIG: dict[str, str] = {
    "core.fsync": "objects,reference",
    "core.bigFileThreshold": "1m",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.receivepack": "true",
    "http.uploadpack": "true",
    "http.getanyfile": "false",
    "pack.threads": "1",
    "pack.windowMemory": "64m",
    "receive.advertisePushOptions": "false",
    "receive.autogc": "false",
    "receive.denyDeletes": "true",
    "receive.denyNonFastForwards": "true",
    "receive.fsckObjects": "true",
    "receive.unpackLimit": "1",
    "receive.shallowUpdate": "false",
    "safe.directory": "*",
    "uploadpack.allowFilter": "true",
    "uploadpack.allowReachableSHA1InWant": "true",
    "protocol.allow": "never",
}
"""Given to every git process in its environment, so a repository's own file cannot say otherwise.

`bigFileThreshold` makes git stream large files instead of holding them; `unpackLimit` keeps a push as one pack, which is
there whole or not at all.
"""


class StoreError(Exception):
    """The volume cannot be used; the message says why and what to do."""


class Store:
    """The volume. Use as a context manager: it is locked for this process and the git processes that it starts."""

    def __init__(self, root: Path, *, wait_seconds: float = 30.0) -> None:
        """`root` is created. Waits up to `wait_seconds` for another service to let go of it. Raises `StoreError`."""
        self.root = root.absolute()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"{self.root}: {error.strerror}; mount a volume there that this process may write"
            ) from error
        try:
            self._acquire(time.monotonic() + wait_seconds)
            self._recover()
            self._install_hook()
        except OSError as error:
            os.close(self.lock)
            raise StoreError(f"{error.filename or self.root}: {error.strerror}; see to the volume") from error
        except StoreError:
            os.close(self.lock)
            raise

    def _acquire(self, until: float) -> None:
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise StoreError(f"{self.root} is in use by another git service; run one per volume") from None
                time.sleep(0.1)
            else:
                return

    def _recover(self) -> None:
        """Sweep away what killed processes left: half-made runs, lock files, quarantined objects of pushes."""
        for left in self.root.glob(f"*/{NEW}*"):
            shutil.rmtree(left)
        for repository in self.root.glob("*/*/*.git"):
            for lock in (*repository.glob("*.lock"), *repository.glob("refs/**/*.lock")):
                lock.unlink()
            for pattern in ("objects/incoming-*", "objects/tmp_objdir-*"):
                for quarantine in repository.glob(pattern):
                    shutil.rmtree(quarantine)
            for scrap in repository.glob("objects/pack/tmp_*"):
                scrap.unlink()

    def _install_hook(self) -> None:
        folder = self.root / _HOOKS
        folder.mkdir(exist_ok=True)
        script = folder / "pre-receive"
        staged = folder / ".pre-receive"
        staged.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -m sartor_repository.hook\n', encoding="utf-8")
        staged.chmod(0o755)
        staged.replace(script)

    @property
    def hooks(self) -> Path:
        return self.root / _HOOKS

    def repository(self, namespace: str, run: str, vault: Vault) -> Path:
        """Where a repository lies, whether it is there or not. The names have been checked (`paths`)."""
        return self.root / namespace / run / f"{vault}.git"

    def exists(self, namespace: str, run: str) -> bool:
        return (self.root / namespace / run).is_dir()

    def runs(self) -> list[Path]:
        """The folders of all runs that have repositories."""
        return sorted(path for path in self.root.glob("[!.]*/[!.]*") if path.is_dir())

    def create(self, namespace: str, run: str) -> None:
        """Make both repositories of a run. Done already, or by somebody else at this moment: fine. Raises `StoreError`."""
        target = self.root / namespace / run
        if target.is_dir():
            return
        try:
            target.parent.mkdir(exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=NEW, dir=target.parent))
        except OSError as error:
            raise StoreError(f"no repository can be made: {error.strerror}; see to the volume") from error
        try:
            for vault in Vault:
                _git_init(staging / f"{vault}.git")
            staging.chmod(stat.S_IRWXU)
            staging.rename(target)
            _flush(target.parent)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            if not target.is_dir():
                raise StoreError(f"no repository can be made: {error.strerror}; see to the volume") from error
        except StoreError:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def free_bytes(self) -> int:
        """Bytes that may still be written."""
        volume = os.statvfs(self.root)
        return volume.f_bavail * volume.f_frsize

    def git_environment(self, limits: Limits | None) -> dict[str, str]:
        """The whole environment of a git process, nothing of this one's but the path."""
        config = GIT_CONFIG | {"core.hooksPath": str(self.hooks)}
        if limits is not None:
            config |= {"receive.maxInputSize": str(limits.push_bytes)}
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(self.root / _HOOKS),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ALLOC_LIMIT": str(256 << 20),
            "GIT_HTTP_MAX_REQUEST_BUFFER": str(4 << 20),
            "GIT_CONFIG_COUNT": str(len(config)),
            **{f"GIT_CONFIG_KEY_{number}": key for number, key in enumerate(config)},
            **{f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(config.values())},
        }

    def close(self) -> None:
        os.close(self.lock)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _git_init(folder: Path) -> None:
    command = ["git", "init", "--quiet", "--bare", "--initial-branch=main", "--template=", str(folder)]
    values = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    done = subprocess.run(command, capture_output=True, env=values, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise StoreError(f"no repository can be made: {said[-1] if said else 'git init failed'}; see to the volume")


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
