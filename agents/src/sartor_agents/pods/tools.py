"""What the shells of the roles stand on, in one place so that tests can put other things there."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from sartor_agents.backends.access import ISOLATION, TOKEN_FILE, URL
from sartor_agents.backends.protocol import HardwareFacts
from sartor_agents.baselines.find import find_engine
from sartor_agents.pods.contract import Pod
from sartor_agents.pods.remote import PATIENCE_SECONDS, Remote
from sartor_agents.run.engines import Engine
from sartor_agents.run.hardware import ACCELERATOR_FACTS, pod_hardware
from sartor_agents.run.role import role_command, run_role
from sartor_api.search.records import BaselineRecord, RunSpec

Response = TypeVar("Response", bound=BaseModel)


@dataclass(frozen=True)
class Tools:
    """`say` takes a line for the pod's log."""

    say: Callable[[str], None]
    command: Callable[[str], Sequence[str]] = role_command
    engine: Callable[[RunSpec, Path], Engine] = find_engine
    hardware: Callable[[], HardwareFacts] = pod_hardware
    patience_seconds: float = PATIENCE_SECONDS
    sleep: Callable[[float], None] = time.sleep

    def remote(self, pod: Pod) -> Remote:
        """The run's repository, with the pod's token."""
        assert pod.token_file is not None, "only roles with an identity get here"
        return Remote(
            pod.repository,
            pod.token_file,
            patience_seconds=self.patience_seconds,
            deadline=pod.deadline,
            sleep=self.sleep,
        )

    def ask(
        self,
        pod: Pod,
        role: str,
        request: BaseModel,
        response: type[Response],
        seconds: float | None = None,
        *,
        model: bool = False,
    ) -> Response:
        """Run a role's process as `sartor run` does. Raises `RoleError`.

        A process of its own has a deadline, can fall over without taking the report with it, and sees nothing of what this
        one holds. Memory is the pod's own limit. `model`: it may ask one.
        """
        return run_role(
            role,
            request,
            response,
            folder=pod.work / "exchange" / role,
            log=pod.work / "logs" / f"{role}.log",
            timeout=max(1.0, pod.seconds() if seconds is None else seconds),
            memory_bytes=None,
            on_progress=self.say,
            command=self.command,
            environment=lambda _: model_variables(os.environ) if model else {},
        )


def model_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What a role's process needs to ask its model and to know that the pod is its sandbox; nothing else is passed on."""
    wanted = (URL, TOKEN_FILE, ISOLATION, "SARTOR_MODEL", "SARTOR_CODEX", "SARTOR_CACHE")
    return {name: environment[name] for name in wanted if name in environment}


def serving_hardware(spec: RunSpec, baseline: BaselineRecord | None, here: HardwareFacts) -> HardwareFacts:
    """The machine that candidates run on: the one where the baseline was measured, else this one.

    Planner and implementer may run on other nodes than the servers.
    """
    seen = dict(baseline.fingerprint) if baseline is not None else {}
    known = {
        "machine": seen.get("machine"),
        "cpu_model": seen.get("cpu"),
        "cores": seen.get("cores"),
        "memory_bytes": seen.get("memory_bytes"),
        "cpu_flags": seen.get("cpu_flags"),
        **{name: seen.get(name) for name in ACCELERATOR_FACTS},
    }
    if known["cores"] is None:
        known = {}
    told = {name: value for name, value in known.items() if value is not None}
    return HardwareFacts.model_validate({**here.model_dump(), **told, "platform": spec.platform})
