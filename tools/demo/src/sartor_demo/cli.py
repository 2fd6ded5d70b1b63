"""`sartor-demo up` and `sartor-demo down`."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sartor_agents.baselines.environment import BaselineEnvironmentError, existing_environment
from sartor_agents.run.model import cache_folder
from sartor_api.model import SyntheticSource
from sartor_demo import show
from sartor_demo.errors import DemoError
from sartor_demo.follow import Line, follow
from sartor_demo.node import NODE, ROOT, Node, environments
from sartor_devcluster import DevCluster, DevclusterError, NotRunningError

CLUSTER = "demo"
MANIFESTS = ROOT / "examples" / "cluster"
POD_USER = 200000
INSTALL_SECONDS = 120
WORKS, PROBLEM, NO_WINNER = 0, 1, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """0: a winner serves beside its baseline; 3: the search ended without one; 1: a problem, in a sentence."""
    parser = argparse.ArgumentParser(prog="sartor-demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="from nothing to a proven stack beside vLLM")
    up.add_argument("--minutes", type=float, default=25.0, help="give up after that many (default: 25)")
    up.add_argument("--synthesis", type=Path, default=MANIFESTS / "synthesis.yaml", help="another ServingSynthesis")
    commands.add_parser("down", help="end it and remove what it made")
    chosen = parser.parse_args(arguments)
    try:
        return _down() if chosen.command == "down" else _up(chosen.synthesis, 60 * chosen.minutes)
    except (DemoError, DevclusterError, BaselineEnvironmentError) as error:
        print(f"sartor-demo: {error}", file=sys.stderr)
        return PROBLEM
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what runs goes on. `make demo` looks at it again, `make demo-down` ends it",
            file=sys.stderr,
        )
        return 130


def _up(manifest: Path, seconds: float) -> int:
    begun = time.monotonic()

    def step(text: str) -> None:
        print(f"[{_clock(time.monotonic() - begun)}] {text}", flush=True)

    synthesis = _load(manifest)
    name, namespace = synthesis["metadata"]["name"], synthesis["metadata"].get("namespace", "default")
    cache = cache_folder()
    if (made := synthesis["spec"]["model"]["source"].get("synthetic")) is not None:
        step("making the checkpoint, unless it is there")
        _checkpoint(made)
    step("starting a Kubernetes of its own (etcd, API server, controllers, scheduler, service proxy, DNS)")
    cluster = DevCluster.up(CLUSTER, say=step)
    compiled = _writable(cache / "engine-cache")
    node = Node(cluster, cluster.layout.folder / "node")
    vllm = existing_environment(cache)
    if vllm is None:
        step("vLLM is not installed (sartor baseline setup): the baseline will be transformers")
    node.start(node.configure(environments(cache, vllm), compiled))
    step(f"node {NODE} is ready: a sartor-runner, its pods are sandboxed processes of this machine")
    _install(cluster)
    step("Sartor is installed: CRDs, operator and git service, from the manifests of this repository")
    cluster.step_back()  # it shares the cores with what is measured
    applied = float(int(time.time()))  # Events have whole seconds
    hardware = _load(MANIFESTS / "hardware.yaml")
    hardware["spec"]["engineCache"] = {"hostPath": str(compiled)}
    _apply(cluster, hardware, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, synthesis)
    step(f"$ kubectl apply -f {os.path.relpath(manifest, Path.cwd())}")

    def tell(line: Line) -> None:
        step(f"  {line.subject}: {line.word}: {line.text}")

    found = follow(cluster, namespace, name, since=applied, seconds=seconds, say=tell)
    print()
    show.objects(cluster, namespace, print)
    served = found.get("status", {}).get("phase") == "Serving"
    if served:
        show.answers(cluster, namespace, name, print)
        best, beaten = found["status"]["best"]["speedup"], found["status"]["baseline"]
        passed = _clock(time.monotonic() - begun)
        print(f"\nconfirmed over {beaten['engine']} {beaten['version']}: {best['text']}, {passed} after the start\n")
    print(show.farewell(cluster, namespace, name))
    return WORKS if served else NO_WINNER


def _down() -> int:
    try:
        cluster = DevCluster.find(CLUSTER)
    except NotRunningError:
        print("there is no demonstration")
        return WORKS
    Node(cluster, cluster.layout.folder / "node").stop()
    cluster.down()
    print("the demonstration is gone; its caches (checkpoint, compiled vLLM, Kubernetes) stay")
    return WORKS


def _checkpoint(source: dict[str, Any]) -> None:
    """Into the cache that the node shows to its pods. In a process of its own: it loads PyTorch, and this one lives long."""
    wanted = SyntheticSource.model_validate(source)
    code = (
        "import sys; from sartor_agents.checkpoints import SyntheticSource, resolve; "
        "resolve(SyntheticSource(*sys.argv[1:4], int(sys.argv[4]), 'bfloat16'))"
    )
    what = [wanted.kind, wanted.architecture, wanted.size, str(wanted.seed)]
    done = subprocess.run([sys.executable, "-c", code, *what], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"the checkpoint could not be made: {done.stderr.strip().splitlines()[-1:]}")


def _writable(folder: Path) -> Path:
    """A folder that the node's pods may write."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, POD_USER, POD_USER)
    return folder


def _install(cluster: DevCluster) -> None:
    """What `operator/README.md` tells a user to do, and then waits for it."""
    cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "manifests"), check=True)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "-l", "!none", "--timeout=60s", check=True)
    cluster.kubectl("apply", "-k", str(files("sartor_demo") / "install"), check=True)
    for deployment in ("sartor-repository", "sartor-operator"):
        cluster.kubectl(
            "-n", "sartor-system", "rollout", "status", f"deployment/{deployment}", f"--timeout={INSTALL_SECONDS}s",
            check=True, timeout=INSTALL_SECONDS + 10,
        )  # fmt: skip


def _load(path: Path) -> dict[str, Any]:
    try:
        found: Any = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DemoError(f"{path}: {error.strerror}") from error
    if not isinstance(found, dict) or "metadata" not in found:
        raise DemoError(f"{path}: not a manifest of one object")
    return found


def _apply(cluster: DevCluster, *manifests: dict[str, Any]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
    cluster.kubectl("apply", "-f", "-", input=text, check=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
