"""Steps under way: one at a time in the caller's thread, or several side by side in threads of their own.

What a step raises is raised where its end is asked for. A step's processes live under guard (`process`), so when this
process ends in any way they end, too.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Done(Generic[T]):
    name: str
    result: T | None
    error: BaseException | None


class Workers(Generic[T]):
    """Works on named pieces. With `side_by_side` false a piece is done when `begin` returns."""

    def __init__(self, *, side_by_side: bool) -> None:
        self._side_by_side = side_by_side
        self._done: queue.Queue[_Done[T]] = queue.Queue()
        self._busy: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._busy

    def __bool__(self) -> bool:
        """Whether a piece was begun whose end nobody has asked for."""
        return bool(self._busy)

    def begin(self, name: str, work: Callable[[], T]) -> None:
        """Start a piece. Without threads its exceptions are raised here."""
        self._busy.add(name)
        if not self._side_by_side:
            self._done.put(_Done(name, work(), None))
            return
        threading.Thread(target=self._carry_out, args=(name, work), name=name, daemon=True).start()

    def _carry_out(self, name: str, work: Callable[[], T]) -> None:
        try:
            self._done.put(_Done(name, work(), None))
        except BaseException as error:  # noqa: BLE001 - raised again by `next`
            self._done.put(_Done(name, None, error))

    def next(self, seconds: float | None = None) -> T | None:
        """The result of the piece that ends next, or None after `seconds`. Raises what the piece raised."""
        try:
            done = self._done.get(timeout=seconds)
        except queue.Empty:
            return None
        self._busy.discard(done.name)
        if done.error is not None:
            raise done.error
        return done.result
