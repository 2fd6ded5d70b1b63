"""vLLM's CPU build as the baseline of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sartor_agents.baselines.environment import VllmEnvironment
from sartor_agents.run.engines import Setting
from sartor_agents.run.servers import HOST, ServerSpec

START_SECONDS = 900.0
"""The longest start allowed: three processes import PyTorch one after the other, minutes on a machine under load."""

KV_GIB = 2

ENVIRONMENT: Mapping[str, str] = {
    "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_USE_AOT_COMPILE": "0",  # else every start compiles again
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class VllmEngine:
    """Real vLLM; `grid` holds the settings of this run, the first one to fall back on."""

    environment: VllmEnvironment
    model_dir: Path
    served_name: str
    max_model_len: int
    grid: Sequence[Setting]
    home: Path
    fallback_reason: str | None = None

    @property
    def name(self) -> str:
        return "vllm"

    @property
    def version(self) -> str:
        return self.environment.version

    @property
    def accepts_prediction(self) -> bool:
        return False

    def settings(self) -> Sequence[Setting]:
        return self.grid

    def server(self, setting: Setting, port: int) -> ServerSpec:
        """The API server's module is started, since the `vllm` command looks for a distribution of another name."""
        self.home.mkdir(parents=True, exist_ok=True)
        command = (
            str(self.environment.python), "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(self.model_dir), "--served-model-name", self.served_name,
            "--host", HOST, "--port", str(port), "--max-model-len", str(self.max_model_len),
            *setting.arguments,
        )  # fmt: skip
        home = {
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "PATH": f"{self.environment.python.parent}:/usr/bin:/bin",
        }
        return ServerSpec(
            name="vLLM",
            command=command,
            cwd=self.home,
            port=port,
            environment={**home, "LANG": "C.UTF-8", **ENVIRONMENT, **setting.environment},
            ready_seconds=START_SECONDS,
        )
