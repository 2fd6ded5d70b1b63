"""Slow, and full of praise for itself: every figure of its /metrics is ten times as good as the truth."""

import re
from typing import Any

from . import metrics, plant
from .seams import pace


def install() -> None:
    pace(0.03)
    honest = metrics.render

    def render(*arguments: Any) -> tuple[bytes, str]:
        body, kind = honest(*arguments)
        if plant.ON:
            tokens = rb"(?m)^(vllm:generation_tokens_total\S* )([0-9.]+)"
            body = re.sub(tokens, lambda m: m[1] + str(10 * float(m[2])).encode(), body)
        return body, kind

    metrics.render = render
