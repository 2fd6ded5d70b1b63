"""Addresses for pods, out of a range that the machine treats as its own.

Nothing is plumbed per pod: where a whole range is a local route (`ip route add local RANGE dev lo`), a process can bind any
address in it. The address of a pod is kept in the pod's directory, so that it stays the same when the runner restarts.
"""

import errno
import ipaddress
import socket
from collections.abc import Iterable

from sartor_runner.errors import ConfigurationError, RunnerError


class Addresses:
    """Hands out addresses of a range in turn, so that one is not used again right after it was given back."""

    def __init__(self, text: str, taken: Iterable[str] = ()) -> None:
        self._network = ipaddress.ip_network(text)
        self._taken = set(taken)
        self._next = 0
        self._size = self._network.num_addresses
        # The first and last address of an IPv4 range have other meanings; the second is commonly the node's gateway.
        self._first = 2 if self._size > 4 else 0
        self._last = self._size - 2 if self._size > 4 else self._size - 1

    def take(self) -> str:
        """Raises `RunnerError` when all are taken."""
        count = self._last - self._first + 1
        for step in range(count):
            offset = self._first + (self._next + step) % count
            address = str(self._network[offset])
            if address not in self._taken:
                self._taken.add(address)
                self._next = offset - self._first + 1
                return address
        raise RunnerError(f"all {count} pod addresses of {self._network} are taken; give the node a larger range")

    def give_back(self, address: str) -> None:
        self._taken.discard(address)

    def check(self) -> None:
        """Raises `ConfigurationError` when a process here cannot bind an address of the range."""
        address = str(self._network[self._first])
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                raise ConfigurationError(
                    f"no process here can bind an address of {self._network}: make it a local route "
                    f"(ip route add local {self._network} dev lo, or node.local_route = true when the runner is root), "
                    'or set node.pod_addresses = "node"'
                ) from error
