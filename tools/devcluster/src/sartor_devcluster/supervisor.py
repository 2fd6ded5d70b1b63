"""The one process outside the cluster's PID namespace: parent of every component, forwarder, and the end of all of them.

Started by `up`, it outlives it. It ends when it is told to, when its lifeline (a pipe of the starter's) closes, and when
process 1 of the namespace ends; and whatever ends it, also SIGKILL, ends everything it started (see `namespace`).
"""

import argparse
import asyncio
import ipaddress
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sartor_devcluster import addresses as at
from sartor_devcluster import bootstrap, control, namespace
from sartor_devcluster.api import ApiError, AsyncApi, tls, well
from sartor_devcluster.components import component_specs
from sartor_devcluster.environment import scrubbed
from sartor_devcluster.errors import DevclusterError
from sartor_devcluster.forward import forward
from sartor_devcluster.layout import Layout
from sartor_devcluster.pki import Pki
from sartor_devcluster.prepare import prepare
from sartor_devcluster.process import Component, exited
from sartor_devcluster.state import ProcessId, Settings, State, read_settings, read_state, write_state

BOOTSTRAP_RETRY_SECONDS = 0.1
GATE_SECONDS = 0.05
"""Between two probes of a component that others wait for."""


def say(words: str) -> None:
    """A line of the supervisor's log."""
    sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + f"Z {words}\n")
    sys.stderr.flush()


