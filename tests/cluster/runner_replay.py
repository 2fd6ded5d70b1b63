"""Replays the conformance table: applies each pod, watches it, and compares what was seen with what the table says.

    python tests/cluster/runner_replay.py --kubeconfig FILE --image IMAGE [--node NAME] [--only CASE …]

The table (`runner_conformance/*.yaml`) describes the kubelet's behaviour, so it can be replayed against any real cluster
with an image that has `sh`, coreutils and `python3`; cases that are about this runner alone are left out there
(`--runner` puts them in). Each case runs in a namespace of its own.

A case: `pod` (a pod spec; `image: IMAGE` is replaced), `objects` (made before), `expect` (patterns that must be seen in this
order, other statuses may lie between), `never` (patterns that must not be seen), `logs` (container: text that its log must
contain), `seconds` (how long it may take). `then` in a pattern is done once the pattern was seen: `delete: GRACE`.
A pattern: `phase`, `reason`, `message` (regular expression), `conditions` (type: status or status/reason), `gone: true`,
`containers` and `init` (name: `state` as KIND[:REASON[:EXIT CODE]], `last`, `restarts`, `ready`, `message`).
"""

import argparse
import asyncio
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sartor_runner.api.client import ApiClient, Object
from sartor_runner.api.credentials import kubeconfig
from sartor_runner.api.errors import ApiError
from sartor_runner.api.informer import Informer

LOG_ATTEMPTS = 20
TABLE = Path(__file__).parent / "runner_conformance"


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    pod: Mapping[str, Any]
    expect: Sequence[Mapping[str, Any]]
    objects: Sequence[Mapping[str, Any]] = ()
    never: Sequence[Mapping[str, Any]] = ()
    logs: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 30.0
    runner_only: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """`problems` is empty when the case passed; `seen` is the story, one line per status."""

    case: Case
    problems: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "\n".join([f"{self.case.name}: {self.case.about}", *self.problems, "seen:", *self.seen])


def cases() -> list[Case]:
    """The whole table."""
    found: list[Case] = []
    for path in sorted(TABLE.glob("*.yaml")):
        found += [Case(**raw) for raw in YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))]
    return found


def matches(pattern: Mapping[str, Any], pod: Object | None) -> bool:
    """Whether a pod (None: it is gone) is as the pattern says."""
    if pod is None or pattern.get("gone"):
        return pod is None and bool(pattern.get("gone"))
    status = pod.get("status") or {}
    for key in ("phase", "reason"):
        if key in pattern and status.get(key) != pattern[key]:
            return False
    if "message" in pattern and not re.search(pattern["message"], status.get("message") or ""):
        return False
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    for kind, wanted in (pattern.get("conditions") or {}).items():
        condition = conditions.get(kind) or {}
        value, _, reason = wanted.partition("/")
        if condition.get("status") != value or (reason and condition.get("reason") != reason):
            return False
    for key, statuses in (("containers", "containerStatuses"), ("init", "initContainerStatuses")):
        known = {c["name"]: c for c in status.get(statuses) or ()}
        for name, wanted in (pattern.get(key) or {}).items():
            if name not in known or not _container_matches(wanted, known[name]):
                return False
    return True


def _container_matches(wanted: Mapping[str, Any], status: Object) -> bool:
    for key, part in (("state", "state"), ("last", "lastState")):
        if key in wanted and not _state_matches(wanted[key], status.get(part) or {}):
            return False
    if "restarts" in wanted and status["restartCount"] != wanted["restarts"]:
        return False
    if "ready" in wanted and status["ready"] != wanted["ready"]:
        return False
    if "message" in wanted:
        states = [*(status.get("state") or {}).values(), *(status.get("lastState") or {}).values()]
        return any(re.search(wanted["message"], state.get("message") or "") for state in states)
    return True


def _state_matches(wanted: str, state: Mapping[str, Any]) -> bool:
    kind, _, rest = wanted.partition(":")
    reason, _, code = rest.partition(":")
    if kind not in state:
        return False
    return (not reason or state[kind].get("reason") == reason) and (
        not code or str(state[kind].get("exitCode")) == code
    )


def described(pod: Object | None) -> str:
    """A status in one line."""
    if pod is None:
        return "gone"
    status = pod.get("status") or {}
    parts = [status.get("phase", "-"), status.get("reason") or "", status.get("message") or ""]
    parts += [f"{c['type']}={c['status']}/{c.get('reason', '')}" for c in status.get("conditions") or ()]
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        parts.append(f"{container['name']}{container.get('state')}#{container['restartCount']}")
    return " ".join(part for part in parts if part)


