"""Approves the serving certificates that node agents ask for, and no others.

Kubernetes signs `kubernetes.io/kubelet-serving` requests but leaves their approval to whoever runs the cluster, since only
they know which addresses a node may claim. Here a node may claim the addresses in its own Node object.
"""

import argparse
import ipaddress
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from cryptography import x509
from cryptography.x509.oid import NameOID

from sartor_devcluster import addresses as at
from sartor_devcluster.api import Api, ApiError, tls
from sartor_devcluster.components import APPROVER
from sartor_devcluster.layout import Layout
from sartor_devcluster.pki import Pki

SIGNER = "kubernetes.io/kubelet-serving"
PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
WATCH_SECONDS = 240
WAITING_SECONDS = 2
"""Between two looks at a request whose Node does not have its addresses yet."""

RETRY_SECONDS = 1.0
_ALLOWED_USAGES = {"digital signature", "key encipherment", "server auth"}


@dataclass(frozen=True)
class Judgement:
    """What to do with a request; `reason` is a sentence for its condition."""

    verdict: Literal["approve", "deny", "wait"]
    reason: str


def node_of(request: Mapping[str, Any]) -> str | None:
    """The node that sent a request, or None where the sender is no node."""
    spec = request["spec"]
    user = str(spec.get("username", ""))
    if user.startswith("system:node:") and "system:nodes" in spec.get("groups", ()):
        return user.removeprefix("system:node:")
    return None


def judge(request: Mapping[str, Any], node_addresses: Collection[str] | None) -> Judgement:
    """Decide on a pending request. `node_addresses` are those of the sender's Node; None: there is no such Node.

    The rules are the signer's own (Kubernetes documentation, "Certificates and Certificate Signing Requests") and that
    every name in the certificate is one of the Node's.
    """
    node = node_of(request)
    if node is None:
        return Judgement("deny", "only a node may ask for a node's serving certificate")
    usages = set(request["spec"].get("usages", ()))
    if "server auth" not in usages or not usages <= _ALLOWED_USAGES:
        return Judgement("deny", f"usages must be server auth with digital signature or key encipherment, not {usages}")
    try:
        csr = x509.load_pem_x509_csr(b64decode(request["spec"]["request"]))
    except ValueError as error:
        return Judgement("deny", f"spec.request is no PEM certificate request ({error})")
    names = [a.value for a in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [a.value for a in csr.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if names != [f"system:node:{node}"] or groups != ["system:nodes"]:
        return Judgement("deny", f"the subject must be CN=system:node:{node}, O=system:nodes")
    try:
        claimed = claimed_names(csr)
    except ValueError as error:
        return Judgement("deny", str(error))
    if not node_addresses:
        return Judgement("wait", f"Node {node} has no addresses yet")
    if foreign := sorted(claimed - set(node_addresses)):
        return Judgement("deny", f"{', '.join(foreign)}: not among the addresses of Node {node}")
    return Judgement("approve", f"every name is an address of Node {node}")


def claimed_names(csr: x509.CertificateSigningRequest) -> set[str]:
    """The DNS names and IP addresses of a request. Raises `ValueError` for none, and for names of another kind."""
    try:
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = ()
    claimed: set[str] = set()
    for name in names:
        if not isinstance(name, x509.DNSName | x509.IPAddress):
            raise ValueError(f"{type(name).__name__}: only DNS names and IP addresses may be asked for")
        claimed.add(str(name.value))
    if not claimed:
        raise ValueError("a serving certificate needs at least one DNS name or IP address")
    return claimed


def pending(request: Mapping[str, Any]) -> bool:
    """Whether nobody has decided on it yet."""
    decided = {c["type"] for c in request.get("status", {}).get("conditions", ())}
    return request["spec"]["signerName"] == SIGNER and decided.isdisjoint({"Approved", "Denied"})


def decided(request: Mapping[str, Any], judgement: Judgement, now: datetime) -> dict[str, Any]:
    """The request with the condition that carries the judgement out."""
    approve = judgement.verdict == "approve"
    condition = {
        "type": "Approved" if approve else "Denied",
        "status": "True",
        "reason": "AddressesOfNode" if approve else "NotANodesServingCertificate",
        "message": judgement.reason,
        "lastUpdateTime": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    status = {**request.get("status", {}), "conditions": [*request.get("status", {}).get("conditions", ()), condition]}
    return {**request, "status": status}


def node_addresses(api: Api, node: str) -> set[str] | None:
    """The addresses of a Node as written in its status; None if there is no such Node."""
    try:
        found = api.call("GET", f"/api/v1/nodes/{node}")
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    return {_plain(str(a["address"])) for a in found.get("status", {}).get("addresses", ())}


def _plain(address: str) -> str:
    """An IP address in the spelling that certificates give."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def handle(api: Api, request: Mapping[str, Any], now: datetime, say: Callable[[str], None]) -> bool:
    """Decide on one request. False when it has to wait. A conflict means that somebody else decided: theirs stands."""
    if not pending(request):
        return True
    node = node_of(request)
    judgement = judge(request, node_addresses(api, node) if node else None)
    name = str(request["metadata"]["name"])
    say(f"{name}: {judgement.verdict}: {judgement.reason}")
    if judgement.verdict == "wait":
        return False
    try:
        api.call("PUT", f"{PATH}/{name}/approval", decided(request, judgement, now))
    except ApiError as error:
        if error.status not in (404, 409):
            raise
    return True


def watch(api: Api, say: Callable[[str], None]) -> None:
    """Decide on everything that is pending, then on what comes, until the watch ends."""
    query = f"fieldSelector=spec.signerName%3D{SIGNER.replace('/', '%2F')}"
    listed = api.call("GET", f"{PATH}?{query}")
    requests = cast(list[dict[str, Any]], listed["items"])
    served = [handle(api, request, datetime.now(UTC), say) for request in requests]
    seconds = WATCH_SECONDS if all(served) else WAITING_SECONDS
    version = listed["metadata"]["resourceVersion"]
    path = f"{PATH}?{query}&watch=1&resourceVersion={version}&timeoutSeconds={seconds}"
    for event in api.events(path, seconds + 10):
        if event["type"] == "ERROR":  # the version is too old: list again
            return
        if event["type"] == "ADDED" and not handle(api, event["object"], datetime.now(UTC), say):
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the cluster")
    pki = Pki(Layout(parser.parse_args().folder).pki)
    context = tls(pki.certificate("ca"), pki.certificate(APPROVER), pki.key(APPROVER))
    api = Api(at.API_ADDRESS, at.API_PORT, context)

    def say(words: str) -> None:
        sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {words}\n")
        sys.stderr.flush()

    while True:
        try:
            watch(api, say)
        except (OSError, ApiError) as error:  # no API server yet, or none any more
            say(f"trying again in {RETRY_SECONDS:g} s: {error}")
            time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    main()
