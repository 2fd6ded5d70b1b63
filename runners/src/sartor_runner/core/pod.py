"""A pod as the core reads it: the fields that decide something, typed, with the API's defaults filled in.

What only needs to be handed through (volumes, environment sources) stays the plain object of the API.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sartor_runner.core.times import seconds

Json: TypeAlias = Mapping[str, Any]
RestartPolicy = Literal["Always", "OnFailure", "Never"]

TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True)
class ExecAction:
    """A command in the container; exit code 0 is success."""

    command: tuple[str, ...]


@dataclass(frozen=True)
class HttpGet:
    """An HTTP request; 200 to 399 is success. `port` may be the name of a container port."""

    port: int | str
    path: str = "/"
    host: str | None = None
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TcpSocket:
    """A TCP connection that can be opened is success."""

    port: int | str
    host: str | None = None


@dataclass(frozen=True)
class Sleep:
    """A pause, as a `preStop` hook; seconds."""

    seconds: float


Handler: TypeAlias = ExecAction | HttpGet | TcpSocket | Sleep


@dataclass(frozen=True)
class Probe:
    """Times in seconds."""

    handler: Handler
    initial_delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3
    grace: float | None = None


@dataclass(frozen=True)
class Container:
    name: str
    image: str
    raw: Json
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    liveness: Probe | None = None
    readiness: Probe | None = None
    startup: Probe | None = None
    pre_stop: Handler | None = None
    stop_signal: str = "SIGTERM"
    termination_path: str = TERMINATION_LOG
    termination_policy: str = "File"
    pull_policy: str = "IfNotPresent"
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool = False
    read_only_root: bool = False

    @property
    def limits(self) -> Json:
        return self.raw.get("resources", {}).get("limits") or {}

    @property
    def requests(self) -> Json:
        """Requests, with limits standing in for what is not requested."""
        return {**self.limits, **(self.raw.get("resources", {}).get("requests") or {})}

    def port(self, name_or_number: int | str) -> int | None:
        """The number of a port given by number or by name; None for a name that the container does not have."""
        if isinstance(name_or_number, int) or name_or_number.isdigit():
            return int(name_or_number)
        named = {p.get("name"): int(p["containerPort"]) for p in self.raw.get("ports") or ()}
        return named.get(name_or_number)


@dataclass(frozen=True)
class Pod:
    uid: str
    namespace: str
    name: str
    raw: Json
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    restart_policy: RestartPolicy = "Always"
    grace: float = 30.0
    active_deadline: float | None = None
    deleted: bool = False
    deletion_grace: float | None = None
    host_network: bool = False
    readiness_gates: tuple[str, ...] = ()
    generation: int | None = None

    @property
    def spec(self) -> Json:
        return self.raw["spec"]

    @property
    def metadata(self) -> Json:
        return self.raw["metadata"]

    @property
    def service_account(self) -> str:
        return self.spec.get("serviceAccountName") or "default"

    @property
    def hostname(self) -> str:
        """`spec.hostname`, or the pod's name cut to what a host name may have (63 characters, RFC 1123)."""
        return (self.spec.get("hostname") or self.name)[:63].rstrip("-.")

    @property
    def volumes(self) -> Sequence[Json]:
        return self.spec.get("volumes") or ()

    def all_containers(self) -> tuple[Container, ...]:
        return self.init_containers + self.containers

    def container(self, name: str) -> Container | None:
        return next((c for c in self.all_containers() if c.name == name), None)


def parse(raw: Json) -> Pod:
    """A pod object of the API. Raises `ValueError` when it lacks what every pod has."""
    try:
        metadata, spec = raw["metadata"], raw["spec"]
        security = spec.get("securityContext") or {}
        grace = spec.get("terminationGracePeriodSeconds")
        deletion = metadata.get("deletionGracePeriodSeconds")
        deadline = spec.get("activeDeadlineSeconds")
        return Pod(
            uid=metadata["uid"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            raw=raw,
            containers=tuple(_container(c, security) for c in spec["containers"]),
            init_containers=tuple(_container(c, security) for c in spec.get("initContainers") or ()),
            restart_policy=spec.get("restartPolicy") or "Always",
            grace=30.0 if grace is None else float(grace),
            active_deadline=None if deadline is None else float(deadline),
            deleted=bool(metadata.get("deletionTimestamp")),
            deletion_grace=None if deletion is None else float(deletion),
            host_network=bool(spec.get("hostNetwork")),
            readiness_gates=tuple(g["conditionType"] for g in spec.get("readinessGates") or ()),
            generation=metadata.get("generation"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a pod: {error!r} is missing or of the wrong type") from error


def _container(raw: Json, pod_security: Json) -> Container:
    security = {**pod_security, **(raw.get("securityContext") or {})}
    lifecycle = raw.get("lifecycle") or {}
    return Container(
        name=raw["name"],
        image=raw.get("image") or "",
        raw=raw,
        command=tuple(raw.get("command") or ()),
        args=tuple(raw.get("args") or ()),
        liveness=_probe(raw.get("livenessProbe")),
        readiness=_probe(raw.get("readinessProbe")),
        startup=_probe(raw.get("startupProbe")),
        pre_stop=handler(lifecycle.get("preStop")),
        stop_signal=lifecycle.get("stopSignal") or "SIGTERM",
        termination_path=raw.get("terminationMessagePath") or TERMINATION_LOG,
        termination_policy=raw.get("terminationMessagePolicy") or "File",
        pull_policy=raw.get("imagePullPolicy") or "IfNotPresent",
        run_as_user=security.get("runAsUser"),
        run_as_group=security.get("runAsGroup"),
        run_as_non_root=bool(security.get("runAsNonRoot")),
        read_only_root=bool(security.get("readOnlyRootFilesystem")),
    )


def _probe(raw: Json | None) -> Probe | None:
    action = handler(raw)
    if raw is None or action is None:
        return None
    grace = raw.get("terminationGracePeriodSeconds")
    return Probe(
        handler=action,
        initial_delay=float(raw.get("initialDelaySeconds") or 0),
        period=float(raw.get("periodSeconds") or 10),
        timeout=float(raw.get("timeoutSeconds") or 1),
        success_threshold=int(raw.get("successThreshold") or 1),
        failure_threshold=int(raw.get("failureThreshold") or 3),
        grace=None if grace is None else float(grace),
    )


def handler(raw: Json | None) -> Handler | None:
    """The action of a probe or hook; None when there is none of a supported kind (refusals name the others)."""
    if not raw:
        return None
    if "exec" in raw:
        return ExecAction(tuple(raw["exec"].get("command") or ()))
    if "httpGet" in raw:
        get = raw["httpGet"]
        return HttpGet(
            port=get["port"],
            path=get.get("path") or "/",
            host=get.get("host") or None,
            scheme="HTTPS" if get.get("scheme") == "HTTPS" else "HTTP",
            headers=tuple((h["name"], h.get("value", "")) for h in get.get("httpHeaders") or ()),
        )
    if "tcpSocket" in raw:
        return TcpSocket(port=raw["tcpSocket"]["port"], host=raw["tcpSocket"].get("host") or None)
    if "sleep" in raw:
        return Sleep(float(raw["sleep"]["seconds"]))
    return None


def start_time(raw: Json) -> float | None:
    """`status.startTime` of a pod object, in seconds since the epoch."""
    text = (raw.get("status") or {}).get("startTime")
    return None if not text else seconds(text)
