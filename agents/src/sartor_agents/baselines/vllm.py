"""vLLM as the baseline of a run: its CPU build, or on an NVIDIA device its usual one."""

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sartor_agents.baselines.environment import VllmEnvironment
from sartor_agents.run.engines import Setting
from sartor_agents.run.servers import HOST, ServerSpec

START_SECONDS = 900.0
"""The longest start allowed: three processes import PyTorch one after the other, minutes on a machine under load."""

KV_GIB = 2

SOCKET_FOLDER_CHARS = 107 - len("/") - 36
"""Longest folder for vLLM's sockets: Linux takes 107 characters of a path (unix(7)), a name of theirs is a UUID."""

LITTER_SECONDS = 86400.0
"""Sockets of an engine that is still up are younger than this: no run takes a day without starting its engine again."""

ENVIRONMENT: Mapping[str, str] = {
    "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_USE_AOT_COMPILE": "0",  # else every start compiles again
    "TOKENIZERS_PARALLELISM": "false",
    # Its processes are on one host, and the host's address may be on no interface (a pod of a sartor-runner).
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
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
    cache: Path
    """Where vLLM and PyTorch keep what they compiled, from one start to the next."""
    fallback_reason: str | None = None
    machine: Mapping[str, str] = field(default_factory=dict[str, str])
    """What this machine adds to the environment: its device and the driver's libraries. Nothing of it is recorded."""

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
        self.home.mkdir(parents=True, exist_ok=True)  # also where its scratch folder lies elsewhere
        scratch = scratch_folder(self.home)
        sweep(scratch, time.time() - LITTER_SECONDS)
        command = (
            str(self.environment.python), "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(self.model_dir), "--served-model-name", self.served_name,
            "--host", HOST, "--port", str(port), "--max-model-len", str(self.max_model_len),
            *setting.arguments,
        )  # fmt: skip
        home = {
            "HOME": str(self.home),
            "TMPDIR": str(scratch),
            "PATH": f"{self.environment.python.parent}:/usr/bin:/bin",
        }
        written = {**home, **compiled(self.cache), "LANG": "C.UTF-8", **ENVIRONMENT}
        return ServerSpec(
            name="vLLM",
            command=command,
            cwd=self.home,
            port=port,
            environment={**written, **setting.environment, **self.machine},
            ready_seconds=START_SECONDS,
        )


def scratch_folder(home: Path) -> Path:
    """The folder for vLLM's sockets and small files: in its home, or where that path is too long for a socket, a short one.

    Raises `PermissionError` where the short one belongs to another user.
    """
    scratch = home / "tmp"
    if len(os.fsencode(scratch)) > SOCKET_FOLDER_CHARS:
        scratch = Path("/tmp", f"sartor-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}")
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    if scratch.lstat().st_uid != os.getuid():
        raise PermissionError(f"{scratch} belongs to another user; set SARTOR_CACHE to a folder with a shorter path")
    return scratch


def sweep(folder: Path, before: float) -> None:
    """Remove what engines that were killed left there (sockets, small files) and nobody touched since `before` (Unix s)."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run sweeps too
            if not path.is_dir() and path.lstat().st_mtime < before:
                path.unlink()


def compiled(cache: Path) -> dict[str, str]:
    """The variables that say where what was compiled is kept. The operator gives its servers the same folders."""
    return {
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
    }
