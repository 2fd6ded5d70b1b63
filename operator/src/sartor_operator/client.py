"""The one client of the API server: every request of the operator goes through it, counted and repeated by class.

Every write is safe to repeat: names are deterministic, deletes name a uid, statuses name a resource version, and
server-side apply says the whole of what a manager owns. So a request whose answer was lost is sent again. Repeated are:
no answer, 429 and 5xx (waiting as `Retry-After` says, else exponentially with jitter). Not repeated is what only a new look
can cure (409), or nothing can (other 4xx).
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol, cast

import aiohttp

from sartor_operator.connection import Connection
from sartor_operator.errors import ApiError, TransientError, error_for
from sartor_operator.kinds import Kind, Manifest, kind_of

Counted = Callable[[str, str, float], None]
"""Called for each answer with verb, code (`0`: none) and seconds."""

APPLY_PATCH = "application/apply-patch+yaml"
TRIES = 5
FIRST_WAIT, LONGEST_WAIT = 0.2, 8.0
LONGEST_ASKED = 30.0
"""Of a `Retry-After`: a worker does not sleep for an hour because a proxy says so."""
TIMEOUT = aiohttp.ClientTimeout(total=30.0, connect=10.0)
WATCH_SECONDS = 300
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=10.0, sock_read=WATCH_SECONDS + 60)
PAGE = 500


class Api(Protocol):
    """What `apply` needs of a client; the tests have another one."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest: ...

    async def list(
        self, kind: Kind, namespace: str | None, selector: str | None = None
    ) -> tuple[list[Manifest], str]: ...

    async def create(self, manifest: Manifest, manager: str) -> Manifest: ...

    async def apply(self, manifest: Manifest, manager: str) -> Manifest: ...

    async def apply_status(
        self, kind: Kind, manifest: Manifest, status: Mapping[str, Any], manager: str
    ) -> Manifest: ...

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None: ...


