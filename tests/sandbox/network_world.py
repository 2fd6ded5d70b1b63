"""A network namespace with what a cluster's network offers, in which the battery's network attempts are run.

    unshare -n python network_world.py ISOLATION ATTEMPT…

On `lo` lie a cloud's metadata address, an API server, a name service and a host of another network; each answers everybody.
Prints one JSON object: attempt → what it came to in the sandbox, and (the control) in one that shares the network, or for
`pod`, which does, without its walls.
"""

import json
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import battery

from sartor_agents.run.sandbox.command import CommandSandbox, Isolation
from sartor_agents.run.sandbox.limits import Limits

STREAMS = (("169.254.169.254", 80), ("10.96.0.1", 443), ("203.0.113.7", 8443), ("127.0.0.1", 8000))
DATAGRAMS = ("10.96.0.10", 53)


def serve(listener: socket.socket, answer: bytes) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(answer)


def answer_datagrams(receiver: socket.socket, answer: bytes) -> None:
    while True:
        receiver.sendto(answer, receiver.recvfrom(100)[1])


def main(isolation: Isolation, attempts: list[str]) -> int:
    subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
    for host in {host for host, _ in (*STREAMS, DATAGRAMS)} - {"127.0.0.1"}:
        subprocess.run(("ip", "address", "add", f"{host}/32", "dev", "lo"), check=True)
    token = secrets.token_hex(8)
    listeners = [socket.create_server(address) for address in STREAMS]
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0sartor-battery")
    abstract.listen()
    for listener in (*listeners, abstract):
        threading.Thread(target=serve, args=(listener, token.encode()), daemon=True).start()
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(DATAGRAMS)
    threading.Thread(target=answer_datagrams, args=(receiver, token.encode()), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "worktree").mkdir()
        (Path(folder) / "scratch").mkdir()
        limits = Limits(memory_bytes=1 << 30)
        sandbox = CommandSandbox(Path(folder) / "worktree", Path(folder) / "scratch", limits, isolation)
        found: dict[str, list[str]] = {}
        for name in attempts:
            inside = battery.inside(sandbox, name, {})
            with battery.without("--unshare-net"):
                pod = isolation is Isolation.POD
                control = battery.outside(name, {}) if pod else battery.inside(sandbox, name, {})
            found[name] = [inside.text, control.text]
    print(json.dumps({"token": token, "found": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Isolation(sys.argv[1]), sys.argv[2:]))
