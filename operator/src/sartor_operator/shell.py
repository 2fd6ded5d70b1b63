"""The process: kopf starts it, gives it a loop, and ends it on a signal; everything else hangs on that.

Order of the start: the lease, then one full list of every kind (so that no decision is made from half of the picture), then
watches and workers. Events only put what they bring into the cache; the cache tells which keys to look at.

kopf does not watch: it does not tell what was deleted while a watch was interrupted, and with it watching Sartor's own
kinds a restart with 1,000 syntheses (and as many runs) took 78 s on a busy machine, for a cause that was not looked into.
The reflector's lists replace what is cached.
"""

import asyncio
import logging
import os
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import kopf
from prometheus_client import start_http_server

from sartor_operator import names
from sartor_operator.apply import Applier
from sartor_operator.books import ProxyBooks
from sartor_operator.cache import Cache, Key, key_of
from sartor_operator.client import Client
from sartor_operator.connection import Connection
from sartor_operator.controller import Controller, keys_for, work
from sartor_operator.errors import ApiError, NotFoundError, PortError, RefusedError
from sartor_operator.keyqueue import KeyQueue
from sartor_operator.kinds import (
    CHILDREN,
    GATEWAY,
    GATEWAY_CLASS,
    HTTP_ROUTE,
    LOOKED_AT,
    OPTIONAL,
    ROLLOUT,
    WHOLE,
    Kind,
    Manifest,
)
from sartor_operator.lease import Leadership
from sartor_operator.metrics import Metrics
from sartor_operator.reflector import Reflector
from sartor_operator.rollout.analysis import Analyst
from sartor_operator.rollout.analysis.fetch import Fetch
from sartor_operator.rollout.keys import urgent
from sartor_operator.rollout.samples import Verdicts
from sartor_operator.settings import Settings
from sartor_operator.stacks import RepositoryStacks

LOG = logging.getLogger(__name__)
LEASE_LOST = 3
"""Exit code when the lease was lost."""
ROLLOUT_WORKERS = 5
"""Workers that look at rollouts only, one of them only at what cannot wait: an abort waits for nothing that is under way."""
ROLLOUT_BACKOFF = 1.0
"""Longest back-off of a rollout, in seconds: what a human asks for meanwhile waits no longer."""
ASK_AGAIN = 15.0
"""Seconds between two questions for kinds that the cluster does not know."""


@dataclass(frozen=True)
class Options:
    """How the process is started. `namespace` None: all namespaces. `lease_seconds` 0: without a lease."""

    connection: Connection
    settings: Settings
    namespace: str | None
    identity: str
    lease_namespace: str
    lease_name: str = "sartor-operator"
    lease_seconds: float = 15.0
    metrics_port: int = 0
    workers: int = 8
    token_file: Path | None = None
    access_logs: tuple[Path, ...] = ()
    """Those of the gateway, one for each Envoy."""
    verdicts: Verdicts | None = None
    """In place of the analysis, for tests."""


