"""How two servers and the judge's reference share one device. All sizes in bytes.

Both arms hold the weights at once, since their windows are interleaved: 2 · 61 GiB for 32 billion parameters in bfloat16
leave little of 139 GiB, and nothing of 80. What each may have besides is therefore counted in advance: the stack takes pages
for its concurrency and no more, vLLM a share of the device that is given to it (`--gpu-memory-utilization`).
"""

from dataclasses import dataclass

from benchmarks.gpu.plan import CannotRunError
from sartor_agents.judge.reference_device import ROOM

WORKSPACE = 3 << 30
"""What a server takes besides weights and cache: context, workspaces of products, recorded graphs."""
CACHE_ROOM = 1.25
"""vLLM keeps its cache in blocks and wants some to spare."""


@dataclass(frozen=True)
class Shares:
    """`utilization` is vLLM's share of the device. `judged_alone`: the reference fits beside one server only."""

    stack: int
    baseline: int
    utilization: float
    judged_alone: bool


class TooSmallError(CannotRunError):
    """The device cannot hold both arms; the message has the sizes."""


def shares(total: int, weights: int, cache: int, logits: int) -> Shares:
    """`cache`: keys and values of all sequences of the workload at once; `logits`: what the stack's largest step writes.

    Raises `TooSmallError`.
    """
    stack = weights + cache + logits + WORKSPACE
    baseline = int(weights + CACHE_ROOM * cache + logits + WORKSPACE)
    if stack + baseline > total:
        raise TooSmallError(
            f"both arms need {gib(stack)} and {gib(baseline)} at the same time, and the device has {gib(total)}: "
            "a smaller model, a lower concurrency, or a larger device"
        )
    # Rounded up: a share that is a little too small is refused by vLLM after minutes of loading.
    utilization = -(-1000 * baseline // total) / 1000
    return Shares(stack, baseline, utilization, stack + baseline + weights + ROOM > total)


def gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
