"""A sandbox by Bubblewrap: Linux namespaces without privileges.

The process is PID 1 of a PID namespace of its own, as in a container (a signal that it does not handle is ignored, but for
SIGKILL), in user, mount, IPC, UTS and cgroup namespaces of its own, without capabilities and without a way to new
privileges. It sees the binds that it was given and an empty folder of its own around them; the network is the host's unless
the environment says otherwise. Seccomp filters are not set.
"""

from dataclasses import dataclass

from sartor_runner.host.sandbox import Launch, Sandbox

PROGRAM_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}

KERNEL_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus")
"""Below /proc, writable for the machine's root: read-only in a sandbox, so that not even a sandbox that was started as that
user could change the machine's settings."""


@dataclass(frozen=True)
class Bubblewrap:
    """`program`: the absolute path of `bwrap`."""

    program: str

    @property
    def name(self) -> str:
        return "bubblewrap"

    def prepare(self, sandbox: Sandbox) -> None:
        """Nothing: mounts are made in the sandbox's own namespace."""

    def launch(self, sandbox: Sandbox) -> Launch:
        """The order of the arguments is the order of mounting."""
        identity = sandbox.identity
        arguments = [
            *("--unshare-user", "--uid", str(identity.user), "--gid", str(identity.group)),
            *("--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
            *("--hostname", sandbox.hostname, "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        ]
        if sandbox.private_network:
            arguments.append("--unshare-net")
        arguments += ["--bind", sandbox.root, "/", "--proc", "/proc", "--dev", "/dev"]
        for name in KERNEL_SETTINGS:
            arguments += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
        # As container runtimes do: engines read there which cores and memory nodes they have.
        arguments += ["--ro-bind", "/sys", "/sys", "--tmpfs", "/sys/firmware", "--remount-ro", "/sys/firmware"]
        for target, link in sandbox.links.items():
            arguments += ["--symlink", link, target]
        for bind in sandbox.binds:
            how = "--dev-bind" if bind.device else "--bind" if bind.writable else "--ro-bind"
            arguments += [how, bind.source, bind.target]
        if sandbox.directory != "/":
            arguments += ["--dir", sandbox.directory]  # made where it is missing, as container runtimes do
        if sandbox.read_only_root:
            arguments += ["--remount-ro", "/"]
        arguments += ["--chdir", sandbox.directory, "--clearenv"]
        for name, value in sandbox.variables.items():
            arguments += ["--setenv", name, value]
        # What is passed by --args ends before the command; the command comes after it on the command line.
        command = (self.program, "--args", "{args}", "--json-status-fd", "{status}", "--", *sandbox.command)
        sources = (sandbox.root, *dict.fromkeys(bind.source for bind in sandbox.binds))
        return Launch(command, tuple(arguments), PROGRAM_ENVIRONMENT, sources, bubblewrap=True)
