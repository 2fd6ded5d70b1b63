"""Config maps, secrets and tokens that pods of this node use.

They are fetched when a pod needs them, and a burst of pods that need the same fetches it once. A node may read only those
that a pod bound to it names. Tokens are renewed at 80 % of their life, or after a day, as the kubelet does it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sartor_runner.api.client import ApiClient, Object
from sartor_runner.api.errors import ApiError, UnreachableError
from sartor_runner.core.environment import Named, Sources
from sartor_runner.core.payload import TokenKey
from sartor_runner.core.pod import Pod
from sartor_runner.core.times import seconds
from sartor_runner.errors import VolumeError

logger = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
TOKEN_SHARE = 0.8
TOKEN_MAXIMUM_AGE = 86400.0
RESOURCES = {"configMap": "configmaps", "secret": "secrets"}


@dataclass(frozen=True)
class Token:
    """`renew_at`: seconds since the epoch."""

    value: str
    expires_at: float
    renew_at: float


class SourceCache:
    """One for all pods. What several pods ask for at once is fetched once."""

    def __init__(self, client: ApiClient, clock: Callable[[], float]) -> None:
        self._client, self._clock = client, clock
        self._objects: dict[tuple[str, Named], tuple[float, Object | None]] = {}
        self._tokens: dict[tuple[str, TokenKey], Token] = {}
        self._locks: dict[tuple[str, Named], asyncio.Lock] = {}

    async def objects(self, namespace: str, names: Iterable[Named], *, fresh: float = FRESH_SECONDS) -> Sources:
        """Not older than `fresh` seconds. Raises `UnreachableError`, and `ApiError` but for an object that is not there."""
        wanted = list(names)
        found = await asyncio.gather(*(self._object(namespace, name, fresh) for name in wanted))
        return Sources(dict(zip(wanted, found, strict=True)))

    async def _object(self, namespace: str, name: Named, fresh: float) -> Object | None:
        key = (namespace, name)
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._objects.get(key)
            if known is not None and self._clock() - known[0] < fresh and known[1] is not None:
                return known[1]
            kind, plain = name
            try:
                value = await self._client.get(f"/api/v1/namespaces/{namespace}/{RESOURCES[kind]}/{plain}")
            except ApiError as error:
                if error.status != 404:
                    raise
                value = None
            self._objects[key] = (self._clock(), value)
            return value

    async def token(self, pod: Pod, key: TokenKey) -> Token:
        """A token that is bound to the pod. Raises `VolumeError` when the server refuses it, `UnreachableError`."""
        now = self._clock()
        known = self._tokens.get((pod.uid, key))
        if known is not None and now < known.renew_at:
            return known
        audience, lifetime = key
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": lifetime,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": pod.uid},
            },
        }
        path = f"/api/v1/namespaces/{pod.namespace}/serviceaccounts/{pod.service_account}/token"
        try:
            answer = await self._client.create(path, body)
        except ApiError as error:
            if known is not None and now < known.expires_at:
                logger.warning("%s/%s: the token was not renewed: %s", pod.namespace, pod.name, error)
                return known
            raise VolumeError(f"no token for service account {pod.service_account}: {error}") from error
        except UnreachableError:
            if known is not None and now < known.expires_at:
                return known
            raise
        status = answer["status"]
        expires = seconds(status["expirationTimestamp"])
        token = Token(status["token"], expires, now + min((expires - now) * TOKEN_SHARE, TOKEN_MAXIMUM_AGE))
        self._tokens[(pod.uid, key)] = token
        return token

    def forget(self, pod: Pod, others: Iterable[Pod]) -> None:
        """The pod is gone: its tokens, and what no other pod's namespace has use for, are dropped."""
        self._tokens = {key: token for key, token in self._tokens.items() if key[0] != pod.uid}
        if all(other.namespace != pod.namespace for other in others):
            self._objects = {key: value for key, value in self._objects.items() if key[0] != pod.namespace}
            self._locks = {key: lock for key, lock in self._locks.items() if key[0] != pod.namespace}
