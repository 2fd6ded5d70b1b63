"""Every cheat and its twin the whole way of a synthesis in a cluster: the implementer's skills have the cheat in them, and
everything else is as it is installed.

Planner, implementer, judge, evaluator and candidate are Jobs and Pods of a real Kubernetes on a `sartor-runner` node; what
the candidate tried is read from its pods' logs, what became of it from the run's records.
"""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from redteam_page import watched
from redteam_range import SCENARIOS, held_against
from redteam_registry import CHEATS, Cheat, Denied, Rejected
from redteam_stacks import ALWAYS, MAIN
from redteam_stacks import CHEATS as CHEATS_FOLDER
from redteam_trial import STEPS, Seen

from sartor_agents.cache import cache_folder
from sartor_agents.checkpoints import SyntheticSource, resolve
from sartor_api.search.records import Judgement, StepRecord
from sartor_demo.cli import MANIFESTS, load
from sartor_demo.installing import apply, install
from sartor_demo.node import ROOT, Node, environments
from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.run.observe import RECORD_KEY, StoredRecord

pytestmark = [pytest.mark.cluster, pytest.mark.exhaustive, pytest.mark.slow, pytest.mark.timeout(1500)]

PLAYED = [cheat for cheat in CHEATS if not cheat.local_only]
SIDES = {"cheat": True, "twin": False}
END_SECONDS = 600


def image_of(cheat: Cheat, side: str) -> str:
    """Name of the agents' image whose skills have this cheat in them, of its target and of its namespace."""
    return f"redteam-{cheat.name.replace('_', '-')}-{side}"


def planted_skills(cheat: Cheat, folder: Path, *, on: bool) -> Path:
    """The skills of this checkout, with a cheat in the block that starts a stack."""
    shutil.copytree(ROOT / "skills", folder, ignore=shutil.ignore_patterns("__pycache__"))
    core = folder / "serving-core"
    for name in ALWAYS:
        shutil.copy(CHEATS_FOLDER / f"{name}.py", core / "blocks")
    shutil.copy(CHEATS_FOLDER / f"{cheat.name}.py", core / "blocks" / "cheat.py")
    (core / "blocks" / "plant.py").write_text(f'"""Whether the cheat is on."""\n\nON = {on}\n')
    (core / "blocks" / "__main__.py").write_text(MAIN)
    recipe = core / "recipe.toml"
    added = "".join(f'    "{name}.py",\n' for name in (*ALWAYS, "plant", "cheat"))
    text = recipe.read_text().replace("blocks = [\n", f"blocks = [\n{added}", 1)
    assert added in text
    recipe.write_text(text)
    return folder


