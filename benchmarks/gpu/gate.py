"""The decoder against `transformers` with the same weights: before any speed is looked at.

Greedy tokens must be those of the reference up to ties: where they differ, the reference itself must have held both within
`TIE` of each other. The reference reads prompt and answer in one forward (teacher forcing), so one divergence is not many.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.engine_runs import Run
from benchmarks.gpu.models import ChainSource

TIE = 0.25  # nats; bfloat16 logits of about 10 lie 0.06 apart


def reference_model(folder: Path, source: ChainSource, device: torch.device) -> Any:
    """The model of `folder/config.json` by `transformers`, in bfloat16, with the weights of `source`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        source.into(parameter.data, name)
    return model.eval()


@torch.inference_mode()
def compare(model: Any, runs: Sequence[Run], device: torch.device) -> dict[str, Any]:
    """How the tokens of `runs` stand to the reference: agreements, ties, and wrong ones with where they are."""
    agreed = ties = 0
    wrong: list[dict[str, float]] = []
    for number, run in enumerate(runs):
        tokens = torch.tensor([run.prompt + run.tokens[:-1]], device=device)
        logits = model(tokens).logits[0, len(run.prompt) - 1 :].float()
        best = logits.max(1)
        ours = logits.gather(1, torch.tensor(run.tokens, device=device)[:, None])[:, 0]
        for place, gap in enumerate((best.values - ours).tolist()):
            if int(best.indices[place]) == run.tokens[place]:
                agreed += 1
            elif gap < TIE:
                ties += 1
            else:
                wrong.append({"request": number, "token": place, "gap": gap})
    return {"agreed": agreed, "ties": ties, "wrong": wrong[:20], "wrong_count": len(wrong)}
