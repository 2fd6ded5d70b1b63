"""A real Kubernetes control plane as one process tree, without Docker and, where user namespaces allow, without root."""

from sartor_devcluster.binaries import Binaries, Source, find_binaries
from sartor_devcluster.cluster import Cluster, DevCluster, clusters
from sartor_devcluster.errors import (
    BinariesError,
    DevclusterError,
    IsolationError,
    NotRunningError,
    StartError,
    StateError,
)
from sartor_devcluster.health import ComponentHealth, Status

__all__ = [
    "Binaries",
    "BinariesError",
    "Cluster",
    "ComponentHealth",
    "DevCluster",
    "DevclusterError",
    "IsolationError",
    "NotRunningError",
    "Source",
    "StartError",
    "StateError",
    "Status",
    "clusters",
    "find_binaries",
]
