"""A pod's `/etc/resolv.conf`.

Specification: kubelet `network/dns` (`GetPodDNS`); the order of the lines is containerd's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sartor_runner.core.pod import Json, Pod

CLUSTER_OPTIONS = ("ndots:5",)
MAXIMUM_SERVERS, MAXIMUM_SEARCHES = 3, 32
MAXIMUM_SEARCH_CHARACTERS, MAXIMUM_NAME_CHARACTERS = 2048, 253
"""Of the whole search list, and of one entry (an older glibc aborts on one that is longer)."""


@dataclass(frozen=True)
class Resolver:
    """What a resolv.conf says."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def text(self) -> str:
        """The file."""
        lines = ["search " + " ".join(self.searches)] if self.searches else []
        lines += [f"nameserver {server}" for server in self.servers]
        if self.options:
            lines.append("options " + " ".join(self.options))
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class ClusterDns:
    """The cluster's DNS servers and the domain of its names."""

    servers: tuple[str, ...]
    domain: str


def parse(text: str) -> Resolver:
    """A resolv.conf: servers add up, the last search list wins, a later option replaces an earlier one of its name."""
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str] = {}
    for line in text.split("\n"):
        match line.split():
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["search", *names]:
                searches = [name.removesuffix(".") for name in names if name != "."]
            case ["options", *given]:
                options |= {option.partition(":")[0]: option for option in given}
            case _:  # a comment, or what a pod has no use for
                continue
    return Resolver(tuple(servers), tuple(searches), tuple(options.values()))


def resolver(pod: Pod, host: Resolver, cluster: ClusterDns | None) -> tuple[Resolver, tuple[str, ...]]:
    """The pod's own, and a sentence for each limit that had something cut off.

    Without a `cluster` DNS pods that ask for it get the host's, as they do from a kubelet that knows none.
    """
    policy = pod.spec.get("dnsPolicy") or "ClusterFirst"
    found = host
    if policy == "None":
        found = Resolver()
    elif cluster is not None and (
        policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.host_network)
    ):
        names = (f"{pod.namespace}.svc.{cluster.domain}", f"svc.{cluster.domain}", cluster.domain)
        found = Resolver(cluster.servers, _once((*names, *host.searches)), CLUSTER_OPTIONS)
    return _within_limits(_with_config(found, pod.spec.get("dnsConfig") or {}))


def _with_config(base: Resolver, config: Json) -> Resolver:
    """`dnsConfig` adds servers and searches, and replaces options of the same name."""
    options = {option.partition(":")[0]: option for option in base.options}
    for option in config.get("options") or ():
        value = option.get("value")
        options[option["name"]] = f"{option['name']}:{value}" if value else option["name"]
    return Resolver(
        _once((*base.servers, *(config.get("nameservers") or ()))),
        _once((*base.searches, *(config.get("searches") or ()))),
        tuple(options.values()),
    )


def _within_limits(found: Resolver) -> tuple[Resolver, tuple[str, ...]]:
    sentences: list[str] = []
    servers = found.servers[:MAXIMUM_SERVERS]
    if servers != found.servers:
        sentences.append(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
            + " ".join(servers)
        )
    searches = _fitting(found.searches)
    if searches != found.searches:
        sentences.append(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + " ".join(searches)
        )
    return Resolver(servers, searches, found.options), tuple(sentences)


def _fitting(searches: Sequence[str]) -> tuple[str, ...]:
    kept = [name for name in searches[:MAXIMUM_SEARCHES] if len(name) <= MAXIMUM_NAME_CHARACTERS]
    while len(" ".join(kept)) > MAXIMUM_SEARCH_CHARACTERS:
        kept.pop()
    return tuple(kept)


def _once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
