"""How far a step of the native decoder is from what bounds it, measured in one run.

One row is bound by reading the weights, so its time is compared with the weights' bytes divided by the read bandwidth of the
same number of threads. A prompt is bound by arithmetic, so it is compared with PyTorch's own fp32 matrix product. Machines
are noisy and change their mind within seconds: bound and step are measured in turns, each round gives one ratio (best of a
few passes on both sides), and the figure is the median of the rounds with a bootstrap interval. One thread is timed by its
own CPU time, which waiting for memory counts towards and a neighbour on the core does not; two threads by the clock.

Logprobs cost the rows that ask for them: a step whose rows all want the five likeliest is timed in turns with one without.

    python -m benchmarks.decode_step --model 52m --model 500m

A model is a folder, or the size of a chain checkpoint. Writes `benchmarks/results/decode_step_SIZE.json`.
"""

import argparse
import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from sartor_skills.blocks.decoder import Segment
from sartor_skills.blocks.model_config import ModelError, read_config
from sartor_skills.blocks.native_build import BuildError, build
from sartor_skills.blocks.native_decoder import NativeDecoder
from sartor_skills.blocks.sampling import token_logprobs
from sartor_skills.blocks.weights import expected_shapes

from benchmarks.support.arms import MODELS
from benchmarks.support.record import Bench, Row, median_row
from sartor_agents.checkpoints import CheckpointError, SyntheticSource, cache_folder, resolve
from sartor_skills.blocks import spec

HERE = Path(__file__).parent
CONTEXT = 64  # tokens before the measured step
WITHIN = 1.10  # of the bound, one row and one thread
PASSES = 12  # of a step of one row and of reading as many bytes, a round


