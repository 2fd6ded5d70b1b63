"""One leader: whoever holds the Lease. Losing it ends the process, since nothing else would stop its writes in time.

As client-go does it: a holder renews every `seconds`/5; who finds a lease whose `renewTime` it has not seen change for its
whole duration takes it (its own clock counts, so clocks need not agree); a holder that could not renew for two thirds of
the duration is no longer one. The write is checked by resource version, so two takers cannot both succeed.
"""

import asyncio
import logging
from collections.abc import Callable

from sartor_operator.client import Client
from sartor_operator.errors import AlreadyExistsError, ApiError, ConflictError, NotFoundError
from sartor_operator.kinds import LEASE, Manifest
from sartor_operator.times import format_micro

LOG = logging.getLogger(__name__)


class Leadership:
    """`wall` is Unix seconds for what is written, `clock` monotonic seconds for what is decided."""

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        seconds: float,
        wall: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seconds = seconds
        self._wall = wall
        self._clock = clock
        self._held: Manifest | None = None
        self._renewed = 0.0

    async def acquire(self) -> None:
        """Returns when this process is the leader."""
        seen: tuple[str, str] | None = None
        since = self._clock()
        told = ""
        while True:
            try:
                lease = await self._read()
                if lease is None:
                    await self._take(None)
                    return
                spec = lease.get("spec", {})
                holder = str(spec.get("holderIdentity") or "")
                now = (holder, str(spec.get("renewTime")))
                if now != seen:
                    seen, since = now, self._clock()
                duration = float(spec.get("leaseDurationSeconds") or self._seconds)
                if holder in ("", self._identity) or self._clock() - since > duration:
                    await self._take(lease)
                    return
                if holder != told:
                    LOG.info("waiting for the lease %s/%s, held by %s", self._namespace, self._name, holder)
                    told = holder
            except (ConflictError, AlreadyExistsError):
                pass  # somebody was faster
            except ApiError as error:
                LOG.warning("lease %s/%s: %s", self._namespace, self._name, error)
            await asyncio.sleep(min(1.0, self._seconds / 5))

    @property
    def valid(self) -> bool:
        """Whether nobody else can have taken the lease yet."""
        return self._held is not None and self._clock() - self._renewed < self._seconds

    async def keep(self) -> None:
        """Renews the lease; returns when it is lost."""
        while True:
            await asyncio.sleep(self._seconds / 5)
            left = self._seconds * 2 / 3 - (self._clock() - self._renewed)
            try:
                # A request that hangs must not keep the process past the time at which another one may lead.
                async with asyncio.timeout(max(0.0, left)):
                    if await self._taken_by_another():
                        LOG.error("the lease %s/%s is lost", self._namespace, self._name)
                        return
            except TimeoutError:
                LOG.warning("renewing the lease %s/%s got no answer", self._namespace, self._name)
            except ApiError as error:
                LOG.warning("the lease could not be renewed: %s", error)
            if self._clock() - self._renewed > self._seconds * 2 / 3:
                LOG.error("the lease could not be renewed for %.0f s", self._clock() - self._renewed)
                return

    async def _taken_by_another(self) -> bool:
        """Renew it, or see that it is another's. Raises `ApiError`."""
        try:
            await self._take(self._held)
        except (ConflictError, NotFoundError):
            lease = await self._read()
            if lease is None or lease.get("spec", {}).get("holderIdentity") != self._identity:
                return True
            self._held = lease
        return False

    async def release(self) -> None:
        """Let the next one take it at once."""
        if self._held is None:
            return
        lease = {**self._held, "spec": {**self._held["spec"], "holderIdentity": ""}}
        self._held = None
        try:
            await self._client.replace(lease)
        except ApiError as error:
            LOG.warning("the lease could not be given back: %s", error)

    async def _read(self) -> Manifest | None:
        try:
            return await self._client.get(LEASE, self._namespace, self._name)
        except NotFoundError:
            return None

    async def _take(self, lease: Manifest | None) -> None:
        begun = self._clock()
        moment = format_micro(self._wall())
        spec = dict((lease or {}).get("spec", {}))
        if spec.get("holderIdentity") != self._identity:
            spec["acquireTime"] = moment
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (lease is not None)
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "renewTime": moment,
        }
        made: Manifest = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": lease["metadata"] if lease else {"name": self._name, "namespace": self._namespace},
            "spec": spec,
        }
        if lease is None:
            self._held = await self._client.create(made, "sartor-lease")
        else:
            self._held = await self._client.replace(made)
        self._renewed = begun
