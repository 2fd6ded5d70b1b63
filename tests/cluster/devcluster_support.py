"""What the tests of the development cluster share: waiting, processes of a namespace, a node agent's side of joining."""

import base64
import json
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sartor_devcluster import Cluster

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
