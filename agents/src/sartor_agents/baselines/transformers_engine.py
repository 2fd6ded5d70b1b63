"""The fall-back baseline: `transformers` behind the same HTTP contract. Used only with its reason in the record."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from sartor_agents.run.engines import Setting
from sartor_agents.run.process import scrubbed_environment
from sartor_agents.run.servers import HOST, ServerSpec


@dataclass(frozen=True)
class TransformersEngine:
    model_dir: Path
    served_name: str
    dtype: str
    home: Path
    fallback_reason: str | None = None
    device: str = "cpu"
    static_tokens: int = 0
    """Positions of a static cache, 0 for a growing one."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Beside what every server gets."""

    @property
    def name(self) -> str:
        return "transformers"

    @property
    def version(self) -> str:
        return version("transformers")

    @property
    def accepts_prediction(self) -> bool:
        return False

    def settings(self) -> Sequence[Setting]:
        if not self.static_tokens:
            return [Setting(f"eager, {self.dtype}", ("--dtype", self.dtype))]
        arguments = ("--dtype", self.dtype, "--device", self.device, "--static-tokens", str(self.static_tokens))
        compiled = ", compiled" if self.device == "cuda" else ""
        return [Setting(f"static cache{compiled}, {self.dtype}", arguments)]

    def server(self, setting: Setting, port: int) -> ServerSpec:
        self.home.mkdir(parents=True, exist_ok=True)
        command = (
            sys.executable, "-m", "sartor_agents.baselines.transformers_server",
            "--model", str(self.model_dir), "--name", self.served_name,
            "--host", HOST, "--port", str(port), *setting.arguments,
        )  # fmt: skip
        return ServerSpec(
            name="transformers",
            command=command,
            cwd=self.model_dir,
            port=port,
            environment=scrubbed_environment(self.home, {"HF_HUB_OFFLINE": "1", **self.environment}),
            ready_seconds=600.0 if self.device == "cuda" else 300.0,
        )
