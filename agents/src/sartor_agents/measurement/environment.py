"""What a number depends on besides the code under test: machine, kernel, library versions, and the evaluator itself."""

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

import psutil
from pydantic import JsonValue

_LIBRARIES = ("httptools", "uvloop", "tokenizers", "numpy", "scipy", "torch", "transformers")
_EVALUATOR = ("measurement", "scenarios", "judge", "roles")


def fingerprint() -> dict[str, JsonValue]:
    """Everything that is recorded beside a measurement. No host name and no user: records are published."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "evaluator": evaluator_digest(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name)) is not None},
    }


def evaluator_digest() -> str:
    """SHA-256 over the sources that measure and judge: two numbers with one digest were made by the same rules."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for folder in _EVALUATOR:
        for path in sorted((root / folder).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
