"""Steps of fixed sizes, recorded once as CUDA graphs: a step is then one launch instead of a dozen per layer.

Without a CUDA device the same steps run as they are, so that everything but the recording is tested on any machine.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import spec

Results = tuple[Tensor, Tensor, Tensor]
Run = Callable[[], Results]
FEW = 4  # so many sequences or fewer: attention cuts their contexts into more parts
_WARM_UPS = 2  # compiles the kernels and lets cuBLAS choose before anything is recorded


class Size(NamedTuple):
    """What tells recorded steps apart: rows, tiles of the attention kernel, parts that it cuts a context into, sequences."""

    rows: int
    tiles: int
    splits: int
    sequences: int


def buckets() -> list[int]:
    """The numbers of rows that steps are padded to, ascending: `GRAPH_ROWS`, doubled up to 64, then in steps of 64.

    They reach as far as decoding goes: every sequence with its draft, but not beyond 256 rows for the drafts' sake.
    """
    rows = spec.MAX_SEQUENCES
    if spec.SPECULATION != "none":
        rows = max(rows, min(256, spec.MAX_SEQUENCES * (1 + spec.DRAFT_WIDTH)))
    largest = min(rows, spec.STEP_TOKENS)
    sizes = [min(spec.GRAPH_ROWS, spec.STEP_TOKENS)]
    while sizes[-1] < largest:
        last = sizes[-1]
        sizes.append(min(2 * last if last < 64 else last + 64, spec.STEP_TOKENS))
    return sizes


class Graphs:
    """Recorded steps by their size. All share one pool of memory: only the newest results are valid.

    `cuda` is the module `torch.cuda`, or what stands for it.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        # A graph holds addresses: the step itself, and with it the tensors that are not of the pool, has to stay.
        self._recorded: dict[Size, tuple[Any, Results, Run]] = {}
        self._runs: dict[Size, Run] = {}
        self._cuda = cuda
        self._records = device.type == "cuda"
        self._pool = cuda.graph_pool_handle() if self._records else None
        self._beside: Any = cuda.Stream() if self._records else None  # one: cuBLAS keeps a workspace for each

    @property
    def count(self) -> int:
        return len(self._recorded)

    def add(self, size: Size, run: Run) -> None:
        """Record `run`, which reads and writes the same tensors each time. Largest first takes the least memory."""
        if not self._records:
            self._runs[size] = run
            return
        cuda, beside = self._cuda, self._beside
        beside.wait_stream(cuda.current_stream())
        with cuda.stream(beside):
            for _ in range(_WARM_UPS):
                run()
        cuda.current_stream().wait_stream(beside)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, pool=self._pool):
            results = run()
        self._recorded[size] = graph, results, run

    def run(self, size: Size) -> Results:
        """The results of the step of this size over what its tensors hold now."""
        if size in self._runs:
            return self._runs[size]()
        graph, results, _ = self._recorded[size]
        graph.replay()
        return results

    def clear(self) -> None:
        """Forget every step; its memory is free for others."""
        self._recorded.clear()
        self._runs.clear()
