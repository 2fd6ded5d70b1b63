"""What every step of a role pays for, whatever its model does: starting the process, and ending it."""

import subprocess
import sys

import pytest

HEAVY = ("numpy", "scipy", "tokenizers", "torch", "transformers")
"""A tenth of a second to seconds each, and no role that talks with a model needs them before a tool of it does."""


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-c", program),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("backend", ["openai", "codex"])
def test_a_role_starts_without_what_only_measuring_needs(backend: str) -> None:
    done = python(
        "import sys\n"
        "import sartor_agents.roles.planner, sartor_agents.roles.implementer\n"
        "from sartor_agents.backends import load_backend\n"
        f"load_backend({backend!r})\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_smoke_check_has_what_it_needs_when_it_is_called() -> None:
    done = python("import sartor_agents.tools.smoke, sartor_agents.tools.smoke_prompts")
    assert done.returncode == 0, done.stderr


def test_a_role_that_leaves_has_said_all_and_waits_for_nothing() -> None:
    done = python(
        "import threading, time\n"
        "from sartor_agents.roles.process import leave\n"
        "threading.Thread(target=time.sleep, args=(3600,)).start()\n"
        "print('a last word')\n"
        "leave(3)"
    )
    assert (done.returncode, done.stdout) == (3, "a last word\n")
