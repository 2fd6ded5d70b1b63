"""Compiles every kernel to machine code at the shapes of real models, on any machine: Triton's wheel brings the assembler.

A process of its own, because the tests have Triton interpret what it would compile here. Prints one JSON line a kernel:
name, what it was compiled for, bytes of shared memory, registers and bytes of stack (what spilled from them) of a thread.

    python tests/unit/gpu/compile_kernels.py 90
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sartor_skills.blocks import kernels_attention, kernels_choice, kernels_draw, kernels_fp8, kernels_rows

LLAMA_8B = {"hidden": 4096, "inner": 14336, "heads": 32, "vocabulary": 128256, "normed": False}
QWEN3_32B = {"hidden": 5120, "inner": 25600, "heads": 64, "vocabulary": 151936, "normed": True}
KV_HEADS, HEAD_DIM = 8, 128
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def kernels(model: dict[str, Any]) -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, int], str]]:
    """(kernel, types of its arguments, its constants, options, what for): as the wrappers launch them."""
    hidden, heads = model["hidden"], model["heads"]
    block = triton.next_power_of_2(hidden)
    yield (
        kernels_rows._add_rms_norm,
        {"residual": "*fp32", "delta": "*bf16", "weight": "*fp32", "out": "*bf16", "eps": "fp32"},
        {"width": hidden, "block": block, "adds": True},
        {"num_warps": min(16, block // 512)},
        "",
    )
    yield (
        kernels_rows._rotate_and_store,
        {
            "qkv": "*bf16", "positions": "*i32", "slots": "*i32", "cosines": "*fp32", "sines": "*fp32", "keys": "*bf16",
            "values": "*bf16", "q_norm": "*fp32", "k_norm": "*fp32", "out": "*bf16", "eps": "fp32",
        },
        {"heads": heads, "kv_heads": KV_HEADS, "half": HEAD_DIM // 2, "block": HEAD_DIM // 2, "normed": model["normed"]},
        {"num_warps": 1},
        "",
    )  # fmt: skip
    yield (
        kernels_rows._swiglu,
        {"gate_up": "*bf16", "out": "*bf16"},
        {"width": model["inner"], "block": 1024},
        {"num_warps": 4},
        "",
    )
    parts = triton.cdiv(model["vocabulary"], 4096)
    none = kernels_choice._NONE
    yield (
        kernels_choice._choose_part,
        {"logits": "*fp32", "best": "*fp32", "place": "*i32", "stride": "i32"},
        {"vocabulary": model["vocabulary"], "parts": parts, "block": 4096, "none": none},
        {"num_warps": 8},
        "",
    )
    yield (
        kernels_choice._choose_row,
        {"best": "*fp32", "place": "*i32", "chosen": "*i32"},
        {"parts": parts, "block": triton.next_power_of_2(parts), "none": none},
        {"num_warps": 1},
        "",
    )
    yield (
        kernels_choice._accept_drafts,
        {"chosen": "*i32", "tokens": "*i32", "segments": "*i32", "found": "*i32", "count": "i32"},
        {"block": 64},
        {"num_warps": 1},
        "",
    )
    yield (
        kernels_draw._draw,
        {
            "logits": "*fp32", "chosen": "*i32", "wishes": "*fp32", "stride": "i32", "wish_stride": "i32",
            "wish_row_stride": "i32",
        },
        kernels_draw.launch_constants(model["vocabulary"]),
        {"num_warps": 16},
        "",
    )  # fmt: skip
    for rows in (16, 64):
        yield (
            kernels_fp8._fp8_linear,
            {"x": "*bf16", "data": "*u8", "scales": "*fp32", "bias": "*fp32", "out": "*bf16", "rows": "i32"},
            {
                "inner": hidden, "outer": 2 * model["inner"], "block_rows": rows, "block_outer": 32, "block_inner": 256,
                "biased": False, "wide": False, "shifted": kernels_fp8._SHIFTED,
            },
            {"num_warps": 4, "num_stages": 4},
            f"{rows} rows",
        )  # fmt: skip
    pointers = {"q": "*bf16", "keys": "*bf16", "values": "*bf16", "tiles": "*i32", "tables": "*i32"}
    sums = {"partial": "*fp32", "sums": "*fp32"}
    for items, splits in ((16, 1), (64, 16)):
        shape = {
            "heads": heads, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "splits": splits, "block_rows": items,
            "block_dim": HEAD_DIM,
        }  # fmt: skip
        for block_tokens in (32, 64, 128):
            options = kernels_attention.launch_options(items, block_tokens, HEAD_DIM, 2)
            yield (
                kernels_attention._attend_split,
                {**pointers, **sums, "count": "i32", "table_stride": "i32", "scale": "fp32"},
                {**shape, "page_tokens": 16, "block_tokens": block_tokens, "wide": False},
                options,
                f"{items} rows and heads, blocks of {block_tokens}",
            )
        yield (
            kernels_attention._merge_splits,
            {"tiles": "*i32", **sums, "out": "*bf16", "count": "i32"},
            shape,
            {"num_warps": 4},
            f"{splits} splits",
        )


def compiled(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, int], capability: int
) -> Any:
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n, kind in types.items() if kind[0] == "*"}
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def usage(binary: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack, of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [str(CUOBJDUMP), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return int(registers), int(stack)


def main() -> None:
    capability = int(sys.argv[1])
    for name, model in (("8b", LLAMA_8B), ("32b", QWEN3_32B)):
        for kernel, types, constants, options, what in kernels(model):
            made = compiled(kernel, types, constants, options, capability)
            registers, stack = usage(made.asm["cubin"])
            print(
                json.dumps(
                    {
                        "kernel": kernel.__name__, "model": name, "for": what, "shared": made.metadata.shared,
                        "registers": registers, "stack": stack,
                    }
                ),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
