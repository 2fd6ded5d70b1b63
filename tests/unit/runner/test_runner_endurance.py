"""What a node lives through: servers that hang, disks that are full, machines that sleep, a Node that is removed."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from sartor_runner.api import client as api_client
from sartor_runner.api import keys
from sartor_runner.api.client import ApiClient
from sartor_runner.api.credentials import Credentials
from sartor_runner.api.errors import UnreachableError
from sartor_runner.config import Config
from sartor_runner.core import downward, environment
from sartor_runner.core.backoff import Backoff
from sartor_runner.core.downward import Placement
from sartor_runner.core.pod import parse
from sartor_runner.core.refusals import Allowed, refusals
from sartor_runner.errors import ContainerError
from sartor_runner.host import containers, shim, volumes
from sartor_runner.host.directories import PodDirectory
from sartor_runner.host.sandbox import Identity
from sartor_runner.node import lease, registration
from sartor_runner.node.lease import NodeLease
from sartor_runner.node.registration import Registration

from .fake_api import Answer, FakeApi
from .simulation import pod


def test_a_watch_without_a_word_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "SILENCE_SECONDS", 0.05)

    async def silent(*_: object) -> Answer:
        await asyncio.sleep(5)
        return 200, {}

    async def test() -> None:
        async with FakeApi(lambda *a: silent(*a)).client() as client:
            with pytest.raises(UnreachableError):
                async for _ in client.watch("/api/v1/pods", "7"):
                    raise AssertionError("nothing was sent")

    asyncio.run(test())


def test_a_renewal_that_hangs_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.01)
    held = {"metadata": {"name": "node-1", "resourceVersion": "1"}}
    renewed = asyncio.Event()

    async def answer(method: str, _path: str, _query: dict[str, str], _body: Any) -> Answer:
        if len(api.requests) == 2:  # the first renewal
            await asyncio.sleep(5)
        if method == "PUT" and len(api.requests) > 2:
            renewed.set()
        return 200, held

    api = FakeApi(answer)

    async def test() -> None:
        async with api.client() as client:
            running = asyncio.create_task(NodeLease(client, "node-1", lambda: "uid", lambda: 1000.0).run())
            async with asyncio.timeout(3):
                await renewed.wait()
            running.cancel()

    asyncio.run(test())


def test_a_node_that_was_removed_asks_for_its_addresses_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registration, "CHECK_SECONDS", 0.01)
    made: list[dict[str, Any]] = []

    def answer(method: str, path: str, _query: dict[str, str], body: Any) -> Answer:
        if path == "/version":
            return 200, {"gitVersion": "v1.36.2"}
        if method == "POST":
            made.append({**body, "metadata": {**body["metadata"], "uid": f"u{len(made)}", "resourceVersion": "1"}})
            return 201, made[-1]
        if len(made) == 1 and method == "GET":
            return 404, {"reason": "NotFound", "message": "somebody removed it"}
        return 200, made[-1]

    async def test() -> None:
        table = {"name": "node-1", "platform": "cpu"}
        config = Config.model_validate({"node": table, "directory": str(tmp_path)})
        again = asyncio.Event()

        async def renumber() -> None:
            again.set()

        async with FakeApi(answer).client() as client:
            node = Registration(client, config, "10.240.0.9", lambda: 1000.0)
            node.renumber = renumber
            await node.register()
            assert (node.uid, again.is_set()) == ("u0", False)
            running = asyncio.create_task(node.run())
            async with asyncio.timeout(3):
                await again.wait()
            assert node.uid == "u1"
            running.cancel()

    asyncio.run(test())


class Calendar:
    """A clock that goes on while nobody looks, and a sleep that takes no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.naps = 0.0, list[float]()

        async def sleep(seconds: float) -> None:
            self.naps.append(seconds)
            self.now += seconds
            if len(self.naps) == 3:
                self.now += 1e6  # the lid was closed

        monkeypatch.setattr(asyncio, "sleep", sleep)


def test_a_machine_that_slept_sees_that_it_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    calendar = Calendar(monkeypatch)
    asyncio.run(keys._sleep_until(1e6, lambda: calendar.now))  # pyright: ignore[reportPrivateUsage]
    assert calendar.naps == [60.0, 600.0, 600.0], "and not one nap of a million seconds"


@pytest.mark.parametrize(("ends", "by"), [(2e7, "own"), (1e5, "bootstrap")])
def test_a_certificate_that_has_run_out_is_asked_for_with_the_bootstrap_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: float, by: str
) -> None:
    calendar = Calendar(monkeypatch)
    asked: list[Credentials] = []

    class AskedError(Exception):
        pass

    async def ask(_name: str, credentials: Credentials) -> bytes:
        asked.append(credentials)
        raise AskedError

    async def validity(_path: Path) -> tuple[float, float]:
        return 0.0, ends

    monkeypatch.setattr(keys, "_ask", ask)
    monkeypatch.setattr(keys, "_validity", validity)
    own, bootstrap = Credentials("https://own"), Credentials("https://bootstrap")
    with pytest.raises(AskedError):
        asyncio.run(keys.keep_renewed(tmp_path, "node-1", bootstrap, ApiClient(own), lambda: calendar.now))
    assert asked == [{"own": own, "bootstrap": bootstrap}[by]]


