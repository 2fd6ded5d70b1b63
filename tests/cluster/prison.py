"""Things of host, network and other pods that an agent's pod must not reach, for the battery (`tests/sandbox/attempts.py`).

`canary` is the provider's key: whoever shows it anywhere has got what an agent must not have.
"""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents_support import AGENTS_NODE, HERE, TAINT, Agents
from operator_support import apply, get, wait_for

from sartor_devcluster import DevCluster

BATTERY = HERE.parent / "sandbox" / "attempts.py"
NEIGHBOURS, PORT = "team-neighbour", 18_777

REACHED_OUTSIDE = (
    "read_home", "read_other_pods", "read_environment_of_others", "connect_to_host_socket", "signal_host_process",
    "see_host_process", "metadata_address", "other_network", "loopback_of_host", "reach_api_server", "reach_repository",
    "reach_neighbour", "abstract_socket", "before_the_connection",
)  # fmt: skip
"""They get through for a process of the node that is in no pod: what they are after is really there."""
ATTEMPTS = (
    *REACHED_OUTSIDE,
    # what is mounted into pods
    "read_anywhere", "read_service_account", "read_identity", "read_seal", "read_own_grant", "read_own_environment",
    "read_inherited_descriptor",
    # what lasts
    "write_packages", "write_system", "write_answer", "change_first_program", "make_device", "become_root",
    "open_kernel_settings", "open_kernel_log",
    # system calls
    "new_user_namespace", "new_user_namespace_by_clone", "kernel_keys", "io_uring", "hypervisor_socket",
    "handles_instead_of_paths", "no_address_randomisation", "memory_of_sibling",
    # the network once more
    "api_server_as_somebody", "repository_as_somebody", "api_server", "name_service",
    # what there is not enough of
    "fork_bomb", "fill_memory", "fill_disk", "outlive",
)  # fmt: skip
SANDBOX = {"memory": "2Gi", "disk": "1Gi", "processes": 128}
"""Of the prisoner's profile; `fork_bomb` and the others want more than that."""


@contextlib.contextmanager
def planted(agents: Agents) -> Iterator[dict[str, Any]]:
    """All of it there, and the world as the attempts are told it."""
    token = secrets.token_hex(8)
    home = agents.folder / "home-token"
    home.write_text(agents.key)
    name = f"victim-{token}"
    path = Path("/tmp") / f"sartor-battery-{token}.sock"
    with contextlib.ExitStack() as stack:
        victim = subprocess.Popen(
            (sys.executable, "-c", "import time; time.sleep(900)", name), env={**os.environ, "SECRET": agents.key}
        )
        stack.callback(_end, victim)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        stack.callback(path.unlink)
        stack.enter_context(_network(agents.cluster))
        address = neighbour(agents)
        yield {
            "canary": agents.key, "token": token, "home_secret": str(home), "victim": victim.pid, "victim_name": name,
            "host_socket": str(path), "scratch": "/tmp", "model": "/model", "answer": "/work/answer.json",
            "pods": str(agents.folder / "runner" / "state"), "neighbour": f"http://{address}:{PORT}/",
            "api": agents.api(), "repository": agents.repository, "processes": 400, "disk": 900 << 20,
            "memory": 1900 << 20,
        }  # fmt: skip


def _end(process: "subprocess.Popen[Any]") -> None:
    process.kill()
    process.wait()


@contextlib.contextmanager
def _network(cluster: DevCluster) -> Iterator[None]:
    command = cluster.enter([sys.executable, str(HERE / "prison_network.py")])
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield
    finally:
        process.communicate(timeout=20)


def neighbour(agents: Agents) -> str:
    """Another team's pod on the agents' node, with the canary in a Secret and in its environment; its address."""
    apply(agents.cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NEIGHBOURS}})
    in_it = {"name": "neighbour", "namespace": NEIGHBOURS}
    wait_for(
        "the namespace's account",
        lambda: get(agents.cluster, "serviceaccount", "default", "-n", NEIGHBOURS),
        20,
    )
    serve = {
        "name": "serve", "image": "sartor-agent:1",
        "command": ["python", "-m", "http.server", str(PORT), "--bind", "$(POD_IP)"],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "SEED", "valueFrom": {"secretKeyRef": {"name": "neighbour", "key": "seed"}}},
        ],
        "volumeMounts": [{"name": "seal", "mountPath": "/sartor/seal", "readOnly": True}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }  # fmt: skip
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": AGENTS_NODE}, "tolerations": [TAINT], "containers": [serve],
        "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "seal", "secret": {"secretName": "neighbour"}}],
    }  # fmt: skip
    apply(
        agents.cluster,
        {"apiVersion": "v1", "kind": "Secret", "metadata": in_it, "stringData": {"seed": agents.key}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": in_it, "spec": spec},
    )

    def ready() -> str | None:
        status = (get(agents.cluster, "pod", "neighbour", "-n", NEIGHBOURS) or {}).get("status", {})
        conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
        return status.get("podIP") if conditions.get("Ready") == "True" else None

    return str(wait_for("the neighbour", ready, 40))


def outside(cluster: DevCluster, name: str, world: dict[str, Any]) -> str:
    """What an attempt comes to for a process of the node, in the cluster's network and in no pod."""
    done = subprocess.run(
        cluster.enter([sys.executable, str(BATTERY), name, json.dumps(world)]),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def survivors(token: str) -> list[str]:
    """Processes of the host with the token among their arguments."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if token.encode() in words:
                found.append(str(path))
    return found