class Client:
    """An `Api` over HTTP. Close it, or use it as a context."""

    def __init__(
        self,
        connection: Connection,
        *,
        counted: Counted = lambda _verb, _code, _seconds: None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._connection = connection
        self._counted = counted
        self._uniform = uniform
        self._may_write: Callable[[], bool] = lambda: True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=connection.ssl_context(), limit=64), timeout=TIMEOUT
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def fence(self, may_write: Callable[[], bool]) -> None:
        """Send nothing that changes anything (but the Lease) while `may_write` says no.

        A process that was stopped and goes on does not know that another one has taken over: its next write asks the clock
        before it is sent. It is an error of the attempt; whoever keeps the lease ends the process.
        """
        self._may_write = may_write

    async def close(self) -> None:
        await self._session.close()

    # --- reading ----------------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest:
        """One object. Raises `NotFoundError`."""
        return await self._send("get", "GET", kind.path(namespace, name))

    async def list(self, kind: Kind, namespace: str | None, selector: str | None = None) -> tuple[list[Manifest], str]:
        """All objects, in pages, and the resource version of the list. Never from an old cache of the API server."""
        found: list[Manifest] = []
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self._send("list", "GET", kind.path(namespace), query=query)
            same = {"apiVersion": kind.api_version, "kind": kind.kind}
            found += [{**same, **item} for item in page.get("items") or ()]
            meta = page["metadata"]
            if not meta.get("continue"):
                return found, str(meta["resourceVersion"])
            query["continue"] = meta["continue"]

    async def watch(
        self, kind: Kind, namespace: str | None, since: str, selector: str | None = None
    ) -> AsyncIterator[tuple[str, Manifest]]:
        """(type, object) of every change after `since`, bookmarks included, until the server ends the stream.

        Raises `ExpiredError` when `since` is too old, `TransientError` when the connection breaks.
        """
        query = {
            "watch": "true",
            "resourceVersion": since,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        } | ({"labelSelector": selector} if selector else {})
        url = self._connection.server + kind.path(namespace)
        try:
            async with self._session.get(url, params=query, headers=self._headers(), timeout=_WATCH_TIMEOUT) as answer:
                self._counted("watch", str(answer.status), 0.0)
                if answer.status != 200:
                    raise await _error(answer)
                async for line in _lines(answer.content):
                    event = json.loads(line)
                    found = event["object"]
                    if event["type"] == "ERROR":
                        raise error_for(
                            int(found.get("code", 500)), str(found.get("reason")), str(found.get("message")), None
                        )
                    yield str(event["type"]), {"apiVersion": kind.api_version, "kind": kind.kind, **found}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise TransientError(f"the watch of {kind.plural} broke: {error}") from error

    # --- writing ----------------------------------------------------------------------------------------------------

    async def create(self, manifest: Manifest, manager: str) -> Manifest:
        """Raises `AlreadyExistsError` when the name is taken, also by an earlier try of this very request."""
        kind = kind_of(manifest)
        path = kind.path(manifest["metadata"].get("namespace"))
        return await self._send("create", "POST", path, body=manifest, query={"fieldManager": manager})

    async def apply(self, manifest: Manifest, manager: str) -> Manifest:
        """Server-side apply; a field that another manager holds is taken over. With `metadata.uid` only that object."""
        kind = kind_of(manifest)
        meta = manifest["metadata"]
        return await self._send(
            "apply",
            "PATCH",
            kind.path(meta.get("namespace"), meta["name"]),
            body=manifest,
            query={"fieldManager": manager, "force": "true"},
            content_type=APPLY_PATCH,
        )

    async def apply_status(self, kind: Kind, manifest: Manifest, status: Mapping[str, Any], manager: str) -> Manifest:
        """Server-side apply of a status. Raises `ConflictError` when the object is not the version in `manifest`."""
        meta = manifest["metadata"]
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {
                "name": meta["name"],
                "resourceVersion": meta["resourceVersion"],
                "uid": meta["uid"],
                **({"namespace": meta["namespace"]} if meta.get("namespace") else {}),
            },
            "status": dict(status),
        }
        return await self._send(
            "apply",
            "PATCH",
            kind.path(meta.get("namespace"), meta["name"], "status"),
            body=body,
            query={"fieldManager": manager, "force": "true"},
            content_type=APPLY_PATCH,
        )

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete this very object, its children in the background. Raises `NotFoundError`, `ConflictError`."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        await self._send("delete", "DELETE", kind.path(namespace, name), body=body)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Replace an object of the version in `manifest` (used for the Lease). Raises `ConflictError`."""
        kind, meta = kind_of(manifest), manifest["metadata"]
        return await self._send("update", "PUT", kind.path(meta.get("namespace"), meta["name"]), body=manifest, tries=1)

    # --- requests ---------------------------------------------------------------------------------------------------

    def _headers(self, content_type: str | None = None) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "sartor-operator"}
        if (authorization := self._connection.authorization()) is not None:
            headers["Authorization"] = authorization
        return headers | ({"Content-Type": content_type} if content_type else {})

    async def _send(
        self,
        verb: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        tries: int = TRIES,
    ) -> Manifest:
        data = None if body is None else json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        for number in range(1, tries + 1):
            if method != "GET" and verb != "update" and not self._may_write():
                raise TransientError(f"{method} {path}: not sent, since this process is not the leader any more")
            try:
                return await self._once(verb, method, path, query, data, content_type)
            except TransientError as error:
                if number == tries:
                    raise
                backoff = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (number - 1)) * (0.5 + self._uniform())
                asked = None if error.retry_after is None else min(error.retry_after, LONGEST_ASKED)
                await asyncio.sleep(backoff if asked is None else asked + backoff / 4)
        raise AssertionError("the last try returned or raised")

    async def _once(
        self, verb: str, method: str, path: str, query: Mapping[str, str] | None, data: bytes | None, content_type: str
    ) -> Manifest:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        headers = self._headers(content_type if data is not None else None)
        try:
            async with self._session.request(
                method, self._connection.server + path, params=query, data=data, headers=headers
            ) as answer:
                self._counted(verb, str(answer.status), loop.time() - begun)
                if answer.status >= 300:
                    raise await _error(answer)
                return cast(Manifest, json.loads(await answer.read()))
        except (aiohttp.ClientError, TimeoutError) as error:
            self._counted(verb, "0", loop.time() - begun)
            raise TransientError(f"{method} {path}: no answer: {error or type(error).__name__}") from error


async def _error(answer: aiohttp.ClientResponse) -> ApiError:
    """The error in an answer; its text is a `Status` object or whatever a proxy says."""
    text = (await answer.read()).decode(errors="replace")
    reason, message = answer.reason or "", text[:500]
    try:
        status = json.loads(text)
        if isinstance(status, dict):
            found = cast(dict[str, Any], status)
            reason, message = str(found.get("reason") or reason), str(found.get("message") or message)
    except ValueError:
        pass  # a proxy answered in its own words
    after = answer.headers.get("Retry-After", "")
    return error_for(answer.status, reason, message, float(after) if after.isdecimal() else None)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length (the reader's own `readline` has a limit)."""
    rest = b""
    async for chunk in stream.iter_any():
        rest += chunk
        *whole, rest = rest.split(b"\n")
        for line in whole:
            if line:
                yield line
