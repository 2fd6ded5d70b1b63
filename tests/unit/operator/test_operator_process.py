"""The process as it is started: it becomes the leader, works, and gives the lease back when it is ended."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sartor_agents.run.servers import free_port

CONFIG = """\
apiVersion: v1
kind: Config
current-context: a
contexts: [{{name: a, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]
users: [{{name: u, user: {{token: secret}}}}]
"""


class ApiServer:
    """An API server without objects but one Lease."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.watched: set[str] = set()
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == "Bearer secret"
        path = request.path
        if "/leases" in path:
            return await self._lease(request)
        if request.query.get("watch"):
            self.watched.add(path.rpartition("/")[2])
            answer = web.StreamResponse()
            await answer.prepare(request)
            await asyncio.sleep(30)
            return answer
        return web.json_response({"metadata": {"resourceVersion": "7"}, "items": [], "groups": [], "versions": ["v1"]})

    async def _lease(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            if self.lease is None:
                return web.json_response({"reason": "NotFound", "message": "none"}, status=404)
            return web.json_response(self.lease)
        body = json.loads(await request.text())
        version = int((self.lease or {"metadata": {"resourceVersion": "0"}})["metadata"]["resourceVersion"]) + 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(version), "uid": "u"}}
        return web.json_response(self.lease)

    def run(self, ready: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        self.loop = loop

        async def serve() -> None:
            app = web.Application()
            app.router.add_route("*", "/{tail:.*}", self.handle)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            ready.set()

        loop.run_until_complete(serve())
        loop.run_forever()


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server, ready = ApiServer(), threading.Event()
    thread = threading.Thread(target=server.run, args=(ready,), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield server
    server.loop.call_soon_threadsafe(server.loop.stop)
    thread.join(5)


def wait_for(look: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_leads_watches_every_kind_and_ends_in_order(api: ApiServer, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(CONFIG.format(port=api.port))
    metrics = free_port()
    command = [sys.executable, "-m", "sartor_operator", "run", "--kubeconfig", str(config), "--all-namespaces"]
    command += ["--metrics-port", str(metrics), "--lease-namespace", "ns", "--identity", "me"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ})

    def leads() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=5) as answer:
                return "sartor_leader 1.0" in answer.read().decode()
        except OSError:
            return False

    try:
        wait_for(leads)
        kinds = {"servingsyntheses", "synthesisruns", "servingcandidates", "hardwaretargets", "agentprofiles"}
        kinds |= {"jobs", "pods", "configmaps", "secrets", "services", "deployments"}
        wait_for(lambda: kinds <= api.watched)
        assert api.lease is not None and api.lease["spec"]["holderIdentity"] == "me"
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert api.lease["spec"]["holderIdentity"] == "", "given back, so that the next one need not wait"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        sys.stdout.write((tmp_path / "log").read_text()[-3000:])


def test_without_a_cluster_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sartor_operator", "run", "--kubeconfig", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 2
    assert "no cluster to connect to" in done.stderr and "--kubeconfig" in done.stderr
