"""Rows and files of figures. `met` is derived in one place; a target that was not met stays in the file with a note."""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


@dataclass(frozen=True)
class Row:
    """One figure. `low` and `high` bound it with 95 % confidence; `n` is the number of replicates."""

    bar: str
    unit: str
    better: Literal["higher", "lower"]
    target: float | None
    value: float
    low: float
    high: float
    n: int
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the whole interval is on the right side of the target; None without a target."""
        if self.target is None:
            return None
        return self.high <= self.target if self.better == "lower" else self.low >= self.target


def median_row(
    bar: str,
    unit: str,
    better: Literal["higher", "lower"],
    values: Sequence[float],
    target: float | None,
    note: str = "",
) -> Row:
    """The median of replicates with its percentile-bootstrap interval (Efron & Tibshirani 1993, ch. 13)."""
    data = np.asarray(values)
    draws = np.random.default_rng(0).choice(data, (2000, len(data)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return Row(bar, unit, better, target, float(np.median(data)), float(low), float(high), len(data), note)


def machine() -> dict[str, Any]:
    """What the figures were measured on, as far as it can be seen without naming the machine."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "avx512": "avx512f" in flags,
        "native_bf16": any(flag in flags for flag in BF16_FLAGS),
        "system": platform.system(),
        "python": platform.python_version(),
    }


class Bench:
    """Collects the rows of one bench and writes `benchmarks/results/NAME_PART.json` (NAME.json for a bench of one part)
    after each, so that a bench that is stopped half-way keeps what it has."""

    def __init__(self, name: str, part: str = "") -> None:
        self.name = name
        self.rows: list[Row] = []
        self._output = RESULTS / (f"{name}_{part}.json" if part else f"{name}.json")
        self._begun = time.monotonic()

    def add(self, *rows: Row) -> None:
        self.rows += rows
        self.write()
        for row in rows:
            print(describe(row), flush=True)

    def write(self) -> None:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        content = {
            "bench": self.name,
            "commit": commit,
            "machine": machine(),
            "command": shlex.join(["python", "-m", f"benchmarks.{self.name}", *sys.argv[1:]]),
            "seconds": round(time.monotonic() - self._begun, 1),
            "rows": [{**asdict(row), "met": row.met} for row in self.rows],
        }
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def describe(row: Row) -> str:
    """One line for the terminal."""
    target = "" if row.target is None else f"  target {row.target:g}: {'met' if row.met else 'NOT met'}"
    return f"{row.bar:60} {row.value:9.3f} [{row.low:.3f}, {row.high:.3f}] {row.unit}, n={row.n}{target}"
