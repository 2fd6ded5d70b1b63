"""What a cluster's network may offer beyond its pods, in the namespace of a devcluster: `python prison_network.py`.

A cloud's metadata address, a host of another network, a server on the node itself, an abstract socket: each answers
everybody. Says `ready`, and ends with its standard input.
"""

import socket
import subprocess
import sys
import threading

STREAMS = (("169.254.169.254", 80), ("203.0.113.7", 8443), ("127.0.0.1", 8000))


def serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"hello")


def main() -> int:
    for host in sorted({host for host, _ in STREAMS} - {"127.0.0.1"}):
        subprocess.run(("ip", "address", "replace", f"{host}/32", "dev", "lo"), check=True)
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0sartor-battery")
    abstract.listen()
    for listener in (abstract, *map(socket.create_server, STREAMS)):
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    for host in sorted({host for host, _ in STREAMS} - {"127.0.0.1"}):
        subprocess.run(("ip", "address", "del", f"{host}/32", "dev", "lo"), check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
