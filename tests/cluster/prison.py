"""Things of the host that an agent's pod must not reach, for the battery (`tests/sandbox/attempts.py`)."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents_support import Agents


@contextlib.contextmanager
def planted(agents: Agents) -> Iterator[dict[str, Any]]:
    """`canary` is the provider's key: whoever shows it anywhere has got what an agent must not have."""
    token = secrets.token_hex(8)
    home = agents.folder / "home-token"
    home.write_text(agents.key)
    name = f"victim-{token}"
    victim = subprocess.Popen(
        (sys.executable, "-c", "import time; time.sleep(900)", name), env={**os.environ, "SECRET": agents.key}
    )
    path = Path("/tmp") / f"sartor-battery-{token}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        try:
            yield {
                "canary": agents.key, "token": token, "home_secret": str(home), "victim": victim.pid, "victim_name": name,
                "host_socket": str(path), "scratch": "/tmp", "model": "/model",
            }  # fmt: skip
        finally:
            path.unlink()
            victim.kill()
            victim.wait()