def test_a_full_disk_costs_lines_and_not_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = shim.Log("/dev/full", 4096, 2)
    full.write("stdout", b"lost\n")
    assert full.size == 0
    log = shim.Log(str(tmp_path / "log"), 120, 3)
    log.write("stdout", b"first\n")
    with monkeypatch.context() as broken:
        broken.setattr(log, "_open", _refuse)
        log.write("stdout", b"x" * 100 + b"\n")  # would go to a new file
    log.write("stdout", b"last\n")
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert [line.split(" ", 3)[3] for line in written.splitlines()] == ["first", "last"]


def _refuse() -> None:
    raise OSError(28, "No space left on device")


def test_an_attempt_that_still_starts_is_not_started_twice(tmp_path: Path) -> None:
    raw = pod()
    container = parse(raw).containers[0]
    directory = PodDirectory(tmp_path, "uid")

    def create() -> Path:
        return containers.create(directory, container, 0, "image", Backoff(), Identity(0, 0), "/")

    folder = create()
    control = os.open(folder / "control", os.O_RDWR | os.O_NONBLOCK)
    living = os.open(folder / "alive", os.O_RDWR)
    try:
        with pytest.raises(ContainerError, match="an earlier start of this attempt has not ended yet"):
            create()
        assert os.read(control, 100) == b"kill\n"
    finally:
        os.close(living)
        os.close(control)
    assert create() == folder


def test_a_supervisor_that_never_answers_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hangs = tmp_path / "hangs.py"
    hangs.write_text(
        "import os, pathlib, sys, time\npathlib.Path(sys.argv[1], 'pid').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    monkeypatch.setattr(containers, "SHIM", hangs)
    monkeypatch.setattr(containers, "START_SECONDS", 5.0)
    folder = containers.create(
        PodDirectory(tmp_path, "uid"), parse(pod()).containers[0], 0, "image", Backoff(), Identity(0, 0), "/"
    )
    launch = containers.Launch(("true",), (), {}, (), bubblewrap=False)

    async def test() -> None:
        with pytest.raises(ContainerError, match="not ready within 5 s"):
            await containers.start(folder, launch, Identity(0, 0), containers.LogLimits(4096, 1))
        pid = int((folder / "pid").read_text())
        async with asyncio.timeout(30):
            while Path(f"/proc/{pid}").exists():
                await asyncio.sleep(0.01)

    asyncio.run(test())


def test_a_folder_that_changes_while_it_is_measured(tmp_path: Path) -> None:
    """What a pod does to its own volume is no reason for the node to end."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            (tmp_path / "d").mkdir(exist_ok=True)
            (tmp_path / "d" / "f").write_text("x" * 5000)
            (tmp_path / "d" / "f").unlink()
            (tmp_path / "d").rmdir()
            (tmp_path / "d").write_text("a file where a folder was")
            (tmp_path / "d").unlink()

    worker = threading.Thread(target=churn)
    worker.start()
    try:
        for _ in range(300):
            assert 0 <= volumes.used_bytes(tmp_path) <= 16384
    finally:
        stop.set()
        worker.join()


def test_a_volume_entry_below_a_file_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(os, "walk", lambda _: [(str(tmp_path / "file"), [], ["gone"]), (str(tmp_path), [], ["file"])])
    assert volumes.used_bytes(tmp_path) > 0


def service(name: str, namespace: str, address: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"metadata": metadata, "spec": {"clusterIP": address, "ports": [{"port": 443, "name": "https"}]}}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_service_of_the_pods_own_namespace_comes_before_the_clusters(reverse: bool) -> None:
    raw = pod()
    mine = parse({**raw, "metadata": {**raw["metadata"], "namespace": "team-a"}})
    both = [service("kubernetes", "default", "10.96.0.1"), service("kubernetes", "team-a", "10.96.7.7")]
    found = environment.service_variables(reversed(both) if reverse else both, mine, None)
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.7.7"
    without = parse({**raw, "spec": {**raw["spec"], "enableServiceLinks": False}})
    assert environment.service_variables(both, without, None)["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"


def test_labels_are_quoted_as_go_quotes_them() -> None:
    raw = pod()
    labelled = parse({**raw, "metadata": {**raw["metadata"], "annotations": {"a": 'tab\t"q" \\ \n ü'}}})
    text = downward.field(labelled, "metadata.annotations", Placement("n", (), "", {}))
    assert text == 'a="tab\\t\\"q\\" \\\\ \\n ü"'


def test_limits_of_a_whole_pod_are_refused() -> None:
    limited = parse(pod(resources={"limits": {"memory": "1Gi"}}))
    (sentence,) = refusals(limited, Allowed())
    assert sentence.startswith("spec.resources: this node accounts for containers")
