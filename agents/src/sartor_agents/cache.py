"""Where Sartor keeps what lasts longer than a run."""

import os
from collections.abc import Mapping
from pathlib import Path


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """`$SARTOR_CACHE`, else `~/.cache/sartor`."""
    return Path(environment.get("SARTOR_CACHE") or Path.home() / ".cache" / "sartor")
