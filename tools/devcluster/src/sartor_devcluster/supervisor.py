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
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sartor_devcluster import addresses as at
from sartor_devcluster import bootstrap, control, namespace
from sartor_devcluster.accesslog import Rotation
from sartor_devcluster.api import ApiError, AsyncApi, tls, well
from sartor_devcluster.binaries.contour import CRDS
from sartor_devcluster.components import (
    CONSEQUENCES,
    CONTOUR,
    COREDNS,
    ENVOY,
    KUBE_PROXY,
    PROMETHEUS,
    component_specs,
)
from sartor_devcluster.environment import scrubbed, with_folder
from sartor_devcluster.errors import DevclusterError
from sartor_devcluster.forward import forward
from sartor_devcluster.gateway import write_envoy_bootstrap
from sartor_devcluster.gateway_objects import GatewayObjects
from sartor_devcluster.layout import Layout
from sartor_devcluster.namespace import Services
from sartor_devcluster.pki import Pki
from sartor_devcluster.prepare import prepare
from sartor_devcluster.process import Component, describe, exited
from sartor_devcluster.prometheus_targets import keep_targets
from sartor_devcluster.proxy_node import ProxyNode
from sartor_devcluster.state import ProcessId, Settings, State, read_settings, read_state, write_state

BOOTSTRAP_RETRY_SECONDS = 0.1
GATE_SECONDS = 0.05
"""Between two probes of a component that others wait for."""

GIVE_UP_AFTER = 3
"""Ends of a component, before it was well once, after which a cluster goes on without it if it can."""


def say(words: str) -> None:
    """A line of the supervisor's log."""
    sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + f"Z {words}\n")
    sys.stderr.flush()


