"""The keys and certificates of a cluster (EC P-256), as a normal cluster has them: three authorities that do not vouch for
each other, one identity per client.

- `ca` vouches for the API server, for its clients and, through certificate signing requests, for node agents;
- `front-proxy-ca` for the API server towards aggregated API servers;
- `etcd-ca` for who may speak with etcd, so that no other certificate of the cluster opens its store.
"""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sartor_devcluster.addresses import API_ADDRESS, CLUSTER_DOMAIN, HOST, KUBERNETES_SERVICE

VALID = timedelta(days=365)
SKEW = timedelta(hours=1)
"""Certificates are valid from a little before now: the clocks of machines differ."""

ADMIN = ("sartor-devcluster-admin", ("system:masters",))
KUBELET_CLIENT = "kube-apiserver-kubelet-client"
"""Who the API server is towards node agents (logs, exec)."""

APPROVER_USER = "system:sartor:kubelet-serving-approver"
DNS_USER = "system:sartor:coredns"
CONTOUR_USER = "system:sartor:contour"

CLIENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "admin": ADMIN,
    "kube-controller-manager": ("system:kube-controller-manager", ()),
    "kube-scheduler": ("system:kube-scheduler", ()),
    "kube-proxy": ("system:kube-proxy", ()),
    "coredns": (DNS_USER, ()),
    "contour": (CONTOUR_USER, ()),
    "kubelet-serving-approver": (APPROVER_USER, ()),
    "apiserver-kubelet-client": (KUBELET_CLIENT, ()),
}
"""User and groups of each client of the cluster, by the name of its files."""

_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @staticmethod
    def make(name: str, now: datetime) -> "Authority":
        """A new self-signed authority. `now` is aware of its time zone."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(subject, subject, key.public_key(), now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return Authority(certificate, key)

    @staticmethod
    def load(certificate: Path, key: Path) -> "Authority":
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey), "we write EC keys only"
        return Authority(x509.load_pem_x509_certificate(certificate.read_bytes()), loaded)

    def identity(self) -> Identity:
        return Identity(self.certificate.public_bytes(serialization.Encoding.PEM), _key_pem(self._key))

    def issue(
        self,
        user: str,
        groups: Sequence[str],
        now: datetime,
        *,
        names: Sequence[str] = (),
        server: bool = False,
        client: bool = True,
    ) -> Identity:
        """A certificate for `user` (CN) in `groups` (O); `names` are the addresses or DNS names of a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
                x509.NameAttribute(NameOID.COMMON_NAME, user),
            ]
        )
        purposes = [purpose for purpose, wanted in ((_SERVER, server), (_CLIENT, client)) if wanted]
        builder = (
            _builder(subject, self.certificate.subject, key.public_key(), now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(n) for n in names]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Identity(certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))


@dataclass(frozen=True)
class Pki:
    """Where the files of a cluster's PKI lie; `make` writes them all."""

    folder: Path

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    @property
    def service_account_public(self) -> Path:
        return self.folder / "service-accounts.pub"

    def make(self, now: datetime) -> None:
        """Write every key and certificate that is not there, whole sets first. The folder is its owner's only."""
        if self.service_account_public.exists():
            # A cluster that was made before a client of today existed, and goes on with its data.
            for name, (user, groups) in CLIENTS.items():
                if not self.certificate(name).exists():
                    self._write(name, self.authority().issue(user, groups, now))
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority, front, etcd = (Authority.make(name, now) for name in ("kubernetes", "front-proxy", "etcd"))
        for name, signer in (("ca", authority), ("front-proxy-ca", front), ("etcd-ca", etcd)):
            self._write(name, signer.identity())
        self._write(
            "apiserver", authority.issue("kube-apiserver", (), now, names=api_names(), server=True, client=False)
        )
        for name, (user, groups) in CLIENTS.items():
            self._write(name, authority.issue(user, groups, now))
        self._write("front-proxy-client", front.issue("front-proxy-client", (), now))
        self._write("etcd", etcd.issue("etcd", (), now, names=("localhost", HOST), server=True))
        self._write("apiserver-etcd-client", etcd.issue("kube-apiserver-etcd-client", (), now))
        signing = ec.generate_private_key(ec.SECP256R1())
        _private(self.key("service-accounts"), _key_pem(signing))
        # Last, because its presence says that everything before it is there.
        self.service_account_public.write_bytes(
            signing.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def authority(self) -> Authority:
        """The cluster's own, to issue further client certificates with."""
        return Authority.load(self.certificate("ca"), self.key("ca"))

    def identity(self, name: str) -> Identity:
        return Identity(self.certificate(name).read_bytes(), self.key(name).read_bytes())

    def _write(self, name: str, identity: Identity) -> None:
        _private(self.key(name), identity.key)
        self.certificate(name).write_bytes(identity.certificate)


def api_names() -> tuple[str, ...]:
    """Every name and address under which a client may reach the API server, inside and through the forwarder."""
    service = "kubernetes.default.svc"
    return (
        "kubernetes",
        "kubernetes.default",
        service,
        f"{service}.{CLUSTER_DOMAIN}",
        "localhost",
        HOST,
        API_ADDRESS,
        KUBERNETES_SERVICE,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + VALID)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _private(path: Path, data: bytes) -> None:
    """Readable by its owner from the first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
