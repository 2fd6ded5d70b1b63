"""A stack folder as the composer lays it out, blocks unspecialised: for tests that need a process or real weights."""

import re
import shutil
from pathlib import Path
from typing import Any

from sartor_skills.library import library_root

SKILLS = (
    "serving-core", "model-loading", "native-decoder", "torch-decoder", "predicted-outputs", "prompt-lookup",
)  # fmt: skip


def compose(folder: Path, **assumptions: Any) -> Path:
    """`folder/stack`, importable as `stack` from `folder`, with these spec values."""
    stack = folder / "stack"
    stack.mkdir(parents=True)
    for skill in SKILLS:
        blocks = library_root() / skill / "blocks"
        if blocks.is_dir():
            shutil.copytree(blocks, stack, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "build"))
    (stack / "__init__.py").write_text('"""A stack for tests."""\n')
    spec = (stack / "spec.py").read_text()
    for name, value in assumptions.items():
        spec, count = re.subn(rf"(?m)^({name}: [^=]+ = ).*$", lambda m, value=value: m[1] + repr(value), spec)
        assert count == 1, name
    (stack / "spec.py").write_text(spec)
    return folder


def for_checkpoint(folder: Path, model: Path, **assumptions: Any) -> Path:
    """A stack for the checkpoint in `model`."""
    from sartor_skills.blocks.model_config import read_config

    return compose(folder, **{**read_config(model).as_spec(), **assumptions})
