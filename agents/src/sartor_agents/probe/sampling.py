"""Which copies are asked again: a share of them, by the request's own id.

The gateway's `percent` is no help: Contour copies every request whatever it says (docs/rollouts/sources.md).
"""

import hashlib
from collections.abc import Callable


def chosen(request_id: str, share: float, draw: Callable[[], float]) -> bool:
    """Whether a request belongs to `share` (0 to 1). By its id, so that a request that a client repeats under its id is
    always in or always out; by `draw` (uniform in [0, 1)) where it has none."""
    if not request_id:
        return draw() < share
    digest = hashlib.blake2b(request_id.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share
