"""The namespaces of a cluster, and the process whose end is everybody's end.

The supervisor moves into a new network namespace and makes a new PID namespace for its children. The first child is that
namespace's process 1; it does nothing but read a pipe whose other end the supervisor alone holds. When the supervisor dies,
by whatever signal, the pipe closes, process 1 ends, and the kernel kills every process of the namespace, also those that
daemonised themselves. There is no list of processes that could be incomplete.

Sockets stay in the network namespace they were made in: a listener that the supervisor bound before it moved keeps accepting
connections of the host, while what it dials afterwards is inside. The forwarder needs no more than that.

A process that has made a PID namespace for its children can start no thread (clone(2), EINVAL): the supervisor does all its
work in one event loop.

Python 3.11 has no `os.unshare`, hence the calls through libc (unshare(2), prctl(2), user_namespaces(7)).
"""

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from sartor_devcluster import addresses as at
from sartor_devcluster.errors import IsolationError

_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG = 1
NFT_SECONDS = 10.0

NEEDED_TOOLS = {"ip": "iproute2", "nsenter": "util-linux"}
"""Programs that are run, with the package that has them."""


def require_tools() -> None:
    """Raises `IsolationError` where this is not Linux or a program is missing."""
    if not Path("/proc/self/ns/net").exists():
        raise IsolationError(
            "a cluster of our own needs Linux's namespaces; on this system use an existing cluster (for example kind) "
            "by its kubeconfig"
        )
    for tool, package in NEEDED_TOOLS.items():
        if shutil.which(tool) is None:
            raise IsolationError(f"{tool} is missing; install the package {package}")


def isolate(*, user_namespace: bool) -> bool:
    """Move this process into a new network namespace; its next children go into a new PID namespace.

    Without the privilege (or where `user_namespace` asks for it) a user namespace gives it. The process must have one
    thread. Returns whether a user namespace was made. Raises `IsolationError` where the machine allows neither.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not user_namespace and libc.unshare(_NEWNET | _NEWPID) == 0:
        return False
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_NEWUSER | _NEWNET | _NEWPID) != 0:
        raise IsolationError(
            f"this machine makes no namespaces for us ({os.strerror(ctypes.get_errno())}); {_advice()}"
        )
    try:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    except OSError as error:
        raise IsolationError(f"{error.filename}: {error.strerror}; {_advice()}") from error
    return True


def _advice() -> str:
    return (
        "run as root, or allow user namespaces: sysctl user.max_user_namespaces=15000 and, where they exist, "
        "kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0"
    )


def start_init() -> tuple[int, int]:
    """Start process 1 of the PID namespace. Returns its number out here and our end of the pipe, to be kept open."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_init(reading)
    os.close(reading)
    return pid, writing


def _be_init(reading: int) -> None:
    """Never returns. Process 1 gets no signals from its children, and from outside only SIGKILL and SIGSTOP."""
    try:
        # The pipe is enough unless we are stopped when the supervisor dies; SIGKILL reaches a stopped process.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans are ours: let the kernel reap them
        keep = {reading}
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
            if int(name) not in keep:
                try:
                    os.close(int(name))
                except OSError:  # the one that listdir itself had open
                    continue
        while os.read(reading, 1):
            pass
    finally:
        os._exit(0)


def configure_loopback() -> None:
    """Give `lo` the cluster's addresses. Raises `IsolationError` with what `ip` said."""
    _ip(
        "link set lo up",
        f"address add {at.API_ADDRESS}/32 dev lo",
        f"route add local {at.NODES} dev lo",
        f"route add local {at.PODS} dev lo",
    )


class Services(StrEnum):
    """How far ClusterIPs lead."""

    UNPROXIED = "unproxied"
    """The API server's alone leads somewhere: it is a local address, at which the API server listens."""
    STARTING = "starting"
    """kube-proxy has not written its rules yet: what goes to a ClusterIP is dropped, and sent again a second later."""
    PROXIED = "proxied"
    """kube-proxy's rules take everything. The addresses are local, or its refusals would not come back to who asked."""


def route_services(services: Services) -> None:
    """Route ClusterIPs. To be called again when that changes. Raises `IsolationError` with what `ip` said.

    A local address without rules would be answered by whoever listens on 0.0.0.0, so these wait for the rules.
    """
    match services:
        case Services.UNPROXIED:
            _ip(f"route replace local {at.KUBERNETES_SERVICE}/32 dev lo")
        case Services.STARTING:
            _ip(f"route replace {at.SERVICES} dev lo src {at.API_ADDRESS}")
        case Services.PROXIED:
            _ip(f"route replace local {at.SERVICES} dev lo src {at.API_ADDRESS}")


def _ip(*commands: str) -> None:
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise IsolationError(f"cannot set up the namespace's loopback: {done.stderr.strip()}")


TRIAL = """\
table ip sartor-trial {
  map services { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain refuse { reject; }
  chain output { type nat hook output priority -100; ip daddr . meta l4proto . th dport vmap @services; }
  chain input { type filter hook input priority 0; fib daddr type local ct state new jump refuse; }
  chain postrouting { type nat hook postrouting priority 100; ct status dnat masquerade fully-random; }
}
delete table ip sartor-trial
"""
"""One of each kind that kube-proxy's rules are made of; it is made and removed in one transaction."""


def proxy_refusal(nft: str) -> str | None:
    """Why kube-proxy cannot work in this network namespace, as a sentence; None if its kind of rules is accepted here."""
    try:
        done = subprocess.run(
            [nft, "-f", "-"], input=TRIAL, capture_output=True, text=True, timeout=NFT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nft cannot be run: {error}"
    if done.returncode == 0:
        return None
    said = (done.stderr.strip().splitlines() or ["no reason given"])[0].removeprefix("/dev/stdin:")
    return (
        f"this kernel takes no rules from nft ({said}); load its modules as root (modprobe nf_tables nft_chain_nat "
        "nft_fib_ipv4 nft_reject_ipv4 nft_masq nf_conntrack)"
    )


def enter_command(pid: int, command: Sequence[str], *, user_namespace: bool) -> list[str]:
    """The arguments that run `command` in the network namespace of process `pid`, as a process of the caller's."""
    user = ["--preserve-credentials", f"--user=/proc/{pid}/ns/user"] if user_namespace else []
    return ["nsenter", *user, f"--net=/proc/{pid}/ns/net", "--", *command]
