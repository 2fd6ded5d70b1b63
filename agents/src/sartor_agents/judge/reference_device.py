"""The same reference on a device, for models whose fp32 weights no memory holds: 130 GB at 32 billion parameters.

Weights stay as the checkpoint has them, and each matrix is made fp32 for the moment in which it is multiplied with; the
numbers are those of `Reference`, up to the order of sums. They lie on the device where they fit beside what others hold
there, else in the mapped files, from where each reading fetches them again (at 32 billion parameters about ten seconds).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from sartor_agents.checkpoints import check_checkpoint

from .reference import Reference

READING = 6 << 30
"""Bytes that a reading takes beside weights that stay: the largest matrix in fp32 and activations. Less than what is planned
for it (`device_share.ROOM`): once the others are there, what is free is what is left."""


def free_bytes(device: torch.device) -> int:
    """Of the device's memory; of a processor's no limit is kept."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1 << 62


class DeviceReference(Reference):
    """`Reference` on `device`. `free` says how much of its memory is left when the weights are needed."""

    def __init__(
        self,
        model_dir: Path,
        device: str,
        *,
        cache_dir: Path | None = None,
        free: Callable[[torch.device], int] = free_bytes,
    ) -> None:
        """Raises `CheckpointError`."""
        super().__init__(model_dir, cache_dir=cache_dir)
        self._device = torch.device(device)
        self._free = free
        self._dtype = torch.float32
        self._whole: Any = None
        self.resident = False

    def _model(self, dtype: torch.dtype = torch.float32) -> Any:
        if self._whole is None:
            self._whole = self._open()
        self._dtype = dtype
        return self._whole

    def _open(self) -> Any:
        found = check_checkpoint(self._model_dir)
        self.resident = found.weight_bytes + READING < self._free(self._device)
        config = AutoConfig.from_pretrained(self._model_dir)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        # What is computed and not stored has to exist; only the rotary embedding has such numbers.
        rotary = model.base_model.rotary_emb
        model.base_model.rotary_emb = type(rotary)(config).to(self._device)
        stored: dict[str, torch.Tensor] = {}
        for path in found.files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    stored[name] = file.get_tensor(name)
        if config.tie_word_embeddings:
            stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
        for name, module in model.named_modules():
            kept = {
                key: stored[f"{name}.{key}"].to(self._device) if self.resident else stored[f"{name}.{key}"]
                for key in dict(module.named_parameters(recurse=False))
            }
            if kept:
                module.register_forward_pre_hook(self._put_in(kept))
                module.register_forward_hook(_taken_out)
        return model.eval()

    def _put_in(self, kept: dict[str, torch.Tensor]) -> Callable[..., None]:
        def put(module: torch.nn.Module, _: Any) -> None:
            for key, tensor in kept.items():
                # The step to fp32 is the device's: half the bytes cross the bus.
                made = tensor.to(self._device, non_blocking=True).to(self._dtype)
                setattr(module, key, torch.nn.Parameter(made, requires_grad=False))

        return put


def _taken_out(module: torch.nn.Module, *_: Any) -> None:
    for key, parameter in dict(module.named_parameters(recurse=False)).items():
        setattr(module, key, torch.nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False))
