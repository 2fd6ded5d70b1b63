"""Addresses inside a cluster's network namespace. Every cluster has its own namespace, so all clusters use the same ones.

The API server and EndpointSlices refuse loopback addresses, hence private ranges that are local to the namespace's `lo`:
a process in the namespace may bind any node or pod address, and nothing leaves the machine.
"""

NODES = "10.240.0.0/16"
"""Any address of it may be a node's InternalIP; the first is the control plane's."""

PODS = "10.244.0.0/16"
"""The cluster CIDR: the controller manager gives each Node a /24 of it, and a process may bind any address of it."""

SERVICES = "10.96.0.0/16"
"""ClusterIPs. There is no kube-proxy: only the `kubernetes` Service answers on its own."""

KUBERNETES_SERVICE = "10.96.0.1"
"""ClusterIP of `kubernetes.default`. It is local too, and the API server listens on the Service's own port, so a
pod's in-cluster configuration works without kube-proxy."""

API_ADDRESS = "10.240.0.1"
API_PORT = 443

ETCD_CLIENT = "127.0.0.1:2379"
ETCD_PEER = "127.0.0.1:2380"
ETCD_HEALTH_PORT = 2381
CONTROLLER_MANAGER_PORT = 10257
SCHEDULER_PORT = 10259

HOST = "127.0.0.1"
"""Where the forwarder listens, outside and inside the namespace."""

CLUSTER_DOMAIN = "cluster.local"
