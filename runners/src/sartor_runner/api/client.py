"""Requests to the API server. One connection pool, JSON in and out, errors as exceptions; no retries here: whoever asks
knows whether asking again is right."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from sartor_runner import __version__
from sartor_runner.api.credentials import Credentials
from sartor_runner.api.errors import ApiError, ExpiredError, UnreachableError

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
TIMEOUT_SECONDS = 30.0
WATCH_SECONDS = 300
SILENCE_SECONDS = 120.0
"""A watch says something at least once a minute (bookmarks); one that does not has lost its connection."""
LINE_BYTES = 1 << 22
CONNECTIONS = 10
"""Watches included. Each costs a TLS handshake and some 100 kB; more requests than that wait their turn."""

Object = dict[str, Any]


class ApiClient:
    """Used from one event loop. `replace` changes the credentials; requests under way break off as `UnreachableError`."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._session: aiohttp.ClientSession | None = None

    @property
    def credentials(self) -> Credentials:
        return self._credentials

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def replace(self, credentials: Credentials) -> None:
        self._credentials = credentials
        await self.close()

    async def get(self, path: str, **parameters: str) -> Object:
        return await self._request("GET", path, parameters)

    async def text(self, path: str, **parameters: str) -> str:
        """For what is no JSON: logs."""
        return (await self._bytes("GET", path, parameters, None, "application/json")).decode("utf-8", "replace")

    async def create(self, path: str, body: Mapping[str, Any]) -> Object:
        return await self._request("POST", path, {}, body)

    async def update(self, path: str, body: Mapping[str, Any]) -> Object:
        return await self._request("PUT", path, {}, body)

    async def patch(self, path: str, body: Mapping[str, Any], kind: str = MERGE_PATCH) -> Object:
        return await self._request("PATCH", path, {}, body, kind)

    async def delete(self, path: str, body: Mapping[str, Any] | None = None) -> Object:
        return await self._request("DELETE", path, {}, body)

    async def _request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        kind: str = "application/json",
    ) -> Object:
        text = await self._bytes(method, path, parameters, body, kind)
        return json.loads(text) if text else {}

    async def _bytes(
        self, method: str, path: str, parameters: Mapping[str, str], body: Mapping[str, Any] | None, kind: str
    ) -> bytes:
        """Raises `ApiError` for a refusal, `UnreachableError` for no answer."""
        try:
            async with self._open().request(
                method,
                self._credentials.server + path,
                params=parameters,
                data=None if body is None else json.dumps(body).encode(),
                headers=self._headers(kind if body is not None else None),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                server_hostname=self._credentials.server_name,
            ) as response:
                text = await response.read()
                if response.status >= 400:
                    raise api_error(response.status, text, response.headers.get("Retry-After"))
                return text
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(self._credentials.server, error) from error

    async def watch(self, path: str, version: str, **parameters: str) -> AsyncIterator[tuple[str, Object]]:
        """Events (type, object) from `version` on, until the server ends the stream.

        Raises `ExpiredError` when the server has forgotten that version, `ApiError`, `UnreachableError`.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            **parameters,
        }
        try:
            async with self._open().get(
                self._credentials.server + path,
                params=query,
                headers=self._headers(None),
                timeout=aiohttp.ClientTimeout(
                    total=WATCH_SECONDS + 30, sock_connect=TIMEOUT_SECONDS, sock_read=SILENCE_SECONDS
                ),
                server_hostname=self._credentials.server_name,
            ) as response:
                if response.status == 410:
                    raise ExpiredError("the watch's resource version is too old")
                if response.status >= 400:
                    raise api_error(response.status, await response.read(), response.headers.get("Retry-After"))
                async for line in lines(response.content):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        if status.get("code") == 410:
                            raise ExpiredError(status.get("message", "the watch's resource version is too old"))
                        raise ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(self._credentials.server, error) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS, ssl=self._credentials.ssl_context(), keepalive_timeout=60
                ),
                headers={"User-Agent": f"sartor-runner/{__version__}", "Accept": "application/json"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    def _headers(self, kind: str | None) -> dict[str, str]:
        headers = {"Content-Type": kind} if kind else {}
        authorization = self._credentials.authorization()
        return headers | ({"Authorization": authorization} if authorization else {})


async def lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines of a stream; an object of any size that etcd can hold fits in one."""
    rest = b""
    async for data in stream.iter_any():
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            if line:
                yield line
        if len(rest) > LINE_BYTES:
            raise aiohttp.ClientPayloadError(f"an event of more than {LINE_BYTES} bytes")


def api_error(status: int, body: bytes, retry_after: str | None) -> ApiError:
    """The exception for a refused request; the body is a `Status` object, or whatever stood in between wrote."""
    reason, message = "", body[:300].decode("utf-8", "replace").strip()
    try:
        content = json.loads(body)
        if isinstance(content, dict):
            reason, message = str(content.get("reason") or ""), str(content.get("message") or message)
    except json.JSONDecodeError:
        pass  # not from the API server itself; the text says what there is to say
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    return ApiError(status, reason, message, seconds)


def _unreachable(server: str, error: BaseException) -> UnreachableError:
    what = "no answer in time" if isinstance(error, asyncio.TimeoutError | TimeoutError) else str(error)
    return UnreachableError(f"{server}: {what or type(error).__name__}")
