"""How a command and the supervisor speak: one request and one answer, each a JSON object in one packet, over a Unix socket.

A request may carry a listening socket: the supervisor cannot make sockets of the host's network any more, but it can serve
one that the host hands in.
"""

import json
import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sartor_devcluster.errors import DevclusterError, NotRunningError

PACKET_BYTES = 1 << 16
ANSWER_SECONDS = 60.0
"""Longer than the slowest request, stopping a component that does not want to end."""


@contextmanager
def short_address(path: Path) -> Generator[str]:
    """An address for `path` whatever its length (sun_path holds 107 bytes): through an open folder of its own."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen(path: Path) -> socket.socket:
    """The supervisor's listening socket, for its owner only (the folder is private). Replaces a dead one's."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path.unlink(missing_ok=True)
    with short_address(path) as address:
        listener.bind(address)
    listener.listen(16)
    listener.setblocking(False)
    return listener


def ask(
    path: Path,
    operation: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    hand_over: socket.socket | None = None,
    seconds: float = ANSWER_SECONDS,
) -> dict[str, Any]:
    """Send one request and return the answer.

    Raises `NotRunningError` where nobody serves the socket, `DevclusterError` for a refusal or no answer in `seconds`.
    """
    packet = json.dumps({"operation": operation, **(arguments or {})}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(seconds)
        try:
            with short_address(path) as address:
                client.connect(address)
            socket.send_fds(client, [packet], [hand_over.fileno()] if hand_over is not None else [])
            answer = client.recv(PACKET_BYTES)
        except TimeoutError as error:
            raise DevclusterError(
                f"cluster {path.parent.name} did not answer {operation} in {seconds:.0f} s"
            ) from error
        except OSError as error:
            raise NotRunningError(
                f"cluster {path.parent.name} is not running; start it with `sartor-devcluster up --name {path.parent.name}`"
            ) from error
    if not answer:
        raise NotRunningError(f"cluster {path.parent.name} ended while it was asked for {operation}")
    content = cast(dict[str, Any], json.loads(answer))
    if (refusal := content.pop("error", None)) is not None:
        raise DevclusterError(str(refusal))
    return content


def parse(packet: bytes) -> dict[str, Any]:
    """A request. Raises `ValueError` for anything but an object with an operation."""
    content = json.loads(packet)
    if not isinstance(content, dict) or not isinstance(cast(dict[str, Any], content).get("operation"), str):
        raise ValueError("a request is an object with an operation")
    return cast(dict[str, Any], content)
