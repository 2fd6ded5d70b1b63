"""Where a stack's time goes: sampled while it serves a load in the sandbox."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from sartor_agents.backends.conversation.tool import ToolResult
from sartor_agents.run.sandbox import walls
from sartor_agents.run.sandbox.command import CommandSandbox
from sartor_agents.tools.commands import told
from sartor_agents.tools.files import Parameters

PROFILING = Path(__file__).parent / "inside" / "profiling.py"
PORT = walls.PORTS[1]
RATE = 200
AROUND_SECONDS = 400.0
"""What building and starting may take beside the load."""


class ProfileParameters(Parameters):
    path: str = Field(default="/v1/completions", pattern=r"^/[!-~]*$", max_length=2000)
    body: dict[str, JsonValue] = Field(description="The request's JSON body; `model` is filled in.")
    concurrency: int = Field(default=1, ge=1, le=64, description="Requests in flight.")
    seconds: int = Field(default=10, ge=1, le=60, description="How long to send and to sample.")
    native: bool = Field(default=False, description="Show functions of C and C++ too.")


@dataclass(frozen=True)
class Profile:
    """`profile`."""

    sandbox: CommandSandbox
    name: str = "profile"
    description: str = (
        "Build and serve the stack in the sandbox, send one request again and again, and sample where Python spends its "
        "time (py-spy). Gives the functions with most samples. For PyTorch's own profiler use run_command."
    )
    parameters: type[ProfileParameters] = ProfileParameters

    def call(self, parameters: ProfileParameters, /) -> ToolResult:
        options: dict[str, Any] = {
            **parameters.model_dump(),
            "port": PORT,
            "rate": RATE,
            "model": self.sandbox.shown("/model"),
        }
        limits = replace(self.sandbox.limits, seconds=parameters.seconds + AROUND_SECONDS, cpu_seconds=36_000)
        shown = replace(
            self.sandbox,
            limits=limits,
            tracing=True,
            readable={**self.sandbox.readable, "/run/tools/profiling.py": PROFILING},
        )
        script = (
            'python -m stack build >"$TMPDIR/build" 2>&1 || { cat "$TMPDIR/build"; exit 1; }; exec python "$0" "$1"'
        )
        command = ("/bin/sh", "-c", script, "/run/tools/profiling.py", json.dumps(options))
        return told(shown.run(command, keep=False))
