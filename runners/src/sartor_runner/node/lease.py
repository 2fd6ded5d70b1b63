"""The node's Lease in `kube-node-lease`: renewed every 10 s, it says that the node lives.

When it is not renewed for 40 s the node counts as lost and its pods are moved. Specification: kubelet `nodelease`.
"""

import asyncio
import logging
from collections.abc import Callable

from sartor_runner.api.client import ApiClient, Object
from sartor_runner.api.errors import ApiError, UnreachableError
from sartor_runner.core.times import rfc3339_micro

logger = logging.getLogger(__name__)

NAMESPACE = "kube-node-lease"
DURATION_SECONDS = 40
RENEW_SECONDS = 10.0
RETRY_SECONDS = 1.0


class NodeLease:
    """`owner`: the node's UID, so that the lease goes with the node."""

    def __init__(self, client: ApiClient, node: str, owner: Callable[[], str], clock: Callable[[], float]) -> None:
        self._client, self._node, self._owner, self._clock = client, node, owner, clock
        self._known: Object | None = None

    async def renew(self) -> None:
        """Once. Raises the API's errors; a conflict makes the next renewal look at what is there first."""
        base = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
        if self._known is None:
            try:
                self._known = await self._client.get(f"{base}/{self._node}")
            except ApiError as error:
                if error.status != 404:
                    raise
                self._known = await self._client.create(base, self._lease({}))
                return
        known, self._known = self._known, None
        self._known = await self._client.update(f"{base}/{self._node}", self._lease(known))

    async def run(self) -> None:
        """For ever; ends by cancellation only."""
        while True:
            try:
                # A request that hangs must not take the time of those that would still save the node.
                async with asyncio.timeout(RENEW_SECONDS):
                    await self.renew()
                await asyncio.sleep(RENEW_SECONDS)
            except (ApiError, UnreachableError, TimeoutError) as error:
                logger.warning("the node's lease was not renewed: %s", str(error) or "no answer in time")
                await asyncio.sleep(RETRY_SECONDS)

    def _lease(self, known: Object) -> Object:
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": self._owner()}
        metadata = {**known.get("metadata", {}), "name": self._node, "namespace": NAMESPACE, "ownerReferences": [owner]}
        spec = {
            "holderIdentity": self._node,
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": rfc3339_micro(self._clock()),
        }
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
