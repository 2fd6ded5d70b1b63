"""Just enough of an API server, in memory, to run a whole runner against: pods are bound to its node at once.

It stands in for the real one where none can be started; the tests in `tests/cluster` use the real one.
"""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from sartor_runner.api.client import ApiClient
from sartor_runner.api.credentials import Credentials

Object = dict[str, Any]
CORE = "/api/v1"
REVIEWER = "reviewer"


class FakeCluster:
    """`objects` by path; `writes` counts requests that change something, by what and whom they concern."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.objects: dict[str, Object] = {}
        self.writes: list[tuple[str, str]] = []
        self.down = False
        self.url = ""
        self._version = 100
        self._watchers: list[tuple[str, asyncio.Queue[tuple[str, Object]]]] = []

    @asynccontextmanager
    async def serving(self, folder: Path) -> AsyncIterator[ApiClient]:
        """A client for tests, and a kubeconfig in the folder for the runner."""
        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/{rest:.*}", self._handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        context = {"name": "a", "context": {"cluster": "c", "user": "u"}}
        content = {
            "current-context": "a",
            "contexts": [context],
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "runner"}}],
        }
        (folder / "kubeconfig").write_text(json.dumps(content), encoding="utf-8")
        client = ApiClient(Credentials(self.url, token="test"))
        try:
            yield client
        finally:
            await client.close()
            await runner.cleanup()

    def pod(self, namespace: str, name: str) -> Object | None:
        return self.objects.get(f"{CORE}/namespaces/{namespace}/pods/{name}")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            return web.json_response({"message": "down"}, status=503)
        text = await request.text()
        body = json.loads(text) if text else {}
        path = request.path.rstrip("/")
        if request.query.get("watch"):
            return await self._watch(request, path)
        if path.endswith("/log"):
            return await self._log(request, path)
        mine = request.headers.get("Authorization") == "Bearer runner"
        if request.method != "GET" and mine and "reviews" not in path and not path.endswith("/token"):
            self.writes.append((request.method, path))
        try:
            status, found = self._answer(request.method, path, body)
        except KeyError:
            status, found = 404, {"kind": "Status", "reason": "NotFound", "message": f"{path} not found"}
        return web.json_response(found, status=status)

    def _answer(self, method: str, path: str, body: Object) -> tuple[int, Object]:
        if path == "/version":
            return 200, {"gitVersion": "v1.36.2"}
        if path.endswith("tokenreviews"):
            known = body["spec"]["token"] == REVIEWER
            return 201, {"status": {"authenticated": known, "user": {"username": REVIEWER}}}
        if path.endswith("subjectaccessreviews"):
            return 201, {"status": {"allowed": body["spec"]["user"] == REVIEWER}}
        if path.endswith("/token"):
            audience = (body["spec"]["audiences"] or ["api"])[0]
            return 201, {"status": {"token": f"token for {audience}", "expirationTimestamp": "2100-01-01T00:00:00Z"}}
        match method:
            case "GET" if path in self.objects:
                return 200, self.objects[path]
            case "GET":
                return self._list(path)
            case "POST":
                return 201, self._create(path, body)
            case "PUT":
                return 200, self._keep(path, body, "MODIFIED")
            case "PATCH":
                return 200, self._patch(path.removesuffix("/status"), body)
            case _:
                return 200, self._delete(path, body)

    def _list(self, path: str) -> tuple[int, Object]:
        kind = path.rpartition("/")[2]
        if kind not in ("pods", "services"):
            raise KeyError(path)
        items = [found for key, found in self.objects.items() if key.split("/")[-2:-1] == [kind]]
        return 200, {"metadata": {"resourceVersion": str(self._version)}, "items": items}

    def _create(self, path: str, body: Object) -> Object:
        made = deepcopy(body)
        metadata = made.setdefault("metadata", {})
        parts = path.split("/")
        if "namespaces" in parts[:-1]:
            metadata["namespace"] = parts[parts.index("namespaces") + 1]
        metadata.setdefault("uid", f"uid-{self._version}")
        kind = parts[-1]
        if kind == "namespaces":
            root = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "CA"}}
            self._create(f"{path}/{metadata['name']}/configmaps", root)
        if kind == "secrets":
            plain = made.pop("stringData", {})
            made["data"] = {k: base64.b64encode(v.encode()).decode() for k, v in plain.items()} | made.get("data", {})
        if kind == "pods":
            self._default_pod(made)
        return self._keep(f"{path}/{metadata['name']}", made, "ADDED")

    def _default_pod(self, pod: Object) -> None:
        """What admission, defaulting and the scheduler do."""
        spec = pod["spec"]
        spec["nodeName"] = self.node
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        pod["status"] = {"phase": "Pending", "conditions": [scheduled]}
        parts = [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]
        spec["volumes"] = [*spec.get("volumes", ()), {"name": "kube-api-access", "projected": {"sources": parts}}]
        mount = {
            "name": "kube-api-access",
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            "readOnly": True,
        }
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            container["volumeMounts"] = [*container.get("volumeMounts", ()), mount]

    def _keep(self, path: str, item: Object, event: str) -> Object:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        self.objects[path] = item
        self._tell(path, event, item)
        return item

    def _tell(self, path: str, event: str, item: Object) -> None:
        for suffix, queue in self._watchers:
            if path.rpartition("/")[0].endswith(suffix):
                queue.put_nowait((event, deepcopy(item)))

    def _patch(self, path: str, body: Object) -> Object:
        item = deepcopy(self.objects[path])
        uid = body.get("metadata", {}).get("uid")
        if uid is not None and uid != item["metadata"]["uid"]:
            raise KeyError(path)
        before = deepcopy(item)
        merge(item, body)
        return item if item == before else self._keep(path, item, "MODIFIED")

    def _delete(self, path: str, body: Object) -> Object:
        if path.count("/") == 4:  # a namespace: nothing here looks after what is in it
            return self.objects.pop(path)
        item = deepcopy(self.objects[path])
        grace = body.get("gracePeriodSeconds")
        grace = item["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
        if item["spec"]["nodeName"] and grace:
            item["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}
            return self._keep(path, item, "MODIFIED")
        del self.objects[path]
        self._version += 1
        item["metadata"] |= {"resourceVersion": str(self._version), "deletionGracePeriodSeconds": 0}
        self._tell(path, "DELETED", item)
        return item

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[tuple[str, Object]] = asyncio.Queue()
        watcher = (path.rpartition("/")[2], queue)
        self._watchers.append(watcher)
        try:
            while not self.down:
                try:
                    kind, item = await asyncio.wait_for(queue.get(), 0.2)
                except TimeoutError:
                    continue
                await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
        except (ConnectionResetError, asyncio.CancelledError):
            pass  # the client went away
        finally:
            self._watchers.remove(watcher)
        return response

    async def _log(self, request: web.Request, path: str) -> web.StreamResponse:
        """As the API server does it: from the node's kubelet API, over TLS."""
        _, _, _, _, namespace, _, pod, _ = path.split("/")
        node = self.objects[f"{CORE}/nodes/{self.node}"]["status"]
        address, port = node["addresses"][0]["address"], node["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        query = dict(request.query)
        container = query.pop("container", "main")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        url = f"https://{address}:{port}/containerLogs/{namespace}/{pod}/{container}"
        headers = {"Authorization": f"Bearer {REVIEWER}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, params=query, ssl=context, headers=headers) as found,
        ):
            return web.Response(status=found.status, text=await found.text())


def merge(target: Object, change: Object) -> None:
    """A strategic merge patch, as far as it is used: conditions by type, other lists whole, null removes."""
    for key, value in change.items():
        if value is None:
            target.pop(key, None)
        elif key == "conditions":
            merged = {c["type"]: c for c in target.get(key, [])}
            for condition in value:
                known = {**merged.get(condition["type"], {}), **condition}
                merged[condition["type"]] = {k: v for k, v in known.items() if v is not None}
            target[key] = list(merged.values())
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value
