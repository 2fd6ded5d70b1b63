"""The system calls that no agent's command needs, as a filter for bubblewrap (`--seccomp`).

Everything is allowed but what is listed, as a compiler, a debugger and PyTorch need most of the rest. Listed are the calls
that have been the way out of sandboxes, or reach what namespaces do not cover: new namespaces and mounts (they give back
capabilities inside), kernel keys, BPF, performance counters, `userfaultfd`, `io_uring` (its requests pass no filter),
handles instead of paths, modules, clocks; sockets of families other than UNIX, IP and netlink (vsock reaches the hypervisor
from any network namespace); typing into a terminal. A denied call gives EPERM; `clone3`, whose flags a filter cannot see,
gives ENOSYS, and the C library then uses `clone`. Calls of another architecture (32 bit, x32) end the process: their
numbers would mean something else.

Where a command shares its network with others (a pod), sockets of IP are those of TCP alone, whose ports Landlock holds; so
is a first packet that comes before the connection (TCP Fast Open), which Landlock does not see.

libseccomp compiles it for this machine's architecture (seccomp(2), https://github.com/seccomp/libseccomp).
"""

import ctypes
import ctypes.util
import errno
import os
from collections.abc import Iterator
from functools import cache

from sartor_agents.run.sandbox.errors import SandboxError

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_BAD_ARCHITECTURE = 2
_EQUAL, _GREATER, _MASKED_EQUAL = 4, 6, 7

DENIED = (
    # namespaces and mounts
    "unshare", "setns", "mount", "umount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount",
    "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "name_to_handle_at", "open_by_handle_at", "fanotify_init",
    # the kernel
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "add_key", "keyctl",
    "request_key", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "iopl", "ioperm",
    "modify_ldt", "lookup_dcookie", "memfd_secret", "kcmp", "pidfd_getfd",
    # the machine
    "reboot", "swapon", "swapoff", "syslog", "acct", "quotactl", "quotactl_fd", "settimeofday", "clock_settime",
    "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "vhangup", "nfsservctl", "uselib", "personality",
)  # fmt: skip
TRACING = ("ptrace", "process_vm_readv", "process_vm_writev")
"""Denied as well, but to a profiler."""

_NEWER = {"memfd_secret": 447, "mount_setattr": 442, "open_tree_attr": 467, "pidfd_getfd": 438, "quotactl_fd": 443}
"""Numbers, the same on every architecture, of calls that an older libseccomp does not know."""
_NAMESPACE_FLAGS = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK."""
_IP_FAMILIES, _STREAM, _TYPES, _TCP = (2, 10), 1, 0xF, 6
_FAST_OPEN = 0x20000000
"""MSG_FASTOPEN."""
_SENDING = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""Which argument holds the flags."""
_TERMINAL_INPUT = (0x5412, 0x541C)
"""ioctl TIOCSTI and TIOCLINUX."""


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@cache
def program(*, tracing: bool = False, shared_network: bool = False) -> bytes:
    """The compiled filter. With `tracing`, processes may be looked into; with `shared_network`, of IP there is TCP alone.

    Raises `SandboxError` without libseccomp.
    """
    name = ctypes.util.find_library("seccomp") or "libseccomp.so.2"
    try:
        library = ctypes.CDLL(name, use_errno=True)
    except OSError as error:
        raise SandboxError(
            "SeccompMissing",
            "libseccomp is missing, without which commands are not run; install the package libseccomp2",
        ) from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_rule_add_array.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    context = library.seccomp_init(_ALLOW)
    if not context:
        raise SandboxError("SeccompFailed", "libseccomp gives no filter")
    try:
        _check(library.seccomp_attr_set(context, _BAD_ARCHITECTURE, _KILL_PROCESS))
        for call, refusal, comparisons in _rules(tracing=tracing, shared_network=shared_network):
            number = library.seccomp_syscall_resolve_name(call.encode())
            number = _NEWER.get(call, number) if number == -1 else number
            if number < 0:  # the architecture has no such call
                continue
            array = (_Comparison * len(comparisons))(*comparisons)
            _check(library.seccomp_rule_add_array(context, _ERRNO | refusal, number, len(comparisons), array))
        file = os.memfd_create("seccomp")
        try:
            _check(library.seccomp_export_bpf(context, file))
            return os.pread(file, os.fstat(file).st_size, 0)
        finally:
            os.close(file)
    finally:
        library.seccomp_release(context)


def _rules(*, tracing: bool, shared_network: bool) -> Iterator[tuple[str, int, tuple[_Comparison, ...]]]:
    for call in DENIED if tracing else (*DENIED, *TRACING):
        yield call, errno.EPERM, ()
    yield "clone3", errno.ENOSYS, ()
    for flag in _NAMESPACE_FLAGS:
        yield "clone", errno.EPERM, (_Comparison(0, _MASKED_EQUAL, flag, flag),)
    for call in ("socket", "socketpair"):
        yield call, errno.EPERM, (_Comparison(0, _GREATER, max(_FAMILIES), 0),)
        for family in range(max(_FAMILIES)):
            if family not in _FAMILIES:
                yield call, errno.EPERM, (_Comparison(0, _EQUAL, family, 0),)
    if shared_network:
        yield from _only_tcp()
    for request in _TERMINAL_INPUT:
        yield "ioctl", errno.EPERM, (_Comparison(1, _MASKED_EQUAL, 0xFFFFFFFF, request),)


def _only_tcp() -> Iterator[tuple[str, int, tuple[_Comparison, ...]]]:
    for family in _IP_FAMILIES:
        for kind in range(_TYPES + 1):
            if kind != _STREAM:
                yield "socket", errno.EPERM, (
                    _Comparison(0, _EQUAL, family, 0), _Comparison(1, _MASKED_EQUAL, _TYPES, kind),
                )  # fmt: skip
        yield "socket", errno.EPERM, (_Comparison(0, _EQUAL, family, 0), _Comparison(2, _GREATER, _TCP, 0))
    for call, flags in _SENDING.items():
        yield call, errno.EPERM, (_Comparison(flags, _MASKED_EQUAL, _FAST_OPEN, _FAST_OPEN),)


def _check(code: int) -> None:
    if code < 0:
        raise SandboxError("SeccompFailed", f"libseccomp refused a rule of the filter: {os.strerror(-code)}")
