"""Who else talked to a server while it was measured, as the kernel counts it.

A server that has to answer others is slower for us, and neither its CPU time nor its own counters tell their requests from
ours: vLLM leaves `/metrics` and `/health` out of its count, and a thousand such requests in one write cost their sender next
to nothing. The kernel knows the bytes of every connection. Linux lists its TCP sockets over netlink (sock_diag(7), with
`struct tcp_info` of linux/tcp.h); connections to the server's port that are not ours are looked at now and then while a
window runs, at moments drawn by lot so that nobody can be quiet in time. What a connection carried between two looks and
after the last one before it was reset is not seen: the bytes are a lower bound.

Only a server in our own network namespace can be watched. Elsewhere (another pod) nothing is known and nothing is said;
there a NetworkPolicy has to keep others away.
"""

import ipaddress
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from .contention import tree_pids

MEAN_PAUSE = 0.2
"""Seconds between two looks, on average (half to three halves of it). A look costs well under a millisecond."""

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_DONE, _ERROR = 3, 2
_WITH_INFO = 1 << (2 - 1)  # INET_DIAG_INFO
_STATES = sum(1 << state for state in (1, 4, 5, 8, 9, 11))  # those that still have bytes: not LISTEN, not TIME_WAIT
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBBI48s")  # struct inet_diag_req_v2
_MESSAGE = struct.Struct("=BBBB2s2s16s16sIIIIIIII")  # struct inet_diag_msg; ports are big-endian
_ATTRIBUTE = struct.Struct("=HH")
_BYTES = struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received
_BYTES_AT = 120


class Socket(NamedTuple):
    """One TCP socket of this network namespace. Bytes since it was opened."""

    port: int
    peer: int
    inode: int
    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class ForeignTraffic:
    """What others exchanged with the server in `seconds`. `senders`: arms whose processes own such a connection."""

    seconds: float
    received: int = 0
    sent: int = 0
    connections: int = 0
    senders: frozenset[str] = frozenset()

    def __str__(self) -> str:
        rate = max(self.seconds, 1e-9)
        return (
            f"{self.connections} connections that are not ours sent it {self.received / rate:,.0f} and got "
            f"{self.sent / rate:,.0f} bytes a second"
        )


def sockets() -> list[Socket]:
    """All connected TCP sockets of this network namespace. Raises `OSError` where the system does not tell."""
    found: list[Socket] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            body = _REQUEST.pack(family, socket.IPPROTO_TCP, _WITH_INFO, 0, _STATES, b"")
            netlink.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + body)
            while _take(netlink.recv(1 << 18), found):
                pass
    return found


def _take(data: bytes, found: list[Socket]) -> bool:
    """Add the sockets of one datagram; whether more follows."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if kind == _DONE:
            return False
        if kind == _ERROR:
            raise OSError("the kernel refused to list TCP sockets")
        if (one := _socket(data[at + _HEADER.size : at + length])) is not None:
            found.append(one)
        at += (length + 3) & ~3
    return True


def _socket(message: bytes) -> Socket | None:
    """A socket with its bytes; None for one that has none any more (TIME_WAIT)."""
    fields = _MESSAGE.unpack_from(message)
    port, peer, inode = int.from_bytes(fields[4]), int.from_bytes(fields[5]), fields[-1]
    at = _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == 2 and length >= _ATTRIBUTE.size + _BYTES_AT + _BYTES.size:
            sent, received = _BYTES.unpack_from(message, at + _ATTRIBUTE.size + _BYTES_AT)
            return Socket(port, peer, inode, sent, received)
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return None


class TrafficWatch:
    """Watches one server within a `with`; `seen` afterwards says what was there, None where it cannot be watched.

    `ours`: local ports of our own connections, closed ones included. `arms` are the roots of the servers' process trees: one
    of theirs that sends is named.
    """

    def __init__(
        self,
        url: str,
        ours: Collection[int],
        arms: Mapping[str, int],
        *,
        look: Callable[[], list[Socket]] = sockets,
        pause: float = MEAN_PAUSE,
    ) -> None:
        self.seen: ForeignTraffic | None = None
        self._port = local_port(url)
        self._ours, self._arms, self._look, self._pause = ours, arms, look, pause
        self._last: dict[int, Socket] = {}
        self._active = set[int]()
        self.senders = set[str]()
        self._received = self._sent = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin to look, in a thread of its own."""
        self._begun = time.monotonic()
        if self._port is None:
            return self
        try:
            self._last = {one.peer: one for one, _ in self._strangers()}
        except OSError:  # this system does not tell
            return self
        self._thread = threading.Thread(target=self._watch, name="foreign-traffic", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        self._note()
        self.seen = ForeignTraffic(
            time.monotonic() - self._begun, self._received, self._sent, len(self._active), frozenset(self.senders)
        )

    def _note(self) -> None:
        """One look: what was added since the last one."""
        for one, client in self._strangers():
            before = self._last.get(one.peer)
            self._last[one.peer] = one
            if before is None or one.received < before.received:  # a new connection, maybe from a port used before
                before = one._replace(sent=0, received=0)
            if one.received == before.received:  # one that is kept open and says nothing troubles nobody
                continue
            self._received += one.received - before.received
            self._sent += one.sent - before.sent
            if one.peer not in self._active and client is not None:
                self.senders.update(filter(None, [owning_arm(client.inode, self._arms)]))
            self._active.add(one.peer)

    def _strangers(self) -> Iterator[tuple[Socket, Socket | None]]:
        """Connections of others: the server's socket, and the client's where it is on this machine too."""
        seen = self._look()
        clients = {one.port: one for one in seen if one.peer == self._port}
        for one in seen:
            if one.port == self._port and one.peer not in self._ours:
                yield one, clients.get(one.peer)

    def _watch(self) -> None:
        while not self._over.wait(self._pause * random.uniform(0.5, 1.5)):
            self._note()


def local_port(url: str) -> int | None:
    """The port of a server on this machine's loopback; None for any other."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    return (parts.port or 80) if here else None


def owning_arm(inode: int, arms: Mapping[str, int]) -> str | None:
    """The arm one of whose processes holds the socket with this inode; None if none does, or we may not look."""
    wanted = f"socket:[{inode}]"
    for arm, root in arms.items():
        for pid in tree_pids([root]):
            try:
                descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
            except OSError:
                continue
            for descriptor in descriptors:
                try:
                    if str(descriptor.readlink()) == wanted:
                        return arm
                except OSError:
                    continue
    return None