class Bandwidth:
    """Reads a buffer as large as the weights with plain loops, compiled for this processor."""

    def __init__(self, folder: Path, size: int) -> None:
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            raise SystemExit("no C++ compiler on PATH: install g++ to measure the read bandwidth")
        path = folder / "bandwidth.so"
        flags = ["-std=c++20", "-O3", "-march=native", "-fPIC", "-shared", "-pthread", "-Wno-psabi"]
        subprocess.run([compiler, *flags, str(HERE / "read_bandwidth.cpp"), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
        library.bandwidth_buffer.restype = ctypes.c_void_p
        library.bandwidth_buffer.argtypes = [ctypes.c_uint64]
        library.bandwidth_release.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
        library.bandwidth_read.restype = ctypes.c_double
        library.bandwidth_read.argtypes = [ctypes.c_void_p, ctypes.c_uint64, *[ctypes.c_int] * 3]
        self._library = library
        self._size = size // 4096 * 4096
        self._buffer = library.bandwidth_buffer(self._size)
        if not self._buffer:
            raise SystemExit(f"no memory for a buffer of {self._size} bytes")

    def measure(self, threads: int, passes: int) -> float:
        """Bytes a second of the fastest pass of the fastest loop; every loop has its turn, so that none is unlucky."""
        kinds = range(self._library.bandwidth_kinds())
        if threads == 1:
            return self._size / min(best(lambda kind=kind: self._read(1, kind, 1), passes // 3, 1) for kind in kinds)
        return self._size / min(self._read(threads, kind, passes // 3) for kind in kinds)

    def _read(self, threads: int, kind: int, passes: int) -> float:
        return self._library.bandwidth_read(self._buffer, self._size, threads, kind, passes)

    def close(self) -> None:
        self._library.bandwidth_release(self._buffer, self._size)


def best(action: Callable[[], object], passes: int, threads: int) -> float:
    """Seconds of the fastest of some passes: CPU time of this thread where it is the only one, else time by the clock."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    times: list[float] = []
    for _ in range(passes):
        begin = clock()
        action()
        times.append(clock() - begin)
    return min(times)


def locate(name: str) -> Path:
    """The folder of a checkpoint, or the chain checkpoint of one of the sizes of `MODELS`, made if need be."""
    if name not in MODELS:
        return Path(name)
    architecture, size = MODELS[name]
    return resolve(SyntheticSource("chain", architecture, size, 0, "bfloat16"), cache=cache_folder())


def specialise(model_dir: Path) -> None:
    limits = {"DTYPE": "bfloat16", "MAX_MODEL_LEN": 1024, "STEP_TOKENS": 256, "PAGE_TOKENS": 16}
    for name, value in {**read_config(model_dir).as_spec(), **limits}.items():
        setattr(spec, name, value)


def pages_of(sequence: int) -> np.ndarray:
    count = spec.MAX_MODEL_LEN // spec.PAGE_TOKENS
    return np.arange(sequence * count, (sequence + 1) * count, dtype=np.int32)


def batch(rows: int) -> list[Segment]:
    return [Segment(pages_of(index), CONTEXT, [7 + index], 1, False) for index in range(rows)]


def with_logprobs(decoder: NativeDecoder, segments: list[Segment]) -> None:
    """A step, and what the engine makes of its logits when every row asks for five."""
    argmax, logits = decoder.forward([segment._replace(logits=True) for segment in segments])
    assert logits is not None
    for token, row in zip(argmax.tolist(), logits, strict=True):
        token_logprobs(row, token, 5)


def verification(rows: int) -> list[Segment]:
    return [Segment(pages_of(0), CONTEXT, list(range(7, 7 + rows)), rows, False)]


def prompt(rows: int) -> list[Segment]:
    return [Segment(pages_of(0), 0, list(range(7, 7 + rows)), 1, False)]


def measure(label: str, model_dir: Path, thread_counts: Sequence[int], rounds: int, folder: Path) -> list[Row]:
    specialise(model_dir)
    shapes = expected_shapes()
    read = [tensor for tensor in shapes if spec.TIED_EMBEDDINGS or "embed_tokens" not in tensor]
    weight_bytes = 2 * sum(int(np.prod(shapes[tensor])) for tensor in read)
    library = build(folder)
    bandwidth = Bandwidth(folder, weight_bytes)
    rows: list[Row] = []
    for threads in thread_counts:
        decoder = NativeDecoder(model_dir, kv_pages=33 * (1024 // 16), threads=threads, library=library)
        rows += measure_decoder(decoder, f"{label}/{threads}-thread", threads, bandwidth, rounds, weight_bytes)
        decoder.close()
    bandwidth.close()
    return rows


def measure_decoder(
    decoder: NativeDecoder, label: str, threads: int, bandwidth: Bandwidth, rounds: int, weight_bytes: int
) -> list[Row]:
    products = sum(int(np.prod(shape)) for shape in expected_shapes().values() if len(shape) == 2)
    products -= spec.VOCAB_SIZE * spec.HIDDEN_SIZE * (1 if spec.TIED_EMBEDDINGS else 2)  # one row of a prompt uses it
    torch.set_num_threads(threads)
    left = torch.randn(256, spec.HIDDEN_SIZE)
    right = torch.randn(spec.INTERMEDIATE_SIZE, spec.HIDDEN_SIZE)
    flops = 2 * left.shape[0] * right.numel()
    steps = {f"{count}-rows": batch(count) for count in (1, 2, 4, 8, 16, 32)}
    steps["17-verified"] = verification(17)
    steps["prompt-256"] = prompt(256)
    times: dict[str, list[float]] = {step: [] for step in steps}
    bounds: list[float] = []
    rates: list[float] = []
    costs: dict[int, list[float]] = {1: [], 16: []}
    for number in range(rounds):
        before = bandwidth.measure(threads, PASSES)
        times["1-rows"].append(best(lambda: decoder.forward(steps["1-rows"]), PASSES, threads))
        bounds.append(weight_bytes / max(before, bandwidth.measure(threads, PASSES)))
        reference = best(lambda: torch.nn.functional.linear(left, right), 20, threads)
        times["prompt-256"].append(best(lambda: decoder.forward(steps["prompt-256"]), 3, threads))
        reference = min(reference, best(lambda: torch.nn.functional.linear(left, right), 20, threads))
        rates.append((2 * 256 * products / times["prompt-256"][-1]) / (flops / reference))
        for step in steps.keys() - {"1-rows", "prompt-256"}:
            times[step].append(best(lambda segments=steps[step]: decoder.forward(segments), 4, threads))
        for count, found in costs.items():
            one = steps[f"{count}-rows"]
            plain = best(lambda one=one: decoder.forward(one), PASSES // 2, threads)
            asked = best(lambda one=one: with_logprobs(decoder, one), PASSES, threads)
            found.append(asked / min(plain, best(lambda one=one: decoder.forward(one), PASSES // 2, threads)))
        print(
            f"{label} round {number + 1}/{rounds}: bound {bounds[-1] * 1e3:.2f} ms, "
            f"step {times['1-rows'][-1] * 1e3:.2f} ms, "
            f"ratio {times['1-rows'][-1] / bounds[-1]:.3f}, prompt at {rates[-1]:.2f} of PyTorch's rate",
            flush=True,
        )
    prefix = f"run/decode-step/{label}"
    ratios = [step / bound for step, bound in zip(times["1-rows"], bounds, strict=True)]
    note = f"{weight_bytes} bytes of weights; least time to read them {min(bounds) * 1e3:.2f} ms"
    return [
        median_row(f"{prefix}/vs-bandwidth", "ratio", "lower", ratios, WITHIN if threads == 1 else None, note),
        median_row(f"{prefix}/prompt-vs-torch-fp32", "ratio", "higher", rates, None, "products of the layers only"),
        *(
            median_row(f"{prefix}/logprobs-{count}-rows", "ratio", "lower", values, None, "against a step without")
            for count, values in costs.items()
        ),
        *(
            median_row(
                f"{prefix}/{step}", "ms", "lower", [t * 1e3 for t in values], None, f"least {min(values) * 1e3:.2f} ms"
            )
            for step, values in times.items()
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="A decode step against what bounds it.")
    parser.add_argument("--model", action="append", help="checkpoint folder, 52m or 500m; repeatable")
    parser.add_argument("--threads", action="append", type=int, help="number of threads; repeatable; default 1 and 2")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in arguments.model or list(MODELS):
                record = Bench("decode_step", name if name in MODELS else "other")
                record.add(
                    *measure(Path(name).name, locate(name), arguments.threads or (1, 2), arguments.rounds, Path(folder))
                )
    except (ModelError, BuildError, CheckpointError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
