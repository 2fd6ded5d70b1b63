"""Signatures: DSSE envelopes with Ed25519 (github.com/secure-systems-lab/dsse, protocol and envelope v1).

What is signed is the provenance statement, whose byproducts name every other file of the bundle by its hash; so one
signature covers all of it.
"""

import base64
import binascii
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from sartor_agents.evidence.errors import EvidenceError

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Signature(BaseModel):
    """`sig` in base64; `keyid` is SHA-256 over the public key in DER, which is a hint and proves nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keyid: str = Field(max_length=128)
    sig: str = Field(max_length=256)


class Envelope(BaseModel):
    """A DSSE envelope as it stands in `provenance.dsse.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    payload: str
    payload_type: str
    signatures: tuple[Signature, ...] = Field(min_length=1, max_length=16)


class SignatureError(EvidenceError):
    """A key cannot be used, or a signature does not hold."""


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What is signed (PAE of the DSSE specification)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 key in PEM (PKCS #8, without a password). Raises `SignatureError`."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise SignatureError(f"the signing key {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SignatureError(
            f"{path} is no private key in PEM without a password; make one with: openssl genpkey -algorithm ed25519"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{path} is no Ed25519 key; make one with: openssl genpkey -algorithm ed25519")
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key in PEM. Raises `SignatureError`."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SignatureError(f"the public key {path} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureError(f"{path} is no public key in PEM; get it by: openssl pkey -in KEY -pubout") from None
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{path} is no Ed25519 public key")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 over the key in DER."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def sign(payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """The envelope of `payload` as the bytes of its file."""
    signature = key.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
    envelope = Envelope(
        payload=base64.b64encode(payload).decode(),
        payload_type=PAYLOAD_TYPE,
        signatures=(Signature(keyid=key_id(key.public_key()), sig=base64.b64encode(signature).decode()),),
    )
    return envelope.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


def open_envelope(content: bytes) -> tuple[Envelope, bytes]:
    """The envelope and its payload, no signature looked at. Raises `SignatureError`."""
    try:
        envelope = Envelope.model_validate_json(content)
        payload = base64.b64decode(envelope.payload, validate=True)
    except (ValidationError, binascii.Error, ValueError):
        raise SignatureError("provenance.dsse.json is no DSSE envelope") from None
    if envelope.payload_type != PAYLOAD_TYPE:
        raise SignatureError(f"provenance.dsse.json has the payload type {envelope.payload_type!r}, not {PAYLOAD_TYPE}")
    return envelope, payload


def holds(envelope: Envelope, payload: bytes, key: Ed25519PublicKey) -> bool:
    """Whether any of the signatures is of this key over this payload."""
    for one in envelope.signatures:
        try:
            key.verify(
                base64.b64decode(one.sig, validate=True), pre_authentication_encoding(envelope.payload_type, payload)
            )
        except (InvalidSignature, binascii.Error, ValueError):
            continue
        return True
    return False