class Replay:
    """All cases of one cluster share one watch."""

    def __init__(self, client: ApiClient, image: str, node: str | None) -> None:
        self._client, self._image, self._node = client, image, node
        self._queues: dict[str, asyncio.Queue[Object | None]] = {}

    async def run(self, chosen: Sequence[Case], parallel: int = 16) -> list[Outcome]:
        informer = Informer(
            self._client,
            "/api/v1/pods",
            changed=lambda pod: self._put(pod, pod),
            removed=lambda pod: self._put(pod, None),
        )
        watching = asyncio.create_task(informer.run())
        limit = asyncio.Semaphore(parallel)

        async def one(case: Case) -> Outcome:
            async with limit:
                return await self._case(case)

        try:
            await informer.synced.wait()
            return list(await asyncio.gather(*map(one, chosen)))
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    def _put(self, pod: Object, seen: Object | None) -> None:
        queue = self._queues.get(pod["metadata"]["namespace"])
        if queue is not None:
            if seen is None:
                queue.put_nowait(pod)  # the last status before it went
            queue.put_nowait(seen)

    async def _case(self, case: Case) -> Outcome:
        outcome = Outcome(case)
        namespace = f"conformance-{case.name}-{secrets.token_hex(3)}"
        queue = self._queues[namespace] = asyncio.Queue()
        try:
            await self._prepare(case, namespace)
            await self._follow(case, namespace, queue, outcome)
        except (ApiError, KeyError) as error:
            outcome.problems.append(f"the case could not be run: {error!r}")
        finally:
            del self._queues[namespace]
            with suppress(ApiError):
                options = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
                await self._client.delete(f"/api/v1/namespaces/{namespace}/pods/case", options)
            with suppress(ApiError):
                await self._client.delete(f"/api/v1/namespaces/{namespace}")
        return outcome

    async def _prepare(self, case: Case, namespace: str) -> None:
        core = f"/api/v1/namespaces/{namespace}"
        await self._client.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        for raw in case.objects:
            plural = {"ConfigMap": "configmaps", "Secret": "secrets", "Service": "services"}[raw["kind"]]
            await self._client.create(f"{core}/{plural}", raw)
        spec = self._with_image({"terminationGracePeriodSeconds": 2, **case.pod})
        spec["tolerations"] = [{"operator": "Exists"}]
        if self._node and not spec.get("nodeName"):
            spec["nodeSelector"] = {"kubernetes.io/hostname": self._node}
        metadata = {"name": "case", "labels": {"case": case.name}, "annotations": dict(case.annotations)}
        pod = {"metadata": metadata, "spec": spec}
        for attempt in range(100):
            try:
                await self._client.create(f"{core}/pods", pod)
                return
            except ApiError as error:  # the namespace's service account is made a moment after it
                if error.status not in (403, 404) or attempt == 99:
                    raise
                await asyncio.sleep(0.1)

    def _with_image(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: self._with_image(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._with_image(v) for v in value]
        return self._image if value == "IMAGE" else value

    async def _follow(
        self, case: Case, namespace: str, queue: "asyncio.Queue[Object | None]", outcome: Outcome
    ) -> None:
        wanted = list(case.expect)
        try:
            async with asyncio.timeout(case.seconds):
                while wanted:
                    pod = await queue.get()
                    outcome.seen.append(described(pod))
                    outcome.problems += [f"must never be seen: {p}" for p in case.never if matches(p, pod)]
                    while wanted and matches(wanted[0], pod):
                        await self._then(wanted.pop(0).get("then") or {}, namespace)
        except TimeoutError:
            outcome.problems.append(f"not seen within {case.seconds:g} s: {wanted[0]}")
        for container, text in case.logs.items():
            log = await self._log(namespace, container)
            if text not in log:
                outcome.problems.append(f"log of {container}: {text!r} is not in {log!r}")

    async def _then(self, action: Mapping[str, Any], namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/pods/case"
        if "delete" in action:
            await self._client.delete(path, {"gracePeriodSeconds": action["delete"]})
        if "gate" in action:
            conditions = [{"type": action["gate"], "status": "True"}]
            await self._client.patch(
                f"{path}/status", {"status": {"conditions": conditions}}, "application/strategic-merge-patch+json"
            )
        if "configMap" in action:
            name, data = action["configMap"]["name"], action["configMap"]["data"]
            await self._client.patch(f"/api/v1/namespaces/{namespace}/configmaps/{name}", {"data": data})

    async def _log(self, namespace: str, container: str) -> str:
        """A node's certificate may be signed a moment after the node is ready."""
        path = f"/api/v1/namespaces/{namespace}/pods/case/log"
        for attempt in range(LOG_ATTEMPTS):
            try:
                return await self._client.text(path, container=container)
            except ApiError as error:
                said = f"(no log: {error})"
                if error.status != 500 or attempt == LOG_ATTEMPTS - 1:
                    return said
            await asyncio.sleep(0.5)
        return ""


async def replay(
    config: Path, chosen: Sequence[Case], *, image: str, node: str | None, parallel: int = 16
) -> list[Outcome]:
    """The outcome of each case, in their order."""
    client = ApiClient(kubeconfig(config))
    try:
        return await Replay(client, image, node).run(chosen, parallel)
    finally:
        await client.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Replay the conformance table against a cluster")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--image", required=True, help="an image with sh, coreutils and python3")
    parser.add_argument("--node", help="kubernetes.io/hostname of the node to test; default: any")
    parser.add_argument("--only", nargs="*", default=[], metavar="CASE")
    parser.add_argument("--runner", action="store_true", help="also what is true of sartor-runner only")
    parser.add_argument("--parallel", type=int, default=8)
    options = parser.parse_args()
    chosen = [
        case
        for case in cases()
        if (case.name in options.only or not options.only) and (options.runner or not case.runner_only)
    ]
    outcomes = asyncio.run(
        replay(options.kubeconfig, chosen, image=options.image, node=options.node, parallel=options.parallel)
    )
    for outcome in outcomes:
        print("FAILED" if outcome.problems else "passed", outcome.text() if outcome.problems else outcome.case.name)
    return 1 if any(outcome.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
