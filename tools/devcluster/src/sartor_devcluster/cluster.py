"""A Kubernetes cluster as tests, benchmarks and the demo use it: one that exists already, or one of our own.

with DevCluster.up("demo", lifeline=True) as cluster:
    cluster.kubectl("get", "nodes")
"""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sartor_devcluster import addresses as at
from sartor_devcluster import bootstrap, components, control, kubeconfig, namespace
from sartor_devcluster.binaries import Binaries, find_addons, find_binaries
from sartor_devcluster.errors import DevclusterError, NotRunningError, StartError
from sartor_devcluster.gateway_objects import established
from sartor_devcluster.health import Status, absences, component_healths, unwell
from sartor_devcluster.health import without as sentence
from sartor_devcluster.layout import Layout, state_root
from sartor_devcluster.lifecycle import STATUS_SECONDS, alive, end, launch, locked, remove
from sartor_devcluster.pki import Pki
from sartor_devcluster.prepare import context_name
from sartor_devcluster.priority import LOWEST, step_back
from sartor_devcluster.state import Settings, State, read_settings, read_state, write_settings

READY_SECONDS = 60.0
"""How long `up` waits; on 2 free cores it takes 4 to 6 s."""

POLL_SECONDS = 0.1

Say = Callable[[str], None]


class Cluster:
    """A cluster that is reached by a kubeconfig."""

    def __init__(self, kubeconfig: Path, kubectl: Path) -> None:
        self.kubeconfig = kubeconfig
        self.kubectl_path = kubectl

    @classmethod
    def attach(cls, kubeconfig_path: Path | str, kubectl: Path | str | None = None) -> "Cluster":
        """An existing cluster (kind, a cloud's) by its kubeconfig, current context.

        `kubectl` defaults to PATH's, then to the one of our own binaries (which may download or build them). Raises
        `StateError` for a file that is no kubeconfig.
        """
        path = Path(kubeconfig_path).absolute()
        kubeconfig.read_context(path)
        client = kubectl or shutil.which("kubectl") or find_binaries()["kubectl"]
        return Cluster(path, Path(client))

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,
        timeout: float = 60.0,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as an administrator; `input` is its standard input, `timeout` in seconds.

        No answer in time is a `DevclusterError`; with `check`, so is a failure, with what kubectl said.
        """
        try:
            done = subprocess.run(
                self.kubectl_command(*arguments),
                input=input,
                stdin=subprocess.DEVNULL if input is None else None,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DevclusterError(
                f"kubectl {' '.join(arguments)} was not done within {timeout:g} s; see whether this machine is very "
                "busy, and `sartor-devcluster status`"
            ) from error
        if check and done.returncode != 0:
            raise DevclusterError(f"kubectl {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()}")
        return done

    def define(self, definitions: Path, seconds: float = 60.0) -> None:
        """Apply the CustomResourceDefinitions of a file or folder, and wait until the API server serves all of them.

        It does not use `kubectl wait`, which fails on a definition so new that its conditions are null.
        Raises `DevclusterError`.
        """
        self.kubectl("apply", "--server-side", "-f", str(definitions), check=True)
        deadline = time.monotonic() + seconds
        while True:
            found = json.loads(self.kubectl("get", "-f", str(definitions), "-o", "json", check=True).stdout)
            waiting = [one["metadata"]["name"] for one in found.get("items", [found]) if not established(one)]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise DevclusterError(
                    f"not served after {seconds:g} s: {', '.join(waiting)}; see `kubectl describe crd`"
                )
            time.sleep(POLL_SECONDS)

    def kubectl_command(self, *arguments: str) -> list[str]:
        """The arguments that run kubectl as an administrator, for who wants its output as it comes."""
        return [str(self.kubectl_path), *self._kubectl_options(), *arguments]

    def _kubectl_options(self) -> list[str]:
        return [f"--kubeconfig={self.kubeconfig}"]

    def enter(self, command: Sequence[str]) -> list[str]:
        """The arguments that run `command` where the cluster's addresses are. For an attached cluster: right here."""
        return list(command)


