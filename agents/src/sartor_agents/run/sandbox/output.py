"""What is kept of a command's output: its beginning and its end."""

import threading
from collections import deque


class Output:
    """Collects bytes from a thread; holds at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._lock = threading.Lock()
        self.total = 0

    def add(self, data: bytes) -> None:
        with self._lock:
            self.total += len(data)
            room = self._half - len(self._head)
            self._head += data[: max(0, room)]
            if rest := data[max(0, room) :]:
                self._tail.append(rest)
                self._tail_bytes += len(rest)
            while self._tail and self._tail_bytes - len(self._tail[0]) >= self._half:
                self._tail_bytes -= len(self._tail.popleft())

    def text(self) -> str:
        """As text, with a line that says how much is missing in the middle."""
        with self._lock:
            tail = b"".join(self._tail)[-self._half :]
            missing = self.total - len(self._head) - len(tail)
            parts = [self._head.decode(errors="replace")]
            if missing:
                parts.append(f"\n[… {missing} bytes left out …]\n")
            parts.append(tail.decode(errors="replace"))
        return "".join(parts)
