"""Sartor on the demonstration's cluster: the manifests of this repository, with what this one machine needs.

Two things cannot stand in `install/kustomization.yaml`, as they are known only now: where the Gateway's access log lies, and
for `--rollback` the process around the stack that makes it slow.
"""

import json
from collections.abc import Iterable
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sartor_demo.errors import DemoError
from sartor_demo.node import ROOT
from sartor_devcluster import DevCluster

INSTALL_SECONDS = 120
OPERATOR = "sartor-operator"
LOG_FOLDER = "/var/log/gateway"
"""Where the operator sees the folder of the access log."""

Json = dict[str, Any]


def install(cluster: DevCluster, *, access_log: Path | None, stack_command: str | None) -> None:
    """What `operator/README.md` tells a user to do, and then waits for it. Raises `DevclusterError`."""
    cluster.define(ROOT / "crds" / "manifests")
    text = cluster.kubectl("kustomize", str(files("sartor_demo") / "install"), check=True).stdout
    apply(
        cluster, fitted(YAML(typ="safe").load_all(StringIO(text)), access_log=access_log, stack_command=stack_command)
    )
    for deployment in ("sartor-repository", OPERATOR):
        cluster.kubectl(
            "-n", "sartor-system", "rollout", "status", f"deployment/{deployment}", f"--timeout={INSTALL_SECONDS}s",
            check=True, timeout=INSTALL_SECONDS + 10,
        )  # fmt: skip


def apply(cluster: DevCluster, manifests: Iterable[Json]) -> None:
    """`kubectl apply`. Raises `DevclusterError`."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
    cluster.kubectl("apply", "-f", "-", input=text, check=True)


def fitted(documents: Iterable[Json], *, access_log: Path | None, stack_command: str | None) -> list[Json]:
    """The documents, with the operator's options for this machine. `stack_command`: what starts a stack, if not itself."""
    found = list(documents)
    operators = [d for d in found if d["kind"] == "Deployment" and d["metadata"]["name"] == OPERATOR]
    if len(operators) != 1:
        raise DemoError(f"operator/manifests have {len(operators)} Deployments {OPERATOR}; one is expected")
    pod: Json = operators[0]["spec"]["template"]["spec"]
    container: Json = pod["containers"][0]
    if access_log is not None:
        # The folder and not the file, which is renamed when it has grown.
        pod["volumes"].append(
            {"name": "gateway-log", "hostPath": {"path": str(access_log.parent), "type": "Directory"}}
        )
        container["volumeMounts"].append({"name": "gateway-log", "mountPath": LOG_FOLDER, "readOnly": True})
        container["command"] += ["--access-log", f"{LOG_FOLDER}/{access_log.name}"]
        for namespace in (d for d in found if d["kind"] == "Namespace"):
            # `restricted` has no volumes of the host, and no lower standard but `privileged` has.
            namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "privileged"
    if stack_command is not None:
        container["command"] += ["--stack-command", stack_command]
    return found
