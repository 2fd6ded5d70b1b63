"""The git service: who is calling, what they may open, and git does the rest.

    GET  /NAMESPACE/RUN[/sealed]/info/refs?service=git-upload-pack|git-receive-pack
    POST /NAMESPACE/RUN[/sealed]/git-upload-pack | git-receive-pack
    GET  /NAMESPACE/RUN/stack/COMMIT.tar     the files below stack/ of a commit; 404 only if there are none
    GET  /healthz, /metrics

The repositories of a run are made at the first call of somebody who may open them, if the SynthesisRun exists. Every refusal
is one sentence of plain text: git shows it, since it comes before anything else of the exchange.
"""

import asyncio
import base64
import binascii
import logging
import os
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from sartor_repository import hook
from sartor_repository.auth import Authenticator, DeniedError, UnavailableError
from sartor_repository.backend import BackendError, CutError, Job, Patience, exchange, stream_output
from sartor_repository.metrics import CONTENT_TYPE, Metrics
from sartor_repository.paths import LONGEST_RUN, NAMESPACE, RUN
from sartor_repository.policy import LIMITS, MIB, Caller, Limits, Role, access
from sartor_repository.store import Store, StoreError

log = logging.getLogger(__name__)

RunExists = Callable[[str, str], Awaitable[bool]]
"""Whether a SynthesisRun is there, by namespace and name. Raises `UnavailableError`."""

Operation = Literal["fetch", "push", "stack"]

_REQUEST_BYTES = 8 * MIB
"""The most that a fetch may ask with."""
_DRAINED = 64
"""How many times a push's limit is read of one that is too large: its sender reads the answer when it has sent it all."""

_TARGET = re.compile(
    rf"/(?P<namespace>{NAMESPACE.pattern})/(?P<run>{RUN.pattern})(?P<sealed>/sealed)?"
    r"/(?:(?P<git>info/refs|git-upload-pack|git-receive-pack)|stack/(?P<commit>[0-9a-f]{40})\.tar)"
)
_SERVICES: Mapping[str, Operation] = {"git-upload-pack": "fetch", "git-receive-pack": "push"}
_MISSING = ("not a valid object name", "not a tree object", "did not match any files")
"""What `git archive` says when there is no such commit, or no stack/ in it."""
_PROTOCOL = re.compile(r"[\w=.:-]{1,64}")


class RefusedError(Exception):
    """The request is not carried out; the message is the sentence for the client."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Target:
    """What a request is about. `git` is the last part of git's address, `commit` that of a stack."""

    namespace: str
    run: str
    sealed: bool
    operation: Operation
    git: str = ""
    commit: str = ""


@dataclass(frozen=True)
class Capacity:
    """How much is done at once, and what stays free on the volume (bytes)."""

    at_once: int = 16
    per_run: int = 4
    reserve_bytes: int = 64 * MIB