class DevCluster(Cluster):
    """A cluster of our own. Its processes are a supervisor's children, not this object's: it may be found again by name."""

    def __init__(self, layout: Layout) -> None:
        """Use `up` or `find`."""
        self.layout = layout
        settings = read_settings(layout.settings)
        super().__init__(layout.kubeconfig, Path(settings.binaries["kubectl"]))

    @classmethod
    def up(
        cls,
        name: str = "default",
        *,
        root: Path | None = None,
        lifeline: bool = False,
        binaries: Binaries | None = None,
        extra_arguments: Mapping[str, Sequence[str]] | None = None,
        user_namespace: bool = False,
        require: Sequence[str] = (),
        without: Sequence[str] = (),
        gateway: bool = False,
        ready_seconds: float = READY_SECONDS,
        say: Say = lambda _: None,
    ) -> "DevCluster":
        """Start cluster `name` unless it runs, and wait until it is ready. Idempotent, also in several processes at once.

        `root` holds the clusters' folders (default: `state_root()`). With `lifeline` the cluster ends with this process,
        however that ends. `extra_arguments` are appended to a component's own. A cluster that was killed, or ended with
        `down(keep=True)`, goes on with its data.

        With `gateway` it has Contour, Envoy, the Gateway `gateways/inference`, and Prometheus as well.

        Of these, kube-proxy and coredns it does without what is named by `without` and what this machine cannot have,
        which `say` is told in a sentence; for one in `require` that is a `StartError`.
        Raises `StartError`, `BinariesError`, `IsolationError`.
        """
        layout = Layout.of(name, root or state_root())
        namespace.require_tools()
        extra = {component: tuple(arguments) for component, arguments in (extra_arguments or {}).items()}
        _known(extra, components.NAMES)
        _known({*require, *without}, tuple(components.CONSEQUENCES))
        if (part := next((name for name in require if name in components.GATEWAY), None)) and not gateway:
            raise StartError(f"{part} is required, but it is part of the Gateway, which was not asked for")
        with locked(layout):
            if alive(layout):
                wanted = Settings({}, "", "", extra, user_namespace, without=tuple(without), gateway=gateway)
                if not read_settings(layout.settings).same_cluster(wanted):
                    raise StartError(
                        f"cluster {name} is running with other settings; `sartor-devcluster down --name {name}` first"
                    )
                cluster = cls(layout)
                answer = cluster._await_ready(ready_seconds)
                _require(require, absences(answer))
                return cluster
            found = binaries or find_binaries(say=say)
            addons = find_addons(found, without=without, gateway=gateway, say=say)
            _require(require, addons.absent)
            layout.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            layout.folder.chmod(0o700)
            settings = Settings(
                {name: str(path.absolute()) for name, path in {**found.paths, **addons.paths}.items()},
                found.version,
                found.source,
                extra,
                user_namespace,
                _token_before(layout) or bootstrap.new_token(),
                tuple(without),
                addons.absent,
                gateway,
            )
            write_settings(layout.settings, settings)
            begun = time.monotonic()
            process = launch(layout, lifeline=lifeline)
            cluster = cls(layout)
            try:
                lacking = absences(cluster._await_ready(ready_seconds, process))
                _require(require, lacking)
            except BaseException:
                end(layout)
                if process.poll() is None:  # not even far enough to answer
                    process.kill()
                raise
            for component, reason in lacking.items():
                if component not in without:
                    say(sentence(component, reason))
            say(f"cluster {name} is ready after {time.monotonic() - begun:.1f} s")
            return cluster

    @classmethod
    def find(cls, name: str = "default", *, root: Path | None = None) -> "DevCluster":
        """A cluster that was started before. Raises `NotRunningError` where there is none."""
        layout = Layout.of(name, root or state_root())
        if not layout.settings.exists():
            raise NotRunningError(f"no cluster {name}; start it with `sartor-devcluster up --name {name}`")
        return cls(layout)

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def audit_log(self) -> Path:
        """One JSON event per line, written before the request is answered (see `audit`)."""
        return self.layout.audit_log

    @property
    def access_log(self) -> Path:
        """What Envoy wrote of each request, a JSON object a line (`gateway.ACCESS_LOG_FIELDS`).

        It grows to `accesslog.LIMIT` bytes, then it is `access.log.1` and a new one begins.
        """
        return self.layout.access_log

    @property
    def inner_kubeconfig(self) -> Path:
        """For processes inside the namespace: straight to the API server, without the forwarder."""
        return self.layout.inner_kubeconfig

    @property
    def bootstrap_kubeconfig(self) -> Path:
        """What a node agent joins with (TLS bootstrap)."""
        return self.layout.bootstrap_kubeconfig

    def cluster_dns(self) -> tuple[str, ...]:
        """What a node agent gives its pods as DNS servers: the Service where it can be reached, else the server itself.

        Empty where the cluster has none. Asked now.
        """
        status = self.status()
        if not status.running or status.absent(components.COREDNS) is not None:
            return ()
        return (at.DNS_ADDRESS,) if status.absent(components.KUBE_PROXY) is not None else (at.DNS_SERVICE,)

    def gateway_address(self) -> tuple[str, int] | None:
        """Where a client inside the namespace reaches the Gateway; None where the cluster has none. Asked now."""
        status = self.status()
        if not status.has(components.ENVOY):
            return None
        if status.has(components.KUBE_PROXY):
            return at.GATEWAY_ADDRESS, at.GATEWAY_PORT
        return at.ENVOY_ADDRESS, at.ENVOY_PORT

    def rotate_access_log(self) -> None:
        """Have Envoy begin a new access log now; the one so far is `access.log.1`. Nothing is lost.

        Raises `DevclusterError` while Envoy does not serve.
        """
        control.ask(self.layout.control, "rotate")

    def status(self) -> Status:
        """Asked now. A cluster that is not running has a status too."""
        settings = read_settings(self.layout.settings)
        state = read_state(self.layout.state)
        try:
            answer = control.ask(self.layout.control, "status", seconds=STATUS_SECONDS)
        except NotRunningError:
            return Status(self.name, False, False, settings.version, settings.source, None, None, ())
        return Status(
            self.name,
            True,
            bool(answer["ready"]),
            settings.version,
            settings.source,
            state.port if state is not None else None,
            state.supervisor.pid if state is not None else None,
            component_healths(answer),
        )

    def down(self, *, keep: bool = False) -> None:
        """End everything that was started and remove the cluster's folder (unless `keep`). Idempotent."""
        remove(self.layout, keep=keep)

    def step_back(self, nice: int = LOWEST, *, but: Collection[str] = ()) -> None:
        """Have the components use the processor only while nobody else wants it, until they are started anew.

        For a machine on which the cluster's pods are measured. `but`: components that do not, as requests go through them.
        With `nice` 0 they come forward again, which not every user may do.
        Raises `NotRunningError`, `PermissionError`.
        """
        self._state()
        for component in self.status().components:
            if component.pid is not None and component.name not in but:
                step_back(component.pid, nice)

    def stop_component(self, name: str, *, kill: bool = False) -> None:
        """End a component and keep it ended: SIGTERM and time to finish, or SIGKILL with `kill`. Idempotent."""
        control.ask(self.layout.control, "stop", {"component": name, "kill": kill})

    def start_component(self, name: str) -> None:
        """Have a component that was stopped start again; `wait_ready` waits for it. Idempotent."""
        control.ask(self.layout.control, "start", {"component": name})

    def restart(self, name: str, *, kill: bool = False, ready_seconds: float = READY_SECONDS) -> None:
        """Stop and start a component, and wait until the cluster is ready again."""
        self.stop_component(name, kill=kill)
        self.start_component(name)
        self._await_ready(ready_seconds)

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Until every component is well. Raises `StartError` after `seconds`."""
        self._await_ready(seconds)

    def forward(self, address: str, port: int, *, local_port: int = 0) -> int:
        """Forward a port of 127.0.0.1 on the host (any free one for 0) to a pod's or Service's address; the port.

        It stays until the cluster ends.
        """
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((at.HOST, local_port))
            except OSError as error:
                raise DevclusterError(f"port {local_port} of {at.HOST}: {error.strerror}; name another") from error
            control.ask(self.layout.control, "forward", {"address": address, "port": port}, hand_over=listener)
            return int(listener.getsockname()[1])

    def enter(self, command: Sequence[str]) -> list[str]:
        """The arguments that run `command` in the cluster's network namespace, as a child of whoever runs them.

        It sees the host's files and processes; it is not ended with the cluster. Raises `NotRunningError`.
        """
        state = self._state()
        return namespace.enter_command(state.supervisor.pid, command, user_namespace=state.user_namespace)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = (), *, inside: bool = False) -> Path:
        """A kubeconfig of another identity, with a client certificate signed by the cluster's own authority.

        A node's is user `system:node:NAME` in group `system:nodes`. `inside`: for processes in the namespace.
        """
        self._state()
        identity = Pki(self.layout.pki).authority().issue(user, groups, datetime.now(UTC))
        near = f"https://{at.API_ADDRESS}:{at.API_PORT}"
        server = near if inside else kubeconfig.read_context(self.kubeconfig).server
        path = self.layout.folder / f"kubeconfig-{'in' if inside else 'out'}-{_file_name(user)}"
        kubeconfig.write(
            path,
            kubeconfig.content(
                cluster=context_name(self.layout),
                server=server,
                authority=Pki(self.layout.pki).certificate("ca").read_bytes(),
                user=user,
                credentials=identity,
            ),
        )
        return path

    def log(self, component: str) -> Path:
        """The log file of a component, or of the `supervisor`."""
        if component not in (*components.NAMES, "supervisor"):
            raise DevclusterError(f"no component {component}; there are {', '.join(components.NAMES)}, supervisor")
        return self.layout.log(component)

    def _kubectl_options(self) -> list[str]:
        # kubectl caches what an address serves for hours; another cluster may have had this port before.
        return [*super()._kubectl_options(), f"--cache-dir={self.layout.folder / 'kubectl-cache'}"]

    def _state(self) -> State:
        state = read_state(self.layout.state)
        if state is None or not state.supervisor.alive():
            raise NotRunningError(
                f"cluster {self.name} is not running; start it with `sartor-devcluster up --name {self.name}`"
            )
        return state

    def _await_ready(self, seconds: float, process: subprocess.Popen[bytes] | None = None) -> dict[str, Any]:
        """The answer that said so."""
        deadline = time.monotonic() + seconds
        lacking = "the supervisor does not answer"
        while True:
            try:
                answer = control.ask(self.layout.control, "status", seconds=STATUS_SECONDS)
            except NotRunningError:
                if process is None or process.poll() is not None:
                    raise StartError(
                        f"cluster {self.name} ended; its supervisor said:\n{self._tail('supervisor')}"
                    ) from None
            else:
                if answer["ready"]:
                    return answer
                lacking = unwell(answer)
            if time.monotonic() > deadline:
                raise StartError(f"cluster {self.name} was not ready after {seconds:.0f} s: {lacking}\n{self._tails()}")
            time.sleep(POLL_SECONDS)

    def _tail(self, component: str, lines: int = 5) -> str:
        try:
            text = self.layout.log(component).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _tails(self) -> str:
        names = (*components.NAMES, "supervisor")
        return "\n".join(f"{self.layout.log(name)}:\n{tail}" for name in names if (tail := self._tail(name, 3)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


def clusters(root: Path | None = None) -> list[DevCluster]:
    """Every cluster that has a folder below `root`, by name."""
    folder = root or state_root()
    found = sorted(folder.glob("*/settings.json")) if folder.is_dir() else []
    return [DevCluster(Layout(path.parent)) for path in found]


def _token_before(layout: Layout) -> str:
    try:
        return read_settings(layout.settings).bootstrap_token
    except FileNotFoundError:
        return ""


def _file_name(user: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "-" for c in user)


def _known(given: Iterable[str], names: Sequence[str]) -> None:
    if unknown := sorted(set(given) - set(names)):
        raise StartError(f"no component {', '.join(unknown)}; there are {', '.join(names)}")


def _require(wanted: Iterable[str], absent: Mapping[str, str]) -> None:
    for component in wanted:
        if component in absent:
            raise StartError(f"{component} is required, but {absent[component]}")