class Supervisor:
    """Runs the components of one cluster until `end` is called."""

    def __init__(self, layout: Layout, settings: Settings, init_pid: int) -> None:
        self._layout = layout
        self._settings = settings
        self._init_pid = init_pid
        pki = Pki(layout.pki)
        context = tls(pki.certificate("ca"), pki.certificate("admin"), pki.key("admin"))
        self._api = AsyncApi(at.API_ADDRESS, at.API_PORT, context)
        specs = component_specs(layout, settings.binaries, settings.extra_arguments)
        environment = scrubbed(os.environ, home=layout.folder)
        self._probes = {spec.name: spec.probe for spec in specs}
        self._components = {
            spec.name: Component(spec, layout, environment, say, partial(self._gate, spec.after)) for spec in specs
        }
        self._bootstrapped = False
        self._reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._servers: list[asyncio.Server] = []

    def end(self, reason: str) -> None:
        """Have `run` return. The first reason counts."""
        if not self._reason.done():
            self._reason.set_result(reason)

    async def run(self, listeners: Sequence[socket.socket], commands: socket.socket, lifeline: int | None) -> None:
        """Until `end`: serve the forwarders and the control socket, keep the components running."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end, f"{number.name} received")
        if lifeline is not None:
            loop.add_reader(lifeline, self.end, "the process that started the cluster has ended")
        tasks = [
            self._task(self._watch_init(), "process 1"),
            self._task(self._serve(commands), "control socket"),
            self._task(self._bootstrap(), "bootstrap"),
            *(self._task(component.keep(), name) for name, component in self._components.items()),
        ]
        for listener in listeners:
            self._servers.append(await forward(listener, at.API_ADDRESS, at.API_PORT))
        say(f"ending: {await self._reason}")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        os.kill(self._init_pid, signal.SIGKILL)

    def _task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task whose failure ends the supervisor: half a cluster would make tests fail for no visible reason."""
        task = asyncio.get_running_loop().create_task(work)

        def ended(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                self.end(f"{name} failed: {error!r}")

        task.add_done_callback(ended)
        return task

    async def _watch_init(self) -> None:
        await exited(self._init_pid)
        self.end("process 1 of the cluster has ended, and everything with it")

    async def _bootstrap(self) -> None:
        seen = ""
        while True:
            try:
                await bootstrap.apply(self._api, self._settings.bootstrap_token)
            except (ApiError, OSError) as error:
                if str(error) != seen and isinstance(error, ApiError):
                    say(f"bootstrap objects, trying again: {error}")
                seen = str(error)
                await asyncio.sleep(BOOTSTRAP_RETRY_SECONDS)
                continue
            self._bootstrapped = True
            return

    async def _serve(self, commands: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        answering: set[asyncio.Task[None]] = set()
        while True:
            client, _ = await loop.sock_accept(commands)
            task = loop.create_task(self._answer(client))
            answering.add(task)
            task.add_done_callback(answering.discard)

    async def _answer(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with client:
            client.setblocking(False)
            await _readable(client)
            packet, handles, _, _ = socket.recv_fds(client, control.PACKET_BYTES, 1)
            if not packet:
                return
            try:
                answer = await self._do(control.parse(packet), handles)
            except (DevclusterError, OSError, ValueError, KeyError) as error:
                for handle in handles:
                    os.close(handle)
                answer = {"error": str(error)}
            try:
                await loop.sock_sendall(client, json.dumps(answer).encode())
            except OSError:  # the asker has gone; what it asked for is done
                return

    async def _do(self, request: dict[str, Any], handles: list[int]) -> dict[str, Any]:
        operations: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "status": self._status,
            "down": self._down,
            "forward": partial(self._forward, request, handles),
            "stop": partial(self._stop, request),
            "start": partial(self._start, request),
        }
        if (operation := operations.get(str(request["operation"]))) is None:
            raise DevclusterError(f"this cluster was started by a version that does not know {request['operation']}")
        return await operation()

    async def _down(self) -> dict[str, Any]:
        self.end("asked to")
        return {}

    async def _forward(self, request: dict[str, Any], handles: list[int]) -> dict[str, Any]:
        if len(handles) != 1:
            raise DevclusterError("forward needs one listening socket")
        ipaddress.ip_address(str(request["address"]))  # a name would need a resolver, and there is none inside
        listener = socket.socket(fileno=handles[0])
        listener.setblocking(False)
        self._servers.append(await forward(listener, str(request["address"]), int(request["port"])))
        return {}

    async def _stop(self, request: dict[str, Any]) -> dict[str, Any]:
        await self._component(request).stop(kill=bool(request["kill"]))
        return {}

    async def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        self._component(request).start()
        return {}

    def _component(self, request: dict[str, Any]) -> Component:
        name = str(request["component"])
        if name not in self._components:
            raise DevclusterError(f"no component {name}; there are {', '.join(self._components)}")
        return self._components[name]

    async def _status(self) -> dict[str, Any]:
        """Phase and health of each component, asked now. Ready: all are well and pods can be created."""
        components = list(self._components.values())
        health = await asyncio.gather(*(self._well(component) for component in components))
        ready = all(health) and self._bootstrapped and await bootstrap.usable(self._api)
        listed = [
            {**asdict(component.status()), "well": is_well}
            for component, is_well in zip(components, health, strict=True)
        ]
        return {"ready": ready, "components": listed}

    async def _gate(self, after: str | None) -> None:
        """Until the component that another one must not start before is well."""
        probe = self._probes[after] if after is not None else None
        while probe is not None and not await well(probe):
            await asyncio.sleep(GATE_SECONDS)

    async def _well(self, component: Component) -> bool:
        if component.status().phase != "running":
            return False
        probe = component.spec.probe
        return probe is None or await well(probe)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(sock, lambda: readable.done() or readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(sock)


def bind(port: int) -> socket.socket:
    """A listener of 127.0.0.1 in the present network namespace: on `port` if it is free, else on any."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((at.HOST, port))
    except OSError:
        listener.bind((at.HOST, 0))
    listener.setblocking(False)
    return listener


def _reap() -> None:
    """Until every child has ended. The kernel keeps process 1 until all others of its namespace are reaped, so this
    returns when nothing of it is left, daemons included."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def supervise(layout: Layout, lifeline: int | None) -> None:
    """Isolate this process, start the cluster in `layout` and stay until it ends."""
    settings = read_settings(layout.settings)
    before = read_state(layout.state)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    outside = bind(before.port if before is not None else 0)
    port = int(outside.getsockname()[1])
    own = ProcessId.of(os.getpid())
    user_namespace = namespace.isolate(user_namespace=settings.user_namespace)
    init_pid, pipe = namespace.start_init()
    try:
        namespace.configure_loopback()
        prepare(layout, port=port, bootstrap_token=settings.bootstrap_token, now=datetime.now(UTC))
        init = ProcessId.of(init_pid)
        if own is None or init is None:
            raise DevclusterError("/proc does not show this process; mount it")
        write_state(layout.state, State(own, init, port, user_namespace, time.time()))
        commands = control.listen(layout.control)
        say(f"Kubernetes {settings.version} ({settings.source}), 127.0.0.1:{port}, user namespace: {user_namespace}")

        async def main() -> None:
            supervisor = Supervisor(layout, settings, init_pid)
            # The same port inside, so that one kubeconfig serves on both sides.
            await supervisor.run([outside, bind(port)], commands, lifeline)

        asyncio.run(main())
    finally:
        layout.control.unlink(missing_ok=True)
        os.kill(init_pid, signal.SIGKILL)
        _reap()
        os.close(pipe)
        say("nothing is left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the cluster")
    parser.add_argument("--lifeline", type=int, help="a pipe to read from; its end is the cluster's")
    options = parser.parse_args()
    try:
        supervise(Layout(options.folder), options.lifeline)
    except DevclusterError as error:
        say(f"error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
