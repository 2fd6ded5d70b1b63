"""The whole node: credentials, registration, lease, pods, kubelet API, and the way down."""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from sartor_runner.api import keys
from sartor_runner.api.client import ApiClient
from sartor_runner.api.credentials import Credentials, in_cluster, kubeconfig
from sartor_runner.api.errors import ApiError, UnreachableError
from sartor_runner.api.informer import Informer
from sartor_runner.config import Config
from sartor_runner.errors import ConfigurationError
from sartor_runner.host.addresses import Addresses
from sartor_runner.host.images import Images
from sartor_runner.host.probing import Prober
from sartor_runner.node import machine as machines
from sartor_runner.node.authorize import Authorizer, server_context
from sartor_runner.node.events import Events, Subject
from sartor_runner.node.kubelet_api import KubeletApi
from sartor_runner.node.lease import NodeLease
from sartor_runner.node.machine import Machine, Users
from sartor_runner.node.manager import PodManager
from sartor_runner.node.registration import Registration, own_address
from sartor_runner.node.sources import SourceCache

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
SHUTDOWN_SECONDS = 1.0
"""How long readers of logs are waited for at the end."""
GOING_DOWN = (False, "KubeletNotReady", "node is shutting down")


class Runner:
    """`run` until a signal; then processes are left alone or stopped, as the configuration says."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = Path(config.directory)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Raises `ConfigurationError` for what only a person can put right; waits for a server that is away."""
        os.umask(0o022)
        self._make_root()
        with _only_one(self.root):
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
            credentials = await self._credentials()
            if credentials is None:
                return  # the signal came before the node had a certificate
            client = ApiClient(credentials)
            try:
                await self._serve(client)
            finally:
                await client.close()

    async def _serve(self, client: ApiClient) -> None:
        config, clock = self.config, time.time
        address = config.node.address or own_address(client.credentials.host_and_port)
        registration = Registration(client, config, address, clock)
        machine = Machine(
            config=config,
            root=self.root,
            images=Images(config.environments, linux=sys.platform == "linux"),
            program=machines.sandbox_program(config),
            prober=Prober(),
            client=client,
            events=Events(client, config.node.name, clock),
            sources=SourceCache(client, clock),
            users=Users(config.sandbox.first_user(), config.sandbox.users(), machines.is_real_root()),
            addresses=None,
            address=address,
            clock=clock,
            allocatable=registration.allocatable,
        )
        registration.images = machine.images.names()
        if not await self._until_done(registration.register):
            return
        await self._addresses(machine, registration)
        registration.renumber = partial(self._addresses, machine, registration)
        manager = PodManager(machine)
        lease = NodeLease(client, config.node.name, lambda: registration.uid, clock)
        services = Informer(client, "/api/v1/services")
        machine.services = lambda: list(services.store.values())
        pods = Informer(
            client,
            "/api/v1/pods",
            field_selector=f"spec.nodeName={config.node.name}",
            changed=manager.changed,
            removed=manager.removed,
        )
        node = Subject("Node", "", config.node.name, config.node.name)
        machine.events.emit(node, "Normal", "Starting", "Starting sartor-runner.")
        works = [
            machine.events.run,
            lease.run,
            registration.run,
            services.run,
            manager.watch_memory,
            manager.watch_disk,
        ]
        tasks = [asyncio.create_task(work()) for work in works]
        if config.api.bootstrap_kubeconfig is not None and config.api.kubeconfig is None:
            bootstrap = kubeconfig(Path(config.api.bootstrap_kubeconfig))
            renewing = keys.keep_renewed(self._keys, config.node.name, bootstrap, client, clock)
            tasks.append(asyncio.create_task(renewing))
        site = await self._kubelet_api(machine, manager, tasks) if config.kubelet_api.enabled else None
        try:
            await self._first(services.synced.wait(), tasks)
            tasks.append(asyncio.create_task(pods.run()))
            await self._first(pods.synced.wait(), tasks)
            if not self._stop.is_set():
                await manager.clean_orphans(item["metadata"]["uid"] for item in pods.store.values())
                logger.info("node %s is ready at %s with %d pods", machine.name, address, len(pods.store))
            await self._first(self._stop.wait(), tasks)
            if config.node.shutdown == "stop":
                registration.ready = GOING_DOWN
                with contextlib.suppress(ApiError, UnreachableError):
                    await registration.write()
                await manager.stop_all(config.node.shutdown_grace_seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await manager.close()
            if site is not None:
                await site.cleanup()
            await machine.prober.close()

    async def _first(self, waiting: Coroutine[Any, Any, Any], tasks: list[asyncio.Task[None]]) -> None:
        """Waits for it, for the signal to stop, or for a task that should never end; the last raises its error."""
        mine = asyncio.create_task(waiting)
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({mine, stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in (mine, stop):
            task.cancel()
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _until_done(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Again and again while the server is away or refuses; False when the signal to stop came first."""
        while not self._stop.is_set():
            try:
                await work()
                return True
            except (ApiError, UnreachableError) as error:
                logger.warning("%s; trying again in %.0f s", error, RETRY_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._stop.wait()
        return False

    @property
    def _keys(self) -> Path:
        return self.root / "credentials"

    def _make_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o711)
            (self.root / "pods").mkdir(exist_ok=True, mode=0o700)
            self._keys.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"directory {self.root}: {error.strerror}; name another by `directory`") from error

    async def _credentials(self) -> Credentials | None:
        """None when the signal to stop came first."""
        api = self.config.api
        if api.kubeconfig is not None:
            return kubeconfig(Path(api.kubeconfig))
        if api.bootstrap_kubeconfig is None:
            return in_cluster()
        bootstrap = kubeconfig(Path(api.bootstrap_kubeconfig))
        given: list[Credentials] = []

        async def ask() -> None:
            given.append(await keys.node_credentials(self._keys, self.config.node.name, bootstrap, time.time()))

        return given[0] if await self._until_done(ask) else None

    async def _addresses(self, machine: Machine, registration: Registration) -> None:
        addresses, users = machines.taken_before(self.root)
        machine.users.taken |= users
        wanted = self.config.node.pod_addresses
        if wanted == "node":
            return
        text = await registration.pod_range() if wanted == "podCIDR" else wanted
        if self.config.node.local_route:
            done = subprocess.run(
                ["ip", "route", "replace", "local", text, "dev", "lo"], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise ConfigurationError(f"the route for pod addresses {text} was not made: {done.stderr.strip()}")
        machine.addresses = Addresses(text, addresses)
        machine.addresses.check()

    async def _kubelet_api(
        self, machine: Machine, manager: PodManager, tasks: list[asyncio.Task[None]]
    ) -> web.AppRunner:
        table, client = self.config.kubelet_api, machine.client
        pair = table.certificate or str(await keys.serving_pair(self._keys, machine.name, machine.address))
        ca = Path(table.client_ca).read_bytes() if table.client_ca else client.credentials.ca
        context = server_context(pair, table.key, ca)
        api = KubeletApi(manager, Authorizer(client, machine.name, machine.clock), machine.name)
        site = web.AppRunner(api.application(), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await site.setup()
        host = table.bind or machine.address
        try:
            await web.TCPSite(site, host, table.port, ssl_context=context).start()
        except OSError as error:
            raise ConfigurationError(
                f"the kubelet API cannot listen at {host}:{table.port}: {error.strerror}"
            ) from error
        if table.serving == "cluster" and table.certificate is None:
            # New connections take what the context holds then; until the cluster's is there the self-signed one serves.
            renewing = keys.keep_serving(
                self._keys, machine.name, machine.address, client, machine.clock, context.load_cert_chain
            )
            tasks.append(asyncio.create_task(renewing))
        return site


@contextlib.contextmanager
def _only_one(root: Path) -> Generator[None]:
    """Two runners in one directory would both look after every process. Raises `ConfigurationError` for the second."""
    fd = os.open(root / "runner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigurationError(f"another sartor-runner works in {root}; end it, or name another directory") from error
    finally:
        os.close(fd)
