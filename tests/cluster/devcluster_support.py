"""What the tests of the development cluster share: waiting, processes of a namespace, a node agent's side of joining, and
Services with servers behind them."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sartor_devcluster import Cluster, DevCluster

WAIT_SECONDS = 60.0
T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T | None], seconds: float = WAIT_SECONDS) -> T:
    """The first result that is not None or False. Fails, naming `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not seen in {seconds:.0f} s")
        time.sleep(0.1)


def get(cluster: Cluster, *arguments: str) -> Any:
    """`kubectl get … -o json`; None where there is no such object."""
    done = cluster.kubectl("get", *arguments, "-o", "json", "--ignore-not-found")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def apply(cluster: Cluster, *objects: dict[str, Any]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    cluster.kubectl("apply", "--server-side", "-f", "-", input=text, check=True)


def configmap(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", **metadata}}


def node(name: str, address: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Node and the status that makes the scheduler take it."""
    resources = {"cpu": "8", "memory": "16Gi", "pods": "110"}
    status = {
        "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
        "capacity": resources,
        "allocatable": resources,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": "pretended"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}, {"status": status}


def put_status(cluster: Cluster, path: str, manifest: dict[str, Any]) -> None:
    """Replace an object's status as a node agent does: with one request (`kubectl patch` reads first, nodes may not)."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "resourceVersion"}
    text = json.dumps({**manifest, "metadata": metadata})  # whatever version: controllers write to it too
    cluster.kubectl("replace", "--raw", f"{path}/status", "-f", "-", input=text, check=True)


def add_node(cluster: Cluster, name: str, address: str) -> None:
    """Register a Node that is Ready and have the controllers take their taint off it."""
    manifest, status = node(name, address)
    apply(cluster, manifest)
    put_status(cluster, f"/api/v1/nodes/{name}", {**get(cluster, "node", name), **status})
    wait_for("Node without taints", lambda: not get(cluster, "node", name)["spec"].get("taints"))


def network_of(pid: int) -> str:
    """The name of a process's network namespace."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def in_network(wanted: str) -> set[int]:
    """Every process of the machine in that network namespace. Zombies are in none."""
    found: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str((folder / "ns" / "net").readlink()) == wanted:
                found.add(int(folder.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


class NodeKey:
    """A node agent's key: certificate requests by the Kubernetes API."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.key = ec.generate_private_key(ec.SECP256R1())

    def pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def request(self, name: str, signer: str, usages: Sequence[str], addresses: Sequence[str] = ()) -> dict[str, Any]:
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{self.node}"),
            ]
        )
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        if addresses:
            names = [x509.IPAddress(ip_address(address)) for address in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        csr = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {"signerName": signer, "request": base64.b64encode(csr).decode(), "usages": list(usages)},
        }


def signed(cluster: Cluster, name: str) -> bytes:
    """The certificate of a request, when it is there."""

    def look() -> bytes | None:
        status = get(cluster, "csr", name).get("status", {})
        assert not [c for c in status.get("conditions", []) if c["type"] in ("Denied", "Failed")], status
        return base64.b64decode(status["certificate"]) if "certificate" in status else None

    return wait_for(f"certificate of {name}", look)


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{sys.argv[1]} for {self.client_address[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer((sys.argv[1], 8080), Handler)
print("serving", flush=True)
server.serve_forever()
"""
ASK = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=float(sys.argv[2])).read().decode())
except urllib.error.URLError as error:
    print(f"{type(error.reason).__name__}: {error.reason}")
"""
RESOLVE = """
import socket, struct, sys
server, name = sys.argv[1], sys.argv[2]
labels = b"".join(bytes([len(part)]) + part.encode() for part in name.rstrip(".").split(".")) + b"\\0"
query = struct.pack(">6H", 4711, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">2H", 1, 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(5)
    asking.connect((server, 53))
    asking.send(query)
    answer = asking.recv(4096)
identifier, flags, _, answers, _, _ = struct.unpack(">6H", answer[:12])
assert identifier == 4711
addresses = sorted(socket.inet_ntoa(answer[at : at + 4]) for at in _ends(answer, answers, 12 + len(labels) + 4))
print(f"{flags & 15} {' '.join(addresses)}".strip())
"""
ENDS = """
def _ends(answer, count, at):
    for _ in range(count):
        while answer[at] and answer[at] < 192:
            at += 1 + answer[at]
        at += 2 if answer[at] >= 192 else 1
        kind, length = struct.unpack(">H", answer[at : at + 2])[0], struct.unpack(">H", answer[at + 8 : at + 10])[0]
        if kind == 1:
            yield at + 10
        at += 10 + length
"""


def need(cluster: DevCluster, *names: str) -> None:
    """Skip, with the cluster's own reason, where it does without one of these components."""
    for name in names:
        if (reason := cluster.status().absent(name)) is not None:
            pytest.skip(f"without {name}: {reason}")


def inside(cluster: DevCluster, program: str, *arguments: str) -> str:
    """What a Python program prints that runs in the cluster's namespace, without its last newline."""
    command = cluster.enter([sys.executable, "-c", program, *arguments])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def ask(cluster: DevCluster, url: str, seconds: float = 5.0) -> str:
    return inside(cluster, ASK, url, str(seconds))


def resolve(cluster: DevCluster, name: str, server: str = "10.96.0.10") -> str:
    """Answer code (0: no error, 3: no such name) and addresses of a name."""
    return inside(cluster, ENDS + RESOLVE, server, name)


@contextmanager
def servers(cluster: DevCluster, *addresses: str) -> Generator[None]:
    """An HTTP server at port 8080 of each address, which tells its address and its client's."""
    started: list[subprocess.Popen[str]] = []
    try:
        for address in addresses:
            command = cluster.enter([sys.executable, "-c", SERVER, address])
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports, **spec}}


def endpoints(name: str, addresses: dict[str, bool], *, node: str | None = None) -> dict[str, Any]:
    """The EndpointSlice of a Service without a selector: address to readiness."""
    on = {"nodeName": node} if node else {}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": {"ready": ready}, **on} for a, ready in addresses.items()],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def address_of(cluster: Cluster, service: str) -> str:
    """The ClusterIP of a Service in the default namespace."""
    return str(get(cluster, "service", service)["spec"]["clusterIP"])