class Operator:
    """Everything that lives as long as the process."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._clock = time.monotonic
        self.metrics = Metrics(clock=self._clock)
        self.cache = Cache()
        self.queue: KeyQueue[Key] = KeyQueue(self._clock)
        self.rollouts: KeyQueue[Key] = KeyQueue(self._clock, longest_backoff=ROLLOUT_BACKOFF)
        self.known: set[Kind] = set()
        """Optional kinds that the cluster knows."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: Client | None = None
        self._plain: aiohttp.ClientSession | None = None
        self._lease: Leadership | None = None

    async def start(self) -> None:
        """Know the cluster, become the leader, begin to work."""
        options = self._options
        client = self._client = Client(options.connection, counted=self.metrics.counted)
        self._plain = aiohttp.ClientSession()
        # At once: a lease that its holder left behind takes its time, and so do lists.
        await asyncio.gather(self._know(client), self._lead(client))
        self.metrics.leader.set(1)
        later = [self._reflector(client, kind) for kind in OPTIONAL if kind not in self.known]
        self.cache.listen(self._changed)
        self.metrics.objects.set_function(lambda: len(self.cache))
        self.metrics.depth.set_function(lambda: len(self.queue) + len(self.rollouts))
        applier = Applier(client, self.cache, RepositoryStacks(self._session, options.token_file), now=time.time)
        controller = Controller(
            self.cache,
            client,
            applier,
            options.settings,
            self.metrics,
            time.time,
            verdicts=self._verdicts(options),
            books=ProxyBooks(self._session, time.time),
            gateway_api=lambda: HTTP_ROUTE in self.known,
        )
        for kind in LOOKED_AT:
            for manifest in self.cache.all(kind):
                self._queue_of(kind).add(key_of(kind, manifest))
        for reflector in later:
            self._spawn(self._await_kind(reflector))
        for _ in range(options.workers):
            self._spawn(
                work(self.queue, controller, self.metrics, clock=self._clock, now=time.time, lets_pass=self.rollouts)
            )
        for number in range(ROLLOUT_WORKERS):
            self._spawn(
                work(self.rollouts, controller, self.metrics, clock=self._clock, now=time.time, only_first=number == 0)
            )
        LOG.info("leading; %d objects known", len(self.cache))

    async def stop(self) -> None:
        """End the work, then give the lease back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._lease is not None:
            await self._lease.release()
        self.metrics.leader.set(0)
        if self._client is not None:
            await self._client.close()
        if self._plain is not None:
            await self._plain.close()

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _know(self, client: Client) -> None:
        """The cache holds the cluster, and is kept up to date."""
        begun = self._clock()
        reflectors = await self._first_lists(client)
        LOG.info("%d objects listed in %.1f s", len(self.cache), self._clock() - begun)
        for reflector in reflectors:
            self._spawn(reflector.run())

    async def _lead(self, client: Client) -> None:
        """This process is the leader, and ends when it is not any more."""
        options = self._options
        if not options.lease_seconds:
            return
        lease = self._lease = Leadership(
            client,
            namespace=options.lease_namespace,
            name=options.lease_name,
            identity=options.identity,
            seconds=options.lease_seconds,
            wall=time.time,
            clock=self._clock,
        )
        await lease.acquire()
        client.fence(lambda: lease.valid)
        self._spawn(self._keep(lease))

    def _verdicts(self, options: Options) -> Verdicts:
        if options.verdicts is not None:
            return options.verdicts
        analyst = Analyst(options.access_logs, Fetch(self._session), changed=self._outcome_changed)
        self._spawn(analyst.run())
        return analyst

    def _outcome_changed(self, namespace: str, name: str, first: bool) -> None:
        """The samples of a rollout's step say something else than before."""
        self.rollouts.add((ROLLOUT, namespace, name), first=first)

    def _session(self) -> aiohttp.ClientSession:
        assert self._plain is not None, "the session was opened at the start"
        return self._plain

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A part of the operator is gone: half an operator is worse than a restart.
            LOG.critical("a part of the operator ended", exc_info=error)
            os._exit(1)

    async def _keep(self, lease: Leadership) -> None:
        await lease.keep()
        # At once, and without anything that could still write.
        LOG.critical("not the leader any more; the process ends")
        logging.shutdown()
        os._exit(LEASE_LOST)

    async def _first_lists(self, client: Client) -> list[Reflector]:
        made: list[Reflector] = []
        for kind in (*WHOLE, *CHILDREN):
            reflector = self._reflector(client, kind)
            await self._listed(kind, reflector)
            made.append(reflector)
        for kind in OPTIONAL:
            reflector = self._reflector(client, kind)
            if await self._knows(reflector):
                self.known.add(kind)
                made.append(reflector)
        return made

    def _reflector(self, client: Client, kind: Kind) -> Reflector:
        everything = kind in WHOLE or kind in (GATEWAY_CLASS, GATEWAY)
        return Reflector(
            client,
            self.cache,
            kind,
            self._options.namespace if kind.namespaced else None,
            selector=None if everything else names.SELECTOR,
            seen=lambda k: self.metrics.seen(k.kind),
        )

    async def _knows(self, reflector: Reflector) -> bool:
        """List a kind that the cluster may not know, or not let the operator read. Anything else is tried until it works."""
        while True:
            try:
                await reflector.list()
                return True
            except NotFoundError:
                return False
            except RefusedError as error:
                LOG.warning("%s may not be listed: %s; rollouts go without", reflector.kind.plural, error)
                return False
            except ApiError as error:
                LOG.error("%s cannot be listed: %s; again in 5 s", reflector.kind.plural, error)
                await asyncio.sleep(5.0)

    async def _await_kind(self, reflector: Reflector) -> None:
        """Ask again and again for a kind that was not there at the start (CRDs that are installed later), then follow it."""
        while not await self._knows(reflector):
            await asyncio.sleep(ASK_AGAIN)
        self.known.add(reflector.kind)
        for manifest in self.cache.all(ROLLOUT):
            self.rollouts.add(key_of(ROLLOUT, manifest))
        await reflector.run()

    async def _listed(self, kind: Kind, reflector: Reflector) -> None:
        while True:
            try:
                await reflector.list()
                return
            except ApiError as error:
                LOG.error("%s cannot be listed: %s; again in 5 s", kind.plural, error)
                await asyncio.sleep(5.0)

    def _changed(self, kind: Kind, before: Manifest | None, now: Manifest | None) -> None:
        for key in keys_for(self.cache, kind, before, now):
            if key[0] is ROLLOUT:
                self.rollouts.add(key, first=urgent(key, kind, before, now))
            else:
                self.queue.add(key)

    def _queue_of(self, kind: Kind) -> KeyQueue[Key]:
        return self.rollouts if kind is ROLLOUT else self.queue


def run(options: Options) -> None:
    """Until a signal ends it. Raises `PortError` if metrics cannot be served at the port."""
    registry = kopf.OperatorRegistry()
    operator = Operator(options)
    if options.metrics_port:
        try:
            start_http_server(options.metrics_port, registry=operator.metrics.registry)
        except OSError as error:
            raise PortError(f"metrics cannot be served at port {options.metrics_port}: {error.strerror}") from error
    _register(registry, operator, options)
    kopf.run(
        registry=registry,
        standalone=True,
        clusterwide=options.namespace is None,
        namespaces=[] if options.namespace is None else [options.namespace],
    )


def _register(registry: kopf.OperatorRegistry, operator: Operator, options: Options) -> None:
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return options.connection.kopf_info()

    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.scanning.disabled = True
        await operator.start()

    async def cleanup(**_: Any) -> None:
        await operator.stop()

    kopf.on.login(registry=registry)(login)
    # Repeated every minute by kopf otherwise; whoever runs the process restarts it sooner, from nothing.
    kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)(startup)
    kopf.on.cleanup(registry=registry)(cleanup)