@pytest.fixture(scope="module")
def planted() -> Iterator[Path]:
    """A folder that the pods' user can read, which pytest's are not."""
    with TemporaryDirectory(prefix="redteam-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def cluster(planted: Path) -> Iterator[DevCluster]:
    folder, cache = planted, cache_folder()
    resolve(SyntheticSource("chain", "llama", "tiny", 0, "bfloat16"))
    found = environments(cache, None)
    targets: list[dict[str, Any]] = []
    for cheat in PLAYED:
        for side, on in SIDES.items():
            image = image_of(cheat, side)
            skills = planted_skills(cheat, folder / image, on=on)
            binds = [
                f"{skills}:{ROOT / 'skills'}" if bind == str(ROOT / "skills") else bind
                for bind in found["agents"]["binds"]
            ]
            found[image] = {**found["agents"], "images": [f"{image}:*"], "binds": binds}
            target = load(MANIFESTS / "hardware.yaml")
            target["metadata"]["name"] = image
            target["spec"]["images"] = {"agent": f"{image}:1"}
            targets.append(target)
    up = DevCluster.up("redteam", lifeline=True)
    node = Node(up, up.layout.folder / "node")
    try:
        writable = folder / "engine-cache"
        writable.mkdir()
        node.start(node.configure(found, writable))
        install(up, access_log=None, stack_command=None)
        apply(up, targets)
        yield up
    finally:
        node.stop()
        up.down()


def synthesis(cheat: Cheat, name: str) -> dict[str, Any]:
    objective = {}
    if cheat.guardrail is not None:
        metric, at_most = cheat.guardrail
        objective = {"guardrails": [{"metric": metric, "maximumRegression": f"{(at_most - 1) * 100:.0f}%"}]}
    return {
        "apiVersion": "sartor.dev/v1alpha1",
        "kind": "ServingSynthesis",
        "metadata": {"name": "it", "namespace": name},
        "spec": {
            "model": {"source": {"synthetic": {"kind": "chain", "architecture": "llama", "size": "tiny"}}},
            "workload": {
                "scenario": cheat.scenario,
                "parameters": dict(SCENARIOS[cheat.scenario]),
                "envelope": {"maxInputTokens": 768, "maxOutputTokens": 256, "maxConcurrency": 8},
            },
            "hardware": {"targetRef": {"name": name}},
            "correctness": {"samples": 8},
            "baseline": {"engine": "transformers", "tuning": "none"},
            **({"objective": objective} if objective else {}),
            "measurement": {"preset": "quick"},
            "budget": {"rounds": 1, "wallClock": "20m"},
        },
    }


class Logs:
    """Logs of candidates' pods, collected while they live: they are gone with their step."""

    def __init__(self, cluster: DevCluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._logs: dict[str, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def _collect(self) -> None:
        while not self._over.wait(1.0):
            pods = self._cluster.kubectl(
                "-n", self._namespace, "get", "pods", "-l", "sartor.dev/role=candidate", "-o", "name"
            )
            for pod in pods.stdout.split():
                log = self._cluster.kubectl("-n", self._namespace, "logs", pod, "--all-containers")
                if len(log.stdout) > len(self._logs.get(pod, "")):
                    self._logs[pod] = log.stdout

    @property
    def text(self) -> str:
        return "\n".join(self._logs.values())

    def __enter__(self) -> "Logs":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)


@dataclass(frozen=True)
class Ended:
    """What became of a candidate. `held` are reasons and messages of all that the cheat's gate, or one before it, held
    against it: a judge goes on after the first."""

    held: dict[str, str]
    log: str
    seconds: float


def play(cluster: DevCluster, cheat: Cheat, side: str) -> Ended:
    """One synthesis until the cheat's gate has spoken; all of it is deleted then."""
    name = image_of(cheat, side)
    apply(cluster, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
    begun = time.monotonic()
    try:
        with Logs(cluster, name) as logs:
            apply(cluster, [synthesis(cheat, name)])
            held = decided(cluster, name, cheat)
        return Ended(held, logs.text, time.monotonic() - begun)
    finally:
        cluster.kubectl("-n", name, "delete", "ssyn", "it", "--timeout=60s", check=True)
        cluster.kubectl("delete", "namespace", name, "--wait=false", check=True)


def decided(cluster: DevCluster, namespace: str, cheat: Cheat) -> dict[str, str]:
    """Reason → message of what the cheat's gate, or one before it, held against the candidate; empty when it passed.

    From the run's own records: a status goes on to what became of the repair.
    """
    until = time.monotonic() + END_SECONDS
    while time.monotonic() < until:
        time.sleep(1)
        for record in records(cluster, namespace):
            if record.step is STEPS[cheat.gate] or record.failure is not None:
                if isinstance(record.result, Judgement):
                    return {v.reason: v.message for v in record.result.verdicts if not v.passed}
                reason, message = held_against(record.result)
                return {} if reason is None else {reason: message}
    shown = cluster.kubectl("-n", namespace, "get", "ssyn,srun,scand,pods", "-o", "wide").stdout
    raise AssertionError(f"nothing was decided within {END_SECONDS} s:\n{shown}")


def records(cluster: DevCluster, namespace: str) -> list[StepRecord]:
    """What the run has written down, in order."""
    kept = cluster.kubectl(
        "-n", namespace, "get", "configmaps", "-l", f"{names.PART_LABEL}={names.RECORD}", "-o", "json", check=True
    )
    found = (StoredRecord.model_validate_json(one["data"][RECORD_KEY]) for one in json.loads(kept.stdout)["items"])
    return sorted((one.record for one in found), key=lambda record: record.sequence)


def try_cheat(cluster: DevCluster, cheat: Cheat) -> Seen:
    """The cheat must meet with what the registry says. Raises `AssertionError`."""
    ended = play(cluster, cheat, "cheat")
    attempts = [line for line in ended.log.splitlines() if line.startswith("ATTEMPT ")]
    assert isinstance(cheat.meets, Rejected | Denied)
    reason = cheat.sooner if cheat.sooner in ended.held else cheat.meets.reason
    if reason is None:
        assert not ended.held, f"{cheat.name}: {ended.held}"
    else:
        assert reason in ended.held, f"{cheat.name}: {ended.held}"
    if isinstance(cheat.meets, Rejected):
        return Seen(f"rejected: {reason}", ended.held[reason or ""], ended.seconds)
    done = [line for line in attempts if line.endswith(": DONE")]
    assert attempts and not done, f"{cheat.name}: {done or 'it attempted nothing'}:\n{ended.log}"
    return Seen(f"{len(attempts)} attempts denied", attempts[0].removeprefix("ATTEMPT "), ended.seconds)


def try_twin(cluster: DevCluster, cheat: Cheat) -> Seen:
    """The same code without the cheat must pass the same gate. Raises `AssertionError`."""
    ended = play(cluster, cheat, "twin")
    # A slow twin is honest too: it has to be measured, not to win.
    assert set(ended.held) <= {"NoGain"}, f"{cheat.name}'s twin: {ended.held}"
    return Seen("measured, no gain" if ended.held else "accepted", "", ended.seconds)


@pytest.mark.parametrize("cheat", PLAYED, ids=lambda cheat: cheat.name)
def test_a_cheat_is_rejected_in_a_cluster_by_the_same_reason(cluster: DevCluster, cheat: Cheat) -> None:
    watched(cheat.name, "cheat", lambda: try_cheat(cluster, cheat), where="cluster")


@pytest.mark.parametrize("cheat", PLAYED, ids=lambda cheat: cheat.name)
def test_its_honest_twin_passes_in_a_cluster(cluster: DevCluster, cheat: Cheat) -> None:
    watched(cheat.name, "twin", lambda: try_twin(cluster, cheat), where="cluster")
