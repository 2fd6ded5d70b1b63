"""`sartor-demo up` and `sartor-demo down`."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sartor_agents.baselines.environment import BaselineEnvironmentError, existing_environment
from sartor_agents.cache import cache_folder
from sartor_api.model import SyntheticSource
from sartor_demo import show
from sartor_demo.board import View, totals, view
from sartor_demo.errors import DemoError
from sartor_demo.installing import apply, install
from sartor_demo.node import BRAKE_FILE, NODE, ROOT, SLOW_COMMAND, Node, environments
from sartor_demo.stage import ERROR, PROMOTED, ROLLED_BACK, Ending, Stage, Users
from sartor_demo.traffic import STREAMS
from sartor_devcluster import DevCluster, DevclusterError, NotRunningError

CLUSTER = "demo"
MANIFESTS = ROOT / "examples" / "cluster"
POD_USER = 200000
GATEWAY_PARTS = ("kube-proxy", "contour", "envoy")
LEFT_OUT = ("prometheus",)
"""Nobody asks it here, and it has the port of the operator's metrics, in the one network that all share."""
WORKS, PROBLEM, NO_WINNER, OTHERWISE = 0, 1, 3, 4


def parser() -> argparse.ArgumentParser:
    """The options; their help is the reference."""
    root = argparse.ArgumentParser(prog="sartor-demo", description="The demonstration: see docs/kubernetes.md.")
    commands = root.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="from nothing to live traffic on a proven stack")
    up.add_argument("--minutes", type=float, default=40.0, help="give up after that many (default: %(default)g)")
    up.add_argument(
        "--synthesis",
        type=Path,
        default=MANIFESTS / "live-traffic.yaml",
        help="another ServingSynthesis; one without rollout.parentRefs ends with the stack beside vLLM",
    )
    up.add_argument("--rollback", action="store_true", help="the stack gets slow at half of the traffic: see it caught")
    up.add_argument("--json", action="store_true", help="the last line is one JSON object")
    users = up.add_argument_group("users (the load generator)")
    users.add_argument("--rate", type=float, default=3.0, help="requests a second (default: %(default)g)")
    users.add_argument("--arrivals", choices=["poisson", "fixed"], default="poisson", help="default: %(default)s")
    users.add_argument("--streams", type=float, default=STREAMS, help="share of streams (default: %(default)g)")
    users.add_argument(
        "--outside", type=float, default=0.0, help="share outside of the stack's envelope (default: %(default)g)"
    )
    users.add_argument("--seed", type=int, default=1, help="of requests and their moments (default: %(default)d)")
    commands.add_parser("down", help="end it and remove what it made")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """0: it ended as it should, and no request was lost; 3: the search ended without a winner; 4: the rollout ended
    otherwise, or requests were lost; 1: a problem, in a sentence."""
    chosen = parser().parse_args(arguments)
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to end, it ends its users first
    try:
        return _down() if chosen.command == "down" else _up(chosen, begun)
    except (DemoError, DevclusterError, BaselineEnvironmentError) as error:
        print(f"sartor-demo: {error}", file=sys.stderr)
        if chosen.command == "up" and chosen.json:
            print(json.dumps({"outcome": ERROR, "message": str(error), "seconds": round(time.monotonic() - begun)}))
        return PROBLEM
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what runs goes on. `make demo` looks at it again, `make demo-down` ends it",
            file=sys.stderr,
        )
        return 130


def _up(chosen: argparse.Namespace, begun: float) -> int:
    synthesis = load(chosen.synthesis)
    with view(lambda: clock(time.monotonic() - begun)) as shown:
        ending, cluster = _play(chosen, synthesis, shown, begun)
    return _conclude(chosen, cluster, synthesis, ending, begun)


def _play(
    chosen: argparse.Namespace, synthesis: dict[str, Any], shown: View, begun: float
) -> tuple[Ending, DevCluster]:
    """Cluster, node, Sartor, the synthesis, and then whatever happens."""
    namespace = synthesis["metadata"].get("namespace", "default")
    traffic = bool((synthesis["spec"].get("rollout") or {}).get("parentRefs"))
    if chosen.rollback and not traffic:
        raise DemoError(f"{chosen.synthesis} rolls nothing out; --rollback needs a synthesis with rollout.parentRefs")
    cache = cache_folder()
    _end_another(rollback=chosen.rollback, say=shown.say)
    if (made := synthesis["spec"]["model"]["source"].get("synthetic")) is not None:
        shown.say("making the checkpoint, unless it is there")
        _checkpoint(made)
    what = "etcd, API server, controllers, scheduler, service proxy, DNS" + (", Gateway" if traffic else "")
    shown.say(f"starting a Kubernetes of its own ({what})")
    required, without = (GATEWAY_PARTS, LEFT_OUT) if traffic else ((), ())
    cluster = DevCluster.up(CLUSTER, gateway=traffic, require=required, without=without, say=shown.say)
    compiled = _writable(cache / "engine-cache")
    brake = _brake(cluster) if chosen.rollback else None
    node = Node(cluster, cluster.layout.folder / "node")
    vllm = existing_environment(cache)
    if vllm is None:
        shown.say("vLLM is not installed (sartor baseline setup): the baseline will be transformers")
    folder = brake.parent if brake is not None else None
    access_log = cluster.access_log.resolve() if traffic else None  # what a pod may mount is no link
    readable = [] if access_log is None else [access_log.parent]
    node.start(node.configure(environments(cache, vllm, folder), compiled, readable))
    shown.say(f"node {NODE} is ready: a sartor-runner, its pods are sandboxed processes of this machine")
    install(cluster, access_log=access_log, stack_command=SLOW_COMMAND if chosen.rollback else None)
    shown.say("Sartor is installed: CRDs, operator and git service, from the manifests of this repository")
    cluster.step_back(but=("envoy",))  # it shares the cores with what is measured
    applied = float(int(time.time()))  # Events have whole seconds
    hardware = load(MANIFESTS / "hardware.yaml")
    hardware["spec"]["engineCache"] = {"hostPath": str(compiled)}
    apply(cluster, [hardware, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, synthesis])
    shown.say(f"$ kubectl apply -f {os.path.relpath(chosen.synthesis, Path.cwd())}")
    users = Users(chosen.rate, chosen.seed, chosen.arrivals, chosen.streams, chosen.outside)
    stage = Stage(cluster, synthesis, shown, users, brake=brake)
    left = 60 * chosen.minutes - (time.monotonic() - begun)
    return stage.play(since=applied, seconds=left), cluster


