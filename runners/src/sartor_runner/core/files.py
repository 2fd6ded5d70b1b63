"""The files of `/etc` that a pod has of its own.

Specification: kubelet `kubelet_pods.go` (`managedHostsFileContent`, `nodeHostsFileContent`, `GeneratePodHostNameAndDomain`).
"""

from collections.abc import Iterable, Mapping

from sartor_runner.core.dns import Resolver
from sartor_runner.core.pod import Json, Pod

NAMES = {0: "root", 65534: "nobody"}
HOSTS = """\
# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""
HOST_NETWORK = "# Kubernetes-managed hosts file (host network).\n"


def pod_files(
    pod: Pod, users: Mapping[int, int], address: str, resolver: Resolver, host_hosts: str, cluster_domain: str
) -> dict[str, str]:
    """Name to text. `users`: user to group of every identity that the pod's containers take."""
    known = {0: 0, 65534: 65534} | dict(users)
    passwd = [
        f"{NAMES.get(u, f'user{u}')}:x:{u}:{g}::{'/root' if u == 0 else '/tmp'}:/bin/sh"
        for u, g in sorted(known.items())
    ]
    groups = sorted({0, 65534, *known.values()})
    own = hosts(pod, address, cluster_domain) if not pod.host_network else HOST_NETWORK + host_hosts
    return {
        "hosts": own + _aliases(pod.spec.get("hostAliases") or ()),
        "hostname": pod.hostname + "\n",
        "passwd": "".join(f"{line}\n" for line in passwd),
        "group": "".join(f"{NAMES.get(g, f'group{g}')}:x:{g}:\n" for g in groups),
        "resolv.conf": resolver.text(),
    }


def hosts(pod: Pod, address: str, cluster_domain: str) -> str:
    """`/etc/hosts` of a pod with an address of its own."""
    subdomain = pod.spec.get("subdomain")
    domain = f"{subdomain}.{pod.namespace}.svc.{cluster_domain}" if subdomain else ""
    names = [f"{pod.hostname}.{domain}", pod.hostname] if domain else [pod.hostname]
    return HOSTS + ("\t".join([address, *names]) + "\n" if address else "")


def _aliases(aliases: Iterable[Json]) -> str:
    lines = ["\t".join([alias["ip"], *(alias.get("hostnames") or ())]) + "\n" for alias in aliases]
    return "".join(["\n# Entries added by HostAliases.\n", *lines]) if lines else ""
