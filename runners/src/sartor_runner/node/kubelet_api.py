"""The part of the kubelet's API that this node has: logs, the list of pods, health. The rest it refuses with a sentence.

    GET /containerLogs/NAMESPACE/POD/CONTAINER    kubectl logs
    GET /pods, /runningpods/                      the pods that are bound here
    GET /healthz                                  ok
    GET /stats/summary                            memory of the containers, for `kubectl top` through metrics-server
    /exec, /run, /attach, /portForward, …         501

The API server calls it, so it must reach the node's address at this port; everything else the runner does needs
connections outwards only.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from aiohttp import web

from sartor_runner.api.errors import ApiError, UnreachableError
from sartor_runner.core.observed import Run
from sartor_runner.core.times import rfc3339, seconds
from sartor_runner.host import containers, cri_log, memory
from sartor_runner.host.cri_log import LogOptions
from sartor_runner.node.authorize import Authorizer
from sartor_runner.node.manager import PodManager
from sartor_runner.node.worker import PodWorker

logger = logging.getLogger(__name__)

REFUSALS = {
    "exec": "this node runs no commands inside its pods (kubectl exec, cp): its processes are sandboxed on a host that "
    "others use; read the logs, or start a pod that does what you want to do",
    "attach": "nothing can be attached to a process on this node; read its log with kubectl logs",
    "portForward": "this node forwards no ports; connect to the pod's own address, or to a Service",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class KubeletApi:
    """`application` is to be served with TLS that asks for client certificates."""

    def __init__(self, manager: PodManager, authorizer: Authorizer, node: str) -> None:
        self._manager, self._authorizer, self._node = manager, authorizer, node

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard])
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/pods", self._pods)
        application.router.add_get("/runningpods/", self._pods)
        application.router.add_get("/stats/summary", self._stats)
        application.router.add_route("*", "/{what}{rest:.*}", self._refuse)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Nobody gets anything before they are known and allowed."""
        transport = request.transport
        certificate = None if transport is None else transport.get_extra_info("peercert")
        try:
            caller = await self._authorizer.caller(certificate, request.headers.get("Authorization"))
            if caller is None:
                return web.Response(status=401, text="Unauthorized: a client certificate of the cluster, or a token\n")
            if not await self._authorizer.allow(caller, request.method, request.path):
                subject = f"user={caller.name}, verb={request.method.lower()}, resource=nodes, path={request.path}"
                return web.Response(status=403, text=f"Forbidden ({subject})\n")
        except (ApiError, UnreachableError) as error:
            return web.Response(status=503, text=f"the API server cannot be asked whether you may: {error}\n")
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _refuse(self, request: web.Request) -> web.Response:
        what = request.path.strip("/").partition("/")[0]
        text = REFUSALS.get(what, f"the kubelet API of this node has no {request.path}")
        return web.Response(status=501 if what in REFUSALS else 404, text=f"{text}\n")

    async def _pods(self, _request: web.Request) -> web.Response:
        items = [{**worker.pod.raw, "status": worker.status} for worker in self._manager.workers()]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _stats(self, _request: web.Request) -> web.Response:
        now = rfc3339(time.time())
        pods = [_pod_stats(worker, now) for worker in self._manager.workers()]
        return web.json_response({"node": {"nodeName": self._node}, "pods": pods})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        names = request.match_info
        worker = self._manager.find(names["namespace"], names["pod"])
        if worker is None:
            return web.Response(status=404, text=f"pod {names['namespace']}/{names['pod']} is not on this node\n")
        container = worker.pod.container(names["container"])
        if container is None:
            return web.Response(status=404, text=f"container {names['container']} not found in pod {worker.pod.name}\n")
        try:
            options = log_options(request.query, time.time())
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        run = chosen(worker.runs.get(container.name, ()), previous=request.query.get("previous") in ("true", "1"))
        if isinstance(run, str):
            text = run.format(container=container.name, pod=worker.pod.name, state=_waiting(worker, container.name))
            return web.Response(status=400, text=text)
        log = worker.directory.attempt(container.name, run.attempt) / "log"
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await _write(response, log, options, worker, container.name, run.attempt)
        return response


async def _write(
    response: web.StreamResponse, log: Path, options: LogOptions, worker: PodWorker, name: str, attempt: int
) -> None:
    """Sends the log until its end, the limit, or the caller is gone."""
    left = options.limit_bytes

    async def put(line: bytes) -> bool:
        nonlocal left
        line = line if left is None else line[:left]
        left = None if left is None else left - len(line)
        await response.write(line)
        return left != 0

    def ended() -> bool:
        run = next((r for r in worker.runs.get(name, ()) if r.attempt == attempt), None)
        return run is None or run.ended

    try:
        if options.follow:
            async for line in cri_log.follow(log, options, ended):
                if not await put(line):
                    break
        else:
            for line in cri_log.lines(log, options):
                if not await put(line):
                    break
        await response.write_eof()
    except (ConnectionResetError, BrokenPipeError):
        logger.debug("the reader of a log went away")


def chosen(runs: tuple[Run, ...], *, previous: bool) -> Run | str:
    """The attempt whose log is asked for; a sentence with {container}, {pod}, {state} when there is none."""
    if previous:
        before = runs[:-1] if runs and not runs[-1].ended else (runs[:-1] or runs)
        ended = [run for run in before if run.ended]
        return ended[-1] if ended else 'previous terminated container "{container}" in pod "{pod}" not found'
    if not runs:
        return 'container "{container}" in pod "{pod}" is waiting to start: {state}'
    return runs[-1]


def log_options(query: Mapping[str, str], now: float) -> LogOptions:
    """`PodLogOptions` of a query. Raises `ValueError` naming what is wrong."""

    def number(key: str) -> int | None:
        text = query.get(key)
        if text is None:
            return None
        if not text.lstrip("-").isdigit() or int(text) < 0:
            raise ValueError(f"{key}={text}: must be a number that is not negative")
        return int(text)

    since = None
    if (ago := number("sinceSeconds")) is not None:
        since = now - ago
    if query.get("sinceTime"):
        try:
            since = seconds(query["sinceTime"])
        except ValueError as error:
            raise ValueError(f"sinceTime={query['sinceTime']}: must be a time as RFC 3339 has it") from error
    return LogOptions(
        follow=query.get("follow") in ("true", "1"),
        tail=number("tailLines"),
        since=since,
        timestamps=query.get("timestamps") in ("true", "1"),
        limit_bytes=number("limitBytes"),
        stream=query.get("stream") or "All",
    )


def _waiting(worker: PodWorker, container: str) -> str:
    statuses = [*(worker.status.get("initContainerStatuses") or ()), *(worker.status.get("containerStatuses") or ())]
    state = next((s["state"] for s in statuses if s["name"] == container), {})
    return (state.get("waiting") or {}).get("reason") or "ContainerCreating"


def _pod_stats(worker: PodWorker, now: str) -> dict[str, object]:
    reference = {"name": worker.pod.name, "namespace": worker.pod.namespace, "uid": worker.pod.uid}
    found: list[dict[str, object]] = []
    for container in worker.pod.containers:
        runs = worker.runs.get(container.name, ())
        pid = containers.pid(worker.directory.attempt(container.name, runs[-1].attempt)) if runs else None
        used = memory.used_bytes(pid) if pid is not None else 0
        found.append({"name": container.name, "memory": {"time": now, "workingSetBytes": used, "rssBytes": used}})
    return {"podRef": reference, "containers": found}
