"""Keys, certificates and certificate requests, made in a process of its own.

    python pki.py serving NAME ADDRESS > key and certificate (PEM)
    python pki.py request NAME [ADDRESS] > key and certificate request (PEM)

The library that makes them takes 10 MB, which the runner has no use for afterwards; so it asks this module for them by a
child process and parses what it gets.
"""

import datetime
import ipaddress
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVING_DAYS = 365


def serving(name: str, address: str) -> bytes:
    """A key and a self-signed certificate for the kubelet API (client and server agree on trust outside of it)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{name}")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=SERVING_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _private(key) + certificate.public_bytes(serialization.Encoding.PEM)


def request(name: str, address: str | None = None) -> bytes:
    """A key and a request for a node's certificate (`system:node:NAME` in `system:nodes`): a client's, or with an address
    that of its kubelet API."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{name}"),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if address is not None:
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))])
        builder = builder.add_extension(names, critical=False)
    asked = builder.sign(key, hashes.SHA256())
    return _private(key) + asked.public_bytes(serialization.Encoding.PEM)


def validity(certificate: bytes) -> tuple[float, float]:
    """(from, until) of a PEM certificate, seconds since the epoch. Raises `ValueError`."""
    found = x509.load_pem_x509_certificate(certificate)
    return found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def main(arguments: list[str]) -> int:
    match arguments:
        case ["serving", name, address]:
            sys.stdout.buffer.write(serving(name, address))
        case ["request", name]:
            sys.stdout.buffer.write(request(name))
        case ["request", name, address]:
            sys.stdout.buffer.write(request(name, address))
        case ["validity"]:
            begins, ends = validity(sys.stdin.buffer.read())
            sys.stdout.write(f"{begins} {ends}\n")
        case _:
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