class Service:
    """One volume, one authenticator. `handle` answers any request and raises nothing but cancellation."""

    def __init__(
        self,
        store: Store,
        authenticate: Authenticator,
        run_exists: RunExists,
        *,
        limits: Mapping[Role, Limits] = LIMITS,
        patience: Patience | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        self._store = store
        self._authenticate = authenticate
        self._run_exists = run_exists
        self._limits = limits
        self.patience = patience or Patience()
        self._capacity = capacity or Capacity()
        self.metrics = Metrics(store.free_bytes)
        self._slots = asyncio.Semaphore(self._capacity.at_once)
        self._busy: Counter[tuple[str, str]] = Counter()

    # --- border -------------------------------------------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/healthz":
            return self._health()
        if request.path == "/metrics":
            return web.Response(body=self.metrics.render(), headers={"Content-Type": CONTENT_TYPE})
        begun = time.monotonic()
        caller: Caller | None = None
        operation = "unknown"
        try:
            target = read_target(request)
            operation = target.operation
            caller = await self._who(request)
            response = await self._carry_out(request, target, caller)
        except RefusedError as refused:
            log.info("%s %s refused (%d): %s", request.method, request.raw_path, refused.status, refused)
            response = refusal(refused.status, str(refused))
        except CutError as cut:
            log.info("%s %s cut off: %s", request.method, request.raw_path, cut.reason)
            self.metrics.cut.labels(cut.reason).inc()
            response = refusal(408, "the connection was too slow or brought too much; try again")
            if request.transport is not None:
                request.transport.abort()
        self.metrics.requests.labels(operation, caller.role if caller else "unknown", str(response.status)).inc()
        self.metrics.seconds.labels(operation).observe(time.monotonic() - begun)
        return response

    def _health(self) -> web.Response:
        try:
            free, writable = self._store.free_bytes(), os.access(self._store.root, os.W_OK)
        except OSError as error:
            return refusal(503, f"the volume cannot be read: {error.strerror}")
        if not writable:
            return refusal(503, "the volume cannot be written")
        return web.Response(text=f"ok, {free // MIB} MiB free\n")

    # --- who and what -------------------------------------------------------------------------------------------------

    async def _who(self, request: web.BaseRequest) -> Caller:
        token = read_token(request.headers.get("Authorization", ""))
        if token is None:
            raise RefusedError(401, "give a service-account token as the password (or as a bearer token)")
        try:
            return await self._authenticate(token)
        except DeniedError as error:
            raise RefusedError(401, str(error)) from error
        except UnavailableError as error:
            raise RefusedError(503, f"who is calling cannot be checked now: {error}; try again") from error

    async def _carry_out(self, request: web.BaseRequest, target: Target, caller: Caller) -> web.StreamResponse:
        writing = target.operation == "push"
        allowed = access(
            caller, target.namespace, target.run, sealed=target.sealed, writing=writing, stack=bool(target.commit)
        )
        if allowed.refusal is not None:
            raise RefusedError(403, allowed.refusal)
        await self._ensure(target)
        limits = self._limits.get(caller.role)
        if writing:
            assert limits is not None, "who may write has limits"
            self._check_space(limits)
        repository = self._store.repository(target.namespace, target.run, allowed.vault)
        async with self._slot(target):
            try:
                if target.commit:
                    job = self._stack_job(str(repository), target.commit)
                    return await stream_output(request, job, "application/x-tar", self.patience, self.metrics)
                job = self._git_job(request, target, caller, limits if writing else None, repository.name)
                return await exchange(request, job, self.patience, self.metrics)
            except BackendError as error:
                if target.commit and any(words in str(error) for words in _MISSING):
                    raise RefusedError(404, f"there is no commit {target.commit} with stack/ in it") from error
                log.error("git failed: %s", error)
                raise RefusedError(500, f"git failed: {error}") from error
            except OSError as error:
                log.error("git cannot be started: %s", error)
                raise RefusedError(503, f"git cannot be started: {error.strerror}; try again") from error

    async def _ensure(self, target: Target) -> None:
        if self._store.exists(target.namespace, target.run):
            return
        try:
            if not await self._run_exists(target.namespace, target.run):
                raise RefusedError(404, f"there is no SynthesisRun {target.namespace}/{target.run}")
            await asyncio.to_thread(self._store.create, target.namespace, target.run)
        except UnavailableError as error:
            raise RefusedError(503, f"whether the run exists cannot be checked now: {error}; try again") from error
        except StoreError as error:
            raise RefusedError(507, str(error)) from error
        self.metrics.created.inc()

    def _check_space(self, limits: Limits) -> None:
        free = self._store.free_bytes()
        needed = self._capacity.reserve_bytes + limits.push_bytes
        if free < needed:
            raise RefusedError(
                507,
                f"the volume of the repositories has {free // MIB} MiB left, a push needs {needed // MIB}; nothing was "
                "stored: enlarge the volume or remove runs, and push again",
            )

    @asynccontextmanager
    async def _slot(self, target: Target) -> AsyncGenerator[None]:
        """One of the git processes that may run at once."""
        key = (target.namespace, target.run)
        if self._busy[key] >= self._capacity.per_run:
            raise RefusedError(503, f"run {target.run} has {self._busy[key]} requests under way already; try again")
        self._busy[key] += 1
        try:
            try:
                async with asyncio.timeout(self.patience.queue):
                    await self._slots.acquire()
            except TimeoutError as error:
                raise RefusedError(503, "the git service is busy; try again") from error
            with self.metrics.in_flight.track_inprogress():
                try:
                    yield
                finally:
                    self._slots.release()
        finally:
            self._busy[key] -= 1
            if not self._busy[key]:
                del self._busy[key]

    # --- git ----------------------------------------------------------------------------------------------------------

    def _git_job(
        self, request: web.BaseRequest, target: Target, caller: Caller, limits: Limits | None, repository: str
    ) -> Job:
        """`git http-backend`, with an environment of which only checked values come from the client."""
        values = self._store.git_environment(limits) | {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "GIT_PROJECT_ROOT": str(self._store.root / target.namespace / target.run),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": f"/{repository}/{target.git}",
            "REQUEST_METHOD": request.method,
            "QUERY_STRING": request.rel_url.raw_query_string if target.git == "info/refs" else "",
            "CONTENT_TYPE": request.content_type if request.method == "POST" else "",
            "REMOTE_USER": caller.name,
            "REMOTE_ADDR": request.remote or "",
        }
        protocol = request.headers.get("Git-Protocol", "")
        if _PROTOCOL.fullmatch(protocol):
            values["GIT_PROTOCOL"] = protocol
        if limits is None:
            return Job(("git", "http-backend"), values, _REQUEST_BYTES, _REQUEST_BYTES, self._store.lock)
        values |= hook.environment(caller, limits)
        most = _DRAINED * limits.push_bytes
        return Job(("git", "http-backend"), values, most, 2 * limits.push_bytes, self._store.lock)

    def _stack_job(self, repository: str, commit: str) -> Job:
        command = ("git", f"--git-dir={repository}", "archive", "--format=tar", commit, "stack")
        return Job(command, self._store.git_environment(None), 0, 0, self._store.lock)


# --- reading requests -------------------------------------------------------------------------------------------------


def read_target(request: web.BaseRequest) -> Target:
    """What a request is about, from its address as it came: nothing is decoded, so nothing can hide. Raises
    `RefusedError`."""
    found = _TARGET.fullmatch(request.rel_url.raw_path)
    if found is None or len(found["run"]) > LONGEST_RUN:
        raise RefusedError(404, "there is nothing at this address; a repository is at /NAMESPACE/RUN")
    place = (found["namespace"], found["run"], found["sealed"] is not None)
    if found["commit"]:
        _method(request, "GET")
        return Target(*place, operation="stack", commit=found["commit"])
    git = found["git"]
    if git == "info/refs":
        _method(request, "GET")
        asked = request.rel_url.raw_query_string.removeprefix("service=")
        if asked not in _SERVICES:
            raise RefusedError(
                403, "only git's smart protocol is spoken here; use a git client of version 1.6.6 or newer"
            )
        return Target(*place, operation=_SERVICES[asked], git=git)
    _method(request, "POST")
    if request.content_type != f"application/x-{git}-request":
        raise RefusedError(415, f"{git} takes application/x-{git}-request")
    return Target(*place, operation=_SERVICES[git], git=git)


def _method(request: web.BaseRequest, wanted: str) -> None:
    if request.method != wanted:
        raise RefusedError(405, f"use {wanted}, not {request.method}")


def read_token(authorization: str) -> str | None:
    """The token in an `Authorization` header: a bearer's, or the password of Basic (which is how git gives it)."""
    scheme, _, value = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip() or None
        case "basic":
            try:
                _, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None
            return password or None
        case _:
            return None


def refusal(status: int, sentence: str) -> web.Response:
    """The sentence as git shows it. The connection ends: what else was sent is not read."""
    headers = {"Connection": "close", "Cache-Control": "no-cache"}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="Sartor runs: any name, a service-account token as password"'
    response = web.Response(status=status, text=f"sartor: {sentence}\n", headers=headers)
    response.force_close()
    return response
