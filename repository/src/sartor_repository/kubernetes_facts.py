"""`Facts` from a real API server, through the official client: kubeconfig, in-cluster credentials and their renewal."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from sartor_repository.auth import Pod, Review, UnavailableError

_TIMEOUT = (3.0, 10.0)
"""Seconds to connect and to answer."""
_AT_ONCE = 8

GROUP, VERSION, RUNS = "sartor.dev", "v1alpha1", "synthesisruns"

T = TypeVar("T")


class ClusterError(Exception):
    """There is no way to the API server; the message says what to give."""


class KubernetesFacts:
    """Rights needed: create tokenreviews; get pods and synthesisruns in all namespaces."""

    def __init__(self, kubeconfig: Path | None = None) -> None:
        """With `kubeconfig`, or as a pod with its service account. Raises `ClusterError`."""
        settings: Any = client.Configuration()
        try:
            if kubeconfig is not None:
                config.load_kube_config(str(kubeconfig), client_configuration=settings)
            else:
                config.load_incluster_config(client_configuration=settings)
        except config.ConfigException as error:
            raise ClusterError(f"no API server: {error}; run in a pod, or pass --kubeconfig FILE") from error
        settings.retries = False
        self._client: Any = client.ApiClient(settings)
        self._tokens: Any = client.AuthenticationV1Api(self._client)
        self._core: Any = client.CoreV1Api(self._client)
        self._custom: Any = client.CustomObjectsApi(self._client)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def review(self, token: str, audience: str) -> Review:
        body = {"spec": {"token": token, "audiences": [audience]}}
        answered = await self._call(
            lambda: self._tokens.create_token_review(body, _request_timeout=_TIMEOUT).to_dict()["status"]
        )
        user = answered.get("user") or {}
        return Review(
            authenticated=bool(answered.get("authenticated")),
            username=str(user.get("username") or ""),
            audiences=tuple(answered.get("audiences") or ()),
            extra={str(k): tuple(v) for k, v in (user.get("extra") or {}).items()},
            error=str(answered.get("error") or ""),
        )

    async def pod(self, namespace: str, name: str) -> Pod | None:
        found = await self._get(lambda: self._core.read_namespaced_pod(name, namespace, _request_timeout=_TIMEOUT))
        return None if found is None else Pod(found.metadata.uid, found.metadata.labels or {})

    async def run_exists(self, namespace: str, run: str) -> bool:
        found = await self._get(
            lambda: self._custom.get_namespaced_custom_object(
                GROUP, VERSION, namespace, RUNS, run, _request_timeout=_TIMEOUT
            )
        )
        return found is not None

    async def _get(self, ask: Callable[[], T]) -> T | None:
        try:
            return await self._call(ask)
        except _MissingError:
            return None

    async def _call(self, ask: Callable[[], T]) -> T:
        async with self._slots:
            try:
                return await asyncio.to_thread(ask)
            except ApiException as error:
                if error.status == 404:
                    raise _MissingError from error
                raise UnavailableError(f"the API server answers {error.status} {error.reason}") from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise UnavailableError(f"the API server cannot be reached ({type(error).__name__})") from error

    def close(self) -> None:
        self._client.close()


class _MissingError(Exception):
    """There is no such object."""
