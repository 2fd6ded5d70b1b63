"""Which serving certificates are approved. Every refusal has its sentence."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sartor_devcluster.api import ApiError
from sartor_devcluster.approver import SIGNER, decided, handle, judge, node_addresses, pending

KEY = ec.generate_private_key(ec.SECP256R1())
ADDRESSES = {"mac-1", "10.240.0.7"}
GOOD_NAMES: tuple[x509.GeneralName, ...] = (x509.DNSName("mac-1"), x509.IPAddress(ip_address("10.240.0.7")))
USAGES = ["digital signature", "server auth"]


def pem(
    names: Sequence[x509.GeneralName] = GOOD_NAMES,
    user: str = "system:node:mac-1",
    groups: Sequence[str] = ("system:nodes",),
) -> bytes:
    subject = [
        *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
        x509.NameAttribute(NameOID.COMMON_NAME, user),
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def request(csr: bytes | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "csr-1"},
        "spec": {
            "signerName": SIGNER,
            "username": "system:node:mac-1",
            "groups": ["system:nodes", "system:authenticated"],
            "usages": USAGES,
            "request": base64.b64encode(csr or pem()).decode(),
            **spec,
        },
    }


def test_a_nodes_own_addresses_are_approved() -> None:
    assert judge(request(), ADDRESSES).verdict == "approve"
    assert judge(request(pem([x509.IPAddress(ip_address("10.240.0.7"))])), ADDRESSES).verdict == "approve"


@pytest.mark.parametrize("addresses", [None, set[str]()])
def test_a_node_without_addresses_has_to_wait(addresses: set[str] | None) -> None:
    judgement = judge(request(), addresses)
    assert (judgement.verdict, judgement.reason) == ("wait", "Node mac-1 has no addresses yet")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (request(username="alice"), "only a node may ask"),
        (request(groups=["system:authenticated"]), "only a node may ask"),
        (request(usages=["client auth", "server auth"]), "usages must be server auth"),
        (request(usages=["digital signature"]), "usages must be server auth"),
        (request(pem(user="system:node:other")), "the subject must be CN=system:node:mac-1, O=system:nodes"),
        (request(pem(groups=("system:nodes", "system:masters"))), "the subject must be CN=system:node:mac-1"),
        (request(pem(groups=())), "the subject must be CN=system:node:mac-1"),
        (request(pem([x509.IPAddress(ip_address("10.96.0.1"))])), "10.96.0.1: not among the addresses of Node mac-1"),
        (request(pem([*GOOD_NAMES, x509.DNSName("kubernetes")])), "kubernetes: not among the addresses"),
        (request(pem([x509.RFC822Name("a@b.c")])), "RFC822Name: only DNS names and IP addresses"),
        (request(pem([])), "needs at least one DNS name or IP address"),
        (request(b"-----BEGIN NOTHING-----"), "spec.request is no PEM certificate request"),
    ],
)
def test_everything_else_is_denied(asked: dict[str, Any], reason: str) -> None:
    judgement = judge(asked, ADDRESSES)
    assert judgement.verdict == "deny"
    assert reason in judgement.reason


def test_only_undecided_requests_of_this_signer_are_looked_at() -> None:
    assert pending(request())
    assert not pending(request(signerName="kubernetes.io/kube-apiserver-client-kubelet"))
    for kind in ("Approved", "Denied"):
        assert not pending({**request(), "status": {"conditions": [{"type": kind}]}})
    assert pending({**request(), "status": {"conditions": [{"type": "Failed"}]}})


class FakeApi:
    """Records what is put; answers for one Node."""

    def __init__(self, node: dict[str, Any] | ApiError, put: ApiError | None = None) -> None:
        self.node, self.fails, self.put = node, put, list[tuple[str, dict[str, Any]]]()

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self.node if method == "GET" else self.fails or {}
        if isinstance(answer, ApiError):
            raise answer
        if method == "PUT":
            self.put.append((path, body))
        return answer


NODE = {"status": {"addresses": [{"address": "mac-1"}, {"address": "10.240.0.7"}]}}


def run(api: FakeApi, asked: dict[str, Any]) -> tuple[bool, list[str]]:
    said: list[str] = []
    return handle(api, asked, datetime(2026, 3, 1, tzinfo=UTC), said.append), said  # pyright: ignore[reportArgumentType]


def test_the_decision_is_written_as_a_condition() -> None:
    api = FakeApi(NODE)
    assert run(api, request()) == (True, ["csr-1: approve: every name is an address of Node mac-1"])
    ((path, body),) = api.put
    assert path == "/apis/certificates.k8s.io/v1/certificatesigningrequests/csr-1/approval"
    assert body["status"]["conditions"] == [
        {
            "type": "Approved",
            "status": "True",
            "reason": "AddressesOfNode",
            "message": "every name is an address of Node mac-1",
            "lastUpdateTime": "2026-03-01T00:00:00Z",
        }
    ]


def test_conditions_of_others_are_kept() -> None:
    failed = {"type": "Failed", "status": "True"}
    asked = {**request(username="alice"), "status": {"conditions": [failed]}}
    made = decided(asked, judge(asked, ADDRESSES), datetime(2026, 3, 1, tzinfo=UTC))
    assert [c["type"] for c in made["status"]["conditions"]] == ["Failed", "Denied"]


def test_a_missing_node_waits_and_writes_nothing() -> None:
    api = FakeApi(ApiError(404, "no such node"))
    assert run(api, request())[0] is False
    assert api.put == []


@pytest.mark.parametrize("status", [404, 409])
def test_what_somebody_else_has_decided_or_removed_stays(status: int) -> None:
    assert run(FakeApi(NODE, put=ApiError(status, "changed")), request())[0] is True


def test_other_answers_are_errors() -> None:
    with pytest.raises(ApiError, match="403"):
        run(FakeApi(NODE, put=ApiError(403, "forbidden")), request())
    with pytest.raises(ApiError, match="500"):
        run(FakeApi(ApiError(500, "broken")), request())


def test_addresses_are_compared_in_one_spelling() -> None:
    spelled = {"status": {"addresses": [{"address": "FD00:0:0::7"}, {"address": "Mac-1"}]}}
    assert node_addresses(FakeApi(spelled), "mac-1") == {"fd00::7", "Mac-1"}  # pyright: ignore[reportArgumentType]
