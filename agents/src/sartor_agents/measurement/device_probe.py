"""Bandwidth and matrix rate of the CUDA device that this process sees, timed with PyTorch in about a second.

    python -m sartor_agents.measurement.device_probe        # one line of JSON

A process of its own for planners: a CUDA context takes memory as long as its process lives. PyTorch alone is needed.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

REPEATS = 20
_TRIALS = 9
_HALF = 1 << 31  # elements of what is read: far more than any second-level cache holds


def seconds_of(run: Callable[[int], object], device: torch.device) -> list[float]:
    """Seconds of one call of `run(i)`, several trials: `REPEATS` calls with i = 0 … recorded as one graph, so that the host
    is not what is measured.

    On a processor (dry runs) one call by the clock.
    """
    if device.type == "cpu":
        begun = time.perf_counter()
        run(0)
        return [time.perf_counter() - begun]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for index in range(REPEATS):
            run(index)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(REPEATS):
            run(index)
    found: list[float] = []
    for _ in range(_TRIALS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize(device)
        found.append(begin.elapsed_time(end) / 1000 / REPEATS)
    return found


def device_rates(device: torch.device) -> dict[str, Any]:
    """Bytes a second read (a sum over 4 GiB, less on a small device; the best of several ways, since a sum need not be bound
    by the memory) and written back (a copy), bfloat16 operations a second (8192³), and the seconds of a launch."""
    free = torch.cuda.mem_get_info(device)[0]
    elements = min(_HALF, free // 8 // 1024 * 1024)
    half = torch.empty(elements, dtype=torch.bfloat16, device=device).normal_()
    other = torch.empty_like(half)
    whole = half.view(torch.float32)  # the same bytes: half as many numbers to be added
    read = [
        *seconds_of(lambda _, source=half: source.view(1024, -1).sum(1, dtype=torch.float32), device),
        *seconds_of(lambda _, source=whole: source.view(1024, -1).sum(1), device),
    ]
    copied = seconds_of(lambda _, source=half, target=other: target.copy_(source), device)
    del half, whole, other
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device=device) for _ in range(2))
    product = seconds_of(lambda _: a @ b, device)
    one = torch.zeros(1, device=device)
    launch = seconds_of(lambda _: one.add_(1), device)
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": list(torch.cuda.get_device_capability(device)),
        "memory_bytes": properties.total_memory,
        "processors": properties.multi_processor_count,
        "uuid": str(getattr(properties, "uuid", "")),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "read_bytes_per_second": max(2 * elements / min(read), 4 * elements / min(copied)),
        "copy_bytes_per_second": 4 * elements / min(copied),
        "bfloat16_flops": 2 * 8192**3 / min(product),
        "launch_seconds": statistics.median(launch),
    }


def main() -> int:
    if not torch.cuda.is_available():
        sys.stderr.write(f"error: PyTorch {torch.__version__} sees no CUDA device here\n")
        return 1
    sys.stdout.write(json.dumps(device_rates(torch.device("cuda"))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