class Supervisor:
    """Runs the components of one cluster until `end` is called. `absent`: components that it is to do without, and why."""

    def __init__(self, layout: Layout, settings: Settings, init_pid: int, absent: Mapping[str, str]) -> None:
        self._layout = layout
        self._settings = settings
        self._init_pid = init_pid
        self._absent = dict(absent)
        pki = Pki(layout.pki)
        context = tls(pki.certificate("ca"), pki.certificate("admin"), pki.key("admin"))
        self._api = AsyncApi(at.API_ADDRESS, at.API_PORT, context)
        binaries = {name: path for name, path in settings.binaries.items() if name not in absent}
        specs = component_specs(layout, binaries, settings.extra_arguments)
        environment = scrubbed(os.environ, home=layout.folder)
        if "nft" in binaries:  # kube-proxy looks for it on PATH
            environment["PATH"] = with_folder(environment.get("PATH", ""), Path(binaries["nft"]).parent)
        self._specs = {spec.name: spec for spec in specs}
        self._components = {
            spec.name: Component(spec, layout, environment, say, partial(self._gate, spec.name)) for spec in specs
        }
        self._proxy_node = ProxyNode(self._api, partial(self._well, KUBE_PROXY), self._renew_proxy)
        self._gateway = GatewayObjects(self._api, Path(binaries.get(CONTOUR, "")).parent / CRDS, say)
        self._rotation = Rotation(layout.access_log, partial(self._well, ENVOY), self._reopen_access_log)
        self._bootstrapped = asyncio.Event()
        self._settled = {name for name in self._components if name not in CONSEQUENCES}
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
            *(self._task(self._first_time(name), name) for name in CONSEQUENCES if name in self._components),
        ]
        if KUBE_PROXY in self._components:
            tasks.append(self._task(self._proxy_node.keep(), "node of kube-proxy"))
        if CONTOUR in self._components:
            tasks.append(self._task(self._gateway.make(), "objects of the Gateway"))
            tasks.append(self._task(self._rotation.keep(), "rotation of the access log"))
        if PROMETHEUS in self._components:
            tasks.append(self._task(keep_targets(self._api, self._layout.prometheus_targets), "targets of Prometheus"))
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
                await bootstrap.apply(self._api, self._settings.bootstrap_token, dns=COREDNS in self._components)
            except (ApiError, OSError) as error:
                if str(error) != seen and isinstance(error, ApiError):
                    say(f"bootstrap objects, trying again: {error}")
                seen = str(error)
                await asyncio.sleep(BOOTSTRAP_RETRY_SECONDS)
                continue
            self._bootstrapped.set()
            return

    async def _first_time(self, name: str) -> None:
        """Until this component is well for the first time, and counts; one that keeps ending before is given up."""
        component = self._components[name]
        while not await self._well(name):
            status = component.status()
            if status.restarts >= GIVE_UP_AFTER and status.exit_code is not None:
                how = f"it ended {status.restarts} times at its start ({describe(status.exit_code)})"
                await self._give_up(name, f"{how}: {_last_line(self._layout.log(name))}")
                return
            await asyncio.sleep(GATE_SECONDS)
        if name == KUBE_PROXY:
            namespace.route_services(Services.PROXIED)
        self._settled.add(name)

    async def _give_up(self, name: str, reason: str) -> None:
        await self._components[name].stop(kill=True)
        self._absent[name] = reason
        say(f"going on without {name}: {reason}")
        if name == KUBE_PROXY:
            namespace.route_services(Services.UNPROXIED)
        if name == CONTOUR and ENVOY not in self._absent:
            await self._give_up(ENVOY, "contour, which tells it what to serve, is not there")

    def _reopen_access_log(self) -> bool:
        return self._components[ENVOY].signal(signal.SIGUSR1)

    def _renew_proxy(self) -> None:
        if self._components[KUBE_PROXY].renew():
            say("kube-proxy is started again: its Node is another one now")

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
            "rotate": self._rotate,
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

    async def _rotate(self) -> dict[str, Any]:
        if ENVOY not in self._components or not await self._rotation.rotate():
            raise DevclusterError("Envoy does not serve, so that there is no access log to begin anew")
        return {}

    def _component(self, request: dict[str, Any]) -> Component:
        name = str(request["component"])
        if (reason := self._absent.get(name)) is not None:
            raise DevclusterError(f"this cluster has no {name}: {reason}")
        if name not in self._components:
            raise DevclusterError(f"no component {name}; there are {', '.join(self._components)}")
        return self._components[name]

    async def _status(self) -> dict[str, Any]:
        """Phase and health of each component, asked now. Ready: all are well and pods can be created.

        What is absent is listed with its reason, and does not count.
        """
        names = [name for name in self._components if name not in self._absent]
        answers = await asyncio.gather(*map(self._well, names))
        health = [is_well and name in self._settled for name, is_well in zip(names, answers, strict=True)]
        made = self._bootstrapped.is_set() and (CONTOUR not in names or self._gateway.served.is_set())
        ready = all(health) and made and await bootstrap.usable(self._api)
        listed = [
            {**asdict(self._components[name].status()), "well": is_well, "reason": ""}
            for name, is_well in zip(names, health, strict=True)
        ]
        nothing = {"phase": "absent", "pid": None, "restarts": 0, "exit_code": None, "well": False}
        listed += [{"name": name, **nothing, "reason": reason} for name, reason in self._absent.items()]
        return {"ready": ready, "components": listed}

    async def _gate(self, name: str) -> Sequence[str]:
        """Until a component may start: the one that it must not start before is well, and what it reads is there. What
        it is told only now."""
        after = self._specs[name].after
        if name == ENVOY and name in self._settled:
            after = None  # only its first start waits: later it is, as anywhere, Envoy that waits for Contour
        while after is not None and not await self._answers(after):
            await asyncio.sleep(GATE_SECONDS)
        if name == COREDNS:
            await self._bootstrapped.wait()  # without its rights it would wait for seconds before it tries again
        if name == CONTOUR:
            await self._gateway.defined.wait()
        return await self._proxy_node.arguments() if name == KUBE_PROXY else ()

    async def _well(self, name: str) -> bool:
        return self._components[name].status().phase == "running" and await self._answers(name)

    async def _answers(self, name: str) -> bool:
        return all(await asyncio.gather(*map(well, self._specs[name].probes)))


def _last_line(log: Path) -> str:
    """The last thing that a component said."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return "it said nothing"
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")


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
        absent = dict(settings.absent)
        if KUBE_PROXY not in absent and (reason := namespace.proxy_refusal(settings.binaries["nft"])) is not None:
            absent[KUBE_PROXY] = reason
        namespace.route_services(Services.UNPROXIED if KUBE_PROXY in absent else Services.STARTING)
        prepare(layout, port=port, bootstrap_token=settings.bootstrap_token, now=datetime.now(UTC))
        if CONTOUR in settings.binaries:
            write_envoy_bootstrap(layout, settings.binaries[CONTOUR])
        init = ProcessId.of(init_pid)
        if own is None or init is None:
            raise DevclusterError("/proc does not show this process; mount it")
        write_state(layout.state, State(own, init, port, user_namespace, time.time()))
        commands = control.listen(layout.control)
        say(f"Kubernetes {settings.version} ({settings.source}), 127.0.0.1:{port}, user namespace: {user_namespace}")

        async def main() -> None:
            supervisor = Supervisor(layout, settings, init_pid, absent)
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