def _conclude(
    chosen: argparse.Namespace, cluster: DevCluster, synthesis: dict[str, Any], ending: Ending, begun: float
) -> int:
    """What is printed at the end, and the exit code."""
    name, namespace = synthesis["metadata"]["name"], synthesis["metadata"].get("namespace", "default")
    traffic = bool(ending.rollout)
    print()
    show.objects(cluster, namespace, print, traffic=traffic)
    status, passed = ending.synthesis.get("status", {}), time.monotonic() - begun
    if ending.outcome in ("Serving", PROMOTED):
        stack = show.ROLLOUT_STACK if traffic else show.STACK
        show.answers(cluster, namespace, name, print, (show.BASELINE, stack))
    if (best := (status.get("best") or {}).get("speedup")) and (beaten := status.get("baseline")):
        print(
            f"\nconfirmed over {beaten['engine']} {beaten['version']}: {best['text']}, {clock(passed)} after the start\n"
        )
    print(show.farewell(cluster, namespace, name, traffic=traffic))
    found = summary(ending, seconds=passed)
    if ending.load is not None:
        if not ending.problem:
            print(f"\n{ending.outcome}: {found['message']}")
        for problem in ending.load.seen.problems:
            print(f"lost: {problem}")
        print(totals(ending.load.seen.counts, ending.load.seen.duplicated))
    if ending.problem:
        print(f"sartor-demo: {ending.problem}", file=sys.stderr)
    if chosen.json:
        print(json.dumps(found))
    return verdict(ending.outcome, found, rollback=chosen.rollback)


def summary(ending: Ending, *, seconds: float) -> dict[str, Any]:
    """For machines. Without a rollout nobody sent anything."""
    seen = ending.load.seen if ending.load is not None else None
    counts = seen.counts if seen is not None else {}
    status = ending.rollout.get("status") or ending.synthesis.get("status") or {}
    speedup = ((ending.synthesis.get("status") or {}).get("best") or {}).get("speedup") or {}
    return {
        "requests": counts.get("sent", 0),
        "answered": counts.get("answered", 0),
        "failed": counts.get("failed", 0),
        "cut": counts.get("cut", 0),
        "duplicated": seen.duplicated if seen is not None else 0,
        "outcome": ending.outcome,
        "message": ending.problem or str(status.get("message", "")),
        "speedup": {key: float(speedup[key]) for key in ("value", "low", "high") if key in speedup},
        "arms": {name: arm.figures() for name, arm in seen.arms.items()} if seen is not None else {},
        "seconds": round(seconds),
    }


def verdict(outcome: str, found: dict[str, Any], *, rollback: bool) -> int:
    """The exit code."""
    if outcome == ERROR:
        return PROBLEM
    if outcome not in ("Serving", PROMOTED, ROLLED_BACK):
        return NO_WINNER
    wanted = (ROLLED_BACK,) if rollback else ("Serving", PROMOTED)
    lost = any(found[key] for key in ("failed", "cut", "duplicated"))
    return OTHERWISE if lost or outcome not in wanted else WORKS


def _end_another(*, rollback: bool, say: Callable[[str], None]) -> None:
    """A demonstration with a planted fault cannot become one without, nor the other way round: it is ended first."""
    try:
        cluster = DevCluster.find(CLUSTER)
    except NotRunningError:
        return
    planted = _brake_folder(cluster).exists()
    if planted or rollback:
        say("the demonstration that was there before is ended, as it is of another kind or had a fault planted")
        _down()


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


def _brake_folder(cluster: DevCluster) -> Path:
    return cluster.layout.folder / "brake"


def _brake(cluster: DevCluster) -> Path:
    """The file that makes the stack slow while it is there; it is not there yet."""
    folder = _brake_folder(cluster)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # for pods of any user; on the host nobody else gets through the folder above
    return folder / BRAKE_FILE


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


def load(path: Path) -> dict[str, Any]:
    """A manifest of one object. Raises `DemoError`."""
    try:
        found: Any = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DemoError(f"{path}: {error.strerror}") from error
    if not isinstance(found, dict) or "metadata" not in found:
        raise DemoError(f"{path}: not a manifest of one object")
    return found


def clock(seconds: float) -> str:
    """`MM:SS`."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
