"""Addresses inside a cluster's network namespace. Every cluster has its own namespace, so all clusters use the same ones.

The API server and EndpointSlices refuse loopback addresses, hence private ranges that are local to the namespace's `lo`:
a process in the namespace may bind any node or pod address, and nothing leaves the machine.
"""

NODES = "10.240.0.0/16"
"""Any address of it may be a node's InternalIP; the first are the control plane's, the DNS server's, the Gateway's."""

PODS = "10.244.0.0/16"
"""The cluster CIDR: the controller manager gives each Node a /24 of it, and a process may bind any address of it."""

SERVICES = "10.96.0.0/16"
"""ClusterIPs: kube-proxy's rules send what goes to them on to endpoints (`namespace.Services`)."""

KUBERNETES_SERVICE = "10.96.0.1"
"""ClusterIP of `kubernetes.default`. Without kube-proxy it is a local address, on which the API server listens at the
Service's own port, so that a pod's in-cluster configuration works all the same."""

DNS_SERVICE = "10.96.0.10"
"""ClusterIP of `kube-system/kube-dns`."""


API_ADDRESS = "10.240.0.1"
"""The control plane's node address, and the source address of everything that goes to a ClusterIP."""

API_PORT = 443

DNS_ADDRESS = "10.240.0.2"
"""Where CoreDNS listens: an address of its own, so that its ports are in nobody's way."""

DNS_PORT = 53
DNS_HEALTH_PORT, DNS_READY_PORT = 8080, 8181

ETCD_CLIENT = "127.0.0.1:2379"
ETCD_PEER = "127.0.0.1:2380"
ETCD_HEALTH_PORT = 2381
CONTROLLER_MANAGER_PORT = 10257
SCHEDULER_PORT = 10259
PROXY_HEALTH_PORT, PROXY_METRICS_PORT = 10256, 10249

GATEWAY_ADDRESS = "10.240.0.3"
"""The Gateway's: address of a Service of type LoadBalancer, which leads where kube-proxy runs."""

GATEWAY_PORT = 8080
"""Of the Gateway's listener. The Service takes 80 as well, so that a URL needs no port."""

ENVOY_ADDRESS = "10.240.0.4"
"""Where Envoy is asked for its statistics, and reached without kube-proxy."""

ENVOY_PORT = GATEWAY_PORT + 8000
"""Where Contour has Envoy listen for the Gateway's listener, on every address of the namespace."""

ENVOY_STATS_PORT = 8002
PROMETHEUS_ADDRESS, PROMETHEUS_PORT = "10.240.0.5", 9090
CONTOUR_XDS_PORT, CONTOUR_HEALTH_PORT, CONTOUR_METRICS_PORT, CONTOUR_DEBUG_PORT = 18001, 18002, 18003, 18004

HOST = "127.0.0.1"
"""Where the forwarder listens, outside and inside the namespace."""

CLUSTER_DOMAIN = "cluster.local"
