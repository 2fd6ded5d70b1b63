"""Who may use the kubelet API.

A client certificate of the cluster's CA says who calls (common name and organisations); a bearer token is asked about by
TokenReview. Whether they may is asked by SubjectAccessReview on `nodes/log`, `nodes/metrics`, … or `nodes/proxy`.
Answers are kept as long as the kubelet keeps them. Specification: Kubernetes "Kubelet authentication/authorization".
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sartor_runner.api.client import ApiClient

TOKEN_SECONDS = 120.0
ALLOWED_SECONDS, DENIED_SECONDS = 300.0, 30.0
REMEMBERED = 1000
VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
SUBRESOURCES = {"containerLogs": "log", "logs": "log", "stats": "stats", "metrics": "metrics", "healthz": "healthz"}


@dataclass(frozen=True)
class Caller:
    name: str
    groups: tuple[str, ...]
    uid: str = ""


class Authorizer:
    """`allow` raises the API's errors when the server cannot be asked and nothing is remembered."""

    def __init__(self, client: ApiClient, node: str, clock: Callable[[], float]) -> None:
        self._client, self._node, self._clock = client, node, clock
        self._tokens: dict[str, tuple[float, Caller | None]] = {}
        self._answers: dict[tuple[Caller, str, str], tuple[float, bool]] = {}

    async def caller(self, certificate: Mapping[str, Any] | None, authorization: str | None) -> Caller | None:
        """Who calls; None for nobody known."""
        if certificate:
            return from_certificate(certificate)
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        known = self._tokens.get(token)
        if known is not None and known[0] > self._clock():
            return known[1]
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        status = (await self._client.create("/apis/authentication.k8s.io/v1/tokenreviews", body)).get("status") or {}
        user = status.get("user") or {}
        caller = None
        if status.get("authenticated"):
            caller = Caller(user.get("username", ""), tuple(user.get("groups") or ()), user.get("uid", ""))
        _remember(self._tokens, token, (self._clock() + TOKEN_SECONDS, caller))
        return caller

    async def allow(self, caller: Caller, method: str, path: str) -> bool:
        """Whether the caller may do this to the node."""
        verb = VERBS.get(method, "get")
        subresource = SUBRESOURCES.get(path.strip("/").partition("/")[0], "proxy")
        key = (caller, verb, subresource)
        known = self._answers.get(key)
        if known is not None and known[0] > self._clock():
            return known[1]
        attributes = {
            "verb": verb,
            "version": "v1",
            "resource": "nodes",
            "subresource": subresource,
            "name": self._node,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": caller.name,
                "groups": list(caller.groups),
                "uid": caller.uid,
                "resourceAttributes": attributes,
            },
        }
        answer = await self._client.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        allowed = bool((answer.get("status") or {}).get("allowed"))
        until = self._clock() + (ALLOWED_SECONDS if allowed else DENIED_SECONDS)
        _remember(self._answers, key, (until, allowed))
        return allowed


def from_certificate(certificate: Mapping[str, Any]) -> Caller | None:
    """The user of a verified client certificate, as `ssl.SSLSocket.getpeercert` gives it."""
    fields = [pair for names in certificate.get("subject", ()) for pair in names]
    name = next((value for key, value in fields if key == "commonName"), "")
    return Caller(name, tuple(value for key, value in fields if key == "organizationName")) if name else None


def server_context(pair: str, key: str | None, client_ca: bytes | None) -> ssl.SSLContext:
    """TLS of the kubelet API: a client certificate is asked for, and must be the CA's when one comes."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair, key)
    if client_ca:
        context.load_verify_locations(cadata=client_ca.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _remember(table: dict[Any, Any], key: Any, value: Any) -> None:
    table[key] = value
    while len(table) > REMEMBERED:
        table.pop(next(iter(table)))
