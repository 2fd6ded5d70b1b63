"""The pure parts beside `sync`: quantities, variables, files of volumes, refusals, admission, status patches."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_runner.core import backoff, downward, environment, payload
from sartor_runner.core.admission import admit
from sartor_runner.core.backoff import Backoff
from sartor_runner.core.downward import Placement
from sartor_runner.core.environment import Sources
from sartor_runner.core.expand import expand
from sartor_runner.core.pod import Pod, parse
from sartor_runner.core.quantity import parse as quantity
from sartor_runner.core.quantity import whole
from sartor_runner.core.refusals import Allowed, refusals
from sartor_runner.core.times import rfc3339, seconds
from sartor_runner.errors import ContainerError, RunnerError, VolumeError
from sartor_runner.node.machine import Users
from sartor_runner.node.reporter import patch

from .simulation import pod

PLACEMENT = Placement("node-1", ("10.244.0.9",), "10.240.0.2", {"cpu": "4", "memory": "8Gi"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("500m", 0.5),
        ("1Gi", 1 << 30),
        ("1.5Gi", 1610612736),
        ("1e3", 1000),
        ("2k", 2000),
        ("0", 0),
        (".5", 0.5),
    ],
)
def test_quantities(text: str, value: float) -> None:
    assert float(quantity(text)) == value


@pytest.mark.parametrize("text", ["", "1 Gi", "Gi", "1gi", "--1", "1e", "0x10"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity(text)


def test_a_quantity_in_units_is_rounded_up() -> None:
    assert (whole("1001m"), whole("500m", "1m"), whole("1025Ki", "1Mi"), whole("1", "0")) == (2, 500, 2, 1)


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("$(A)", "x"),
        ("$$(A)", "$(A)"),
        ("$(B)", "$(B)"),
        ("a$(A)b$(A)", "axbx"),
        ("$", "$"),
        ("$(", "$("),
        ("$$$(A)", "$x"),
    ],
)
def test_references(text: str, out: str) -> None:
    assert expand(text, {"A": "x"}) == out


@given(st.floats(0, 4e9))
def test_times_survive_the_journey(moment: float) -> None:
    assert seconds(rfc3339(moment)) == int(moment)


@pytest.mark.parametrize(
    "text",
    ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000001Z", "2026-01-02T04:04:05.0+01:00", "2026-01-02T03:04:05.Z"],
)
def test_times_of_any_precision(text: str) -> None:
    assert seconds(text) == pytest.approx(1767323045, abs=1e-6)


@given(st.floats(0, 5000))
def test_the_waiting_state_of_an_image_changes_later(elapsed: float) -> None:
    assert backoff.pull_shown_until(100.0, 100.0 + elapsed) > 100.0 + elapsed


@given(st.sampled_from([0.0, 10.0, 160.0, 300.0]), st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_restart_never_waits_longer_than_five_minutes(delay: float, since: float, ran: float) -> None:
    held = Backoff(delay, since)
    ready = backoff.ready_at(held, since + ran)
    assert 0 <= ready - (since + ran) <= 300
    assert 10 <= backoff.following(held, since + ran, ready).delay <= 300


def variables(container: dict[str, Any], sources: Sources = Sources(), **image: str) -> dict[str, str]:
    found = parse(pod(containers=[container]))
    return environment.variables(
        found, found.containers[0], image=image, services={"S_HOST": "10.96.0.9"}, sources=sources, placement=PLACEMENT
    )


def test_later_variables_win_and_may_refer_to_earlier_ones() -> None:
    sources = Sources({("configMap", "c"): {"data": {"COLOUR": "blue", "A": "map"}}})
    container = {
        "envFrom": [{"configMapRef": {"name": "c"}}],
        "env": [
            {"name": "B", "value": "$(A)/$(S_HOST)/$(LATER)"},
            {"name": "A", "value": "own"},
            {"name": "C", "value": "$(A)"},
        ],
    }
    found = variables(container, sources, PATH="/bin", A="image")
    assert found["B"] == "map/10.96.0.9/$(LATER)"
    assert (found["A"], found["C"], found["COLOUR"], found["PATH"]) == ("own", "own", "blue", "/bin")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"configMapKeyRef": {"name": "c", "key": "k"}}, 'configmap "c" not found'),
        ({"secretKeyRef": {"name": "s", "key": "k"}}, "couldn't find key k in Secret team/s"),
        ({"fieldRef": {"fieldPath": "spec.priority"}}, "the downward API has no such field"),
        ({"fileKeyRef": {"path": "x"}}, "valueFrom.fileKeyRef: this node knows"),
    ],
)
def test_a_missing_source_is_named(reference: dict[str, Any], message: str) -> None:
    sources = Sources({("secret", "s"): {"data": {}}})
    with pytest.raises(ContainerError, match=message) as caught:
        variables({"env": [{"name": "A", "valueFrom": reference}]}, sources)
    assert caught.value.reason == "CreateContainerConfigError"


def test_service_variables() -> None:
    services = [
        {
            "metadata": {"name": "my-web", "namespace": "team"},
            "spec": {
                "clusterIP": "10.96.1.1",
                "ports": [{"name": "http", "port": 80}, {"port": 53, "protocol": "UDP"}],
            },
        },
        {
            "metadata": {"name": "other", "namespace": "elsewhere"},
            "spec": {"clusterIP": "10.96.1.2", "ports": [{"port": 1}]},
        },
        {"metadata": {"name": "headless", "namespace": "team"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}},
        {
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]},
        },
    ]
    found = environment.service_variables(services, parse(pod()), None)
    assert found["MY_WEB_SERVICE_HOST"] == "10.96.1.1" and found["MY_WEB_SERVICE_PORT_HTTP"] == "80"
    assert found["MY_WEB_PORT_53_UDP"] == "udp://10.96.1.1:53"
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1" and found["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert not any(name.startswith(("OTHER", "HEADLESS")) for name in found)
    without = environment.service_variables(services, parse(pod(enableServiceLinks=False)), ("192.0.2.1", 6443))
    assert without["KUBERNETES_SERVICE_HOST"] == "192.0.2.1" and without["KUBERNETES_SERVICE_PORT"] == "6443"
    assert "MY_WEB_SERVICE_HOST" not in without


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.labels['a/b']", "c"),
        ("metadata.labels", 'a/b="c"\nq="say \\"x\\""'),
        ("status.podIP", "10.244.0.9"),
        ("status.hostIP", "10.240.0.2"),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "default"),
        ("metadata.annotations['none']", ""),
    ],
)
def test_fields(path: str, value: str) -> None:
    raw = pod()
    raw["metadata"]["labels"] = {"q": 'say "x"', "a/b": "c"}
    assert downward.field(parse(raw), path, PLACEMENT) == value


def test_a_limit_that_is_not_set_is_what_the_node_has() -> None:
    container = parse(pod(containers=[{"resources": {"limits": {"cpu": "300m"}}}])).containers[0]
    value = lambda name, divisor="1": downward.resource(container, {"resource": name, "divisor": divisor}, PLACEMENT)  # noqa: E731
    assert (value("limits.cpu"), value("limits.cpu", "1m"), value("requests.cpu", "1m")) == ("1", "300", "300")
    assert (value("limits.memory", "1Gi"), value("requests.memory")) == ("8", "0")


def volume_files(volume: dict[str, Any], sources: Sources, tokens: Any = None) -> dict[str, payload.File]:
    found: Pod = parse(pod(volumes=[{"name": "v", **volume}]))
    return payload.files(found, found.volumes[0], sources, tokens or {}, PLACEMENT)


def test_files_of_a_projected_volume() -> None:
    sources = Sources({("secret", "s"): {"data": {"k": base64.b64encode(b"\x00\xff").decode()}}})
    token = {"serviceAccountToken": {"path": "token", "audience": "git", "expirationSeconds": 900}}
    parts = [{"secret": {"name": "s", "items": [{"key": "k", "path": "a/b", "mode": 0o400}]}}, token]
    found = volume_files({"projected": {"defaultMode": 0o440, "sources": parts}}, sources, {("git", 900): "abc"})
    assert found == {"a/b": payload.File(b"\x00\xff", 0o400), "token": payload.File(b"abc", 0o440)}


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found in namespace team'),
        ({"secret": {"secretName": "s", "items": [{"key": "x", "path": "x"}]}}, "secret \"s\" has no key 'x'"),
        ({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}, "no token for service account default"),
    ],
)
def test_files_that_cannot_be_had(volume: dict[str, Any], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        volume_files(volume, Sources({("secret", "s"): {"data": {}}}))


def test_what_is_optional_may_be_missing() -> None:
    assert volume_files({"configMap": {"name": "none", "optional": True}}, Sources()) == {}


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"hostPID": True}, {}, "spec.hostPID"),
    ({"hostIPC": True}, {}, "spec.hostIPC"),
    ({"shareProcessNamespace": True}, {}, "spec.shareProcessNamespace"),
    ({"runtimeClassName": "gvisor"}, {}, "spec.runtimeClassName"),
    ({"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}}, {}, "spec.securityContext.sysctls"),
    ({}, {"securityContext": {"privileged": True}}, "privileged"),
    ({}, {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}, "capabilities.add: SYS_ADMIN"),
    ({}, {"securityContext": {"allowPrivilegeEscalation": True}}, "allowPrivilegeEscalation"),
    ({}, {"securityContext": {"procMount": "Unmasked"}}, "procMount"),
    ({}, {"securityContext": {"seccompProfile": {"type": "Localhost"}}}, "seccompProfile"),
    ({}, {"ports": [{"containerPort": 1, "hostPort": 1}]}, "ports[0].hostPort"),
    ({}, {"volumeDevices": [{"name": "d", "devicePath": "/dev/x"}]}, "volumeDevices"),
    ({}, {"stdin": True}, "stdin"),
    ({}, {"tty": True}, "tty"),
    ({}, {"restartPolicy": "Never"}, "restartPolicy"),
    ({}, {"livenessProbe": {"grpc": {"port": 1}}}, "livenessProbe.grpc"),
    ({}, {"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}, "lifecycle.postStart"),
    ({}, {"resources": {"limits": {"ephemeral-storage": "1Gi"}}}, "ephemeral-storage"),
    ({}, {"resources": {"claims": [{"name": "gpu"}]}}, "resources.claims"),
    ({"volumes": [{"name": "v", "nfs": {"server": "x"}}]}, {}, "spec.volumes[0] (v).nfs"),
    ({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]}, {}, "persistentVolumeClaim"),
    ({"volumes": [{"name": "v", "emptyDir": {"medium": "HugePages"}}]}, {}, "emptyDir.medium"),
    ({"volumes": [{"name": "v", "hostPath": {"path": "/etc"}}]}, {}, "hostPath: /etc may not be read"),
    ({"volumes": [{"name": "v", "hostPath": {"path": "/data/../etc"}}]}, {}, "may not be read"),
    ({"volumes": [{"name": "v", "hostPath": {"path": "/database"}}]}, {}, "may not be read"),
    ({"volumes": [{"name": "v", "hostPath": {"path": "/data", "type": "Socket"}}]}, {}, "hostPath.type: Socket"),
    (
        {"volumes": [{"name": "v", "hostPath": {"path": "/data"}}]},
        {"volumeMounts": [{"name": "v", "mountPath": "/d"}]},
        "hostPath: /data may not be written",
    ),
    (
        {"volumes": [{"name": "v", "emptyDir": {}}]},
        {"volumeMounts": [{"name": "v", "mountPath": "/d", "subPath": "x"}]},
        "subPath",
    ),
    (
        {"volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}]},
        {},
        "projected.sources: clusterTrustBundle",
    ),
]


@pytest.mark.parametrize(
    ("spec", "container", "named"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_not_supported_is_refused_by_name(spec: dict[str, Any], container: dict[str, Any], named: str) -> None:
    found = refusals(parse(pod(containers=[container], **spec)), Allowed(host_paths=("/data",)))
    assert len(found) == 1, found
    assert named in found[0]


def test_what_is_supported_is_not_refused() -> None:
    container = {
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "v", "mountPath": "/d", "readOnly": True},
            {"name": "c", "mountPath": "/c", "subPath": "k"},
        ],
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
        "ports": [{"containerPort": 80, "hostPort": 80}],
    }
    volumes = [{"name": "v", "hostPath": {"path": "/data/models"}}, {"name": "c", "configMap": {"name": "c"}}]
    raw = pod(containers=[container], volumes=volumes, hostNetwork=True)
    assert refusals(parse(raw), Allowed(host_paths=("/data",))) == ()


def test_admission_counts_what_others_hold() -> None:
    def asks(**limits: str) -> Pod:
        return parse(pod(containers=[{"resources": {"limits": limits}}]))

    room = {"cpu": "2", "memory": "4Gi", "pods": "3", "sartor.dev/metal": "1"}
    metal = {"sartor.dev/metal": "1"}
    assert admit(asks(**metal), [asks(cpu="1")], room) is None
    taken = admit(asks(**metal), [asks(**metal)], room)
    assert taken is not None and taken.reason == "OutOfsartor.dev/metal"
    assert taken.message.endswith("requested: 1, used: 1, capacity: 1")
    cpu = admit(asks(cpu="1500m"), [asks(cpu="1")], room)
    assert cpu is not None and cpu.message.endswith("cpu, requested: 1500, used: 1000, capacity: 2000")
    full = admit(asks(), [asks(), asks(), asks()], room)
    assert full is not None and full.reason == "OutOfpods"
    init = parse(pod(initContainers=[{"name": "i", "image": "x", "resources": {"requests": {"cpu": "3"}}}]))
    assert admit(init, [], room) is not None, "the largest init container counts"


def test_a_status_patch_holds_what_differs_and_nothing_else() -> None:
    current = {
        "phase": "Pending",
        "message": "old",
        "podIP": "10.244.0.9",
        "conditions": [{"type": "Ready", "status": "False", "reason": "X"}, {"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [
            {"name": "main", "ready": False, "extra": 1, "state": {"waiting": {"reason": "A"}}, "lastState": {}}
        ],
    }
    same = {k: v for k, v in current.items() if k != "message"}
    assert patch(current, {**same, "message": "old"}) == {}
    assert patch(current, same) == {"message": None}, "what is no longer said is taken away"
    running = [{"name": "main", "ready": False, "state": {"running": {"startedAt": "t"}}, "lastState": {}}]
    changed = {
        **same,
        "message": "old",
        "containerStatuses": running,
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    assert patch(current, changed) == {
        "containerStatuses": running,
        "conditions": [{"type": "Ready", "status": "True", "reason": None, "message": None}],
    }


def test_a_range_of_one_user_is_shared_and_a_wider_one_is_not() -> None:
    shared, own = Users(7, 1, enabled=True), Users(7, 2, enabled=True)
    assert [shared.take(), shared.take()] == [7, 7]
    assert {own.take(), own.take()} == {7, 8}
    with pytest.raises(RunnerError, match="widen"):
        own.take()
