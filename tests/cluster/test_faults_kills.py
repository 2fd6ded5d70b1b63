"""SIGKILL after the n-th write of a whole life on a real API server: the same end, no second Job, no lost round.

The write has been granted when the process dies, and it never learns that. Every life has a namespace, a process and a
proxy of its own; one scripted kubelet plays the node for all of them.
"""

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from faults_proxy import Proxy, Request
from faults_support import Scene, scene
from operator_support import Kubelet, OperatorProcess, prepare, wait_for

from sartor_devcluster import DevCluster

AT_ONCE = 4
"""Lives side by side on two cores."""
KILLED = -9


def lived(cluster: DevCluster, folder: Path, kubelet: Kubelet, number: int) -> tuple[bool, dict[str, Any]]:
    """A life whose process is killed after its write `number` (0: never). Whether it was, and the end."""
    name = f"k{number:03d}"
    process: list[OperatorProcess] = []
    killed: list[int] = []

    def kill(_request: Request, count: int) -> bool:
        if count != number:
            return False
        assert process, "the process writes before it is known here"
        killed.append(count)
        process[0].kill()
        return True

    def before(proxy: Proxy) -> None:
        proxy.written = kill

    folder = folder / name
    folder.mkdir()
    with scene(cluster, folder, proxied=True, before=before, kubelet=kubelet, ends=frozenset({KILLED})) as life:
        process.append(life.kept.process)
        life.begin(name)
        life.serving(120)
        life.undisturbed(name)
        if number == 0:
            wait_for("the proxy has seen every write that the audit log has", lambda: granted(life) == through(life))
        return bool(killed), life.end(name)


def granted(life: Scene) -> int:
    """Writes in the audit log."""
    return sum(e["responseStatus"]["code"] < 300 for e in life.events("create", "update", "patch", "delete"))


def through(life: Scene) -> int:
    """Writes that the proxy let through, but for those of no namespace."""
    assert life.proxy is not None
    return sum(not write.resource.startswith("hardwaretargets") for write in life.proxy.writes)


def plain(end: dict[str, Any]) -> dict[str, Any]:
    """An end without what names and moments of a life put into it."""
    return {**end, "best": {key: value for key, value in end["best"].items() if key != "text"}}


def check(cluster: DevCluster, folder: Path, numbers: Iterable[int]) -> list[int]:
    """Kill at each of these writes, a few lives at a time, until a life has no such write. The numbers at which one died."""
    prepare(cluster)
    died: list[int] = []
    waiting = iter(numbers)
    with Kubelet(cluster.kubeconfig, None) as kubelet, ThreadPoolExecutor(AT_ONCE) as pool:
        _, wanted = lived(cluster, folder, kubelet, 0)
        while batch := list(itertools.islice(waiting, AT_ONCE)):
            ends = list(pool.map(lambda number: lived(cluster, folder, kubelet, number), batch))
            for number, (killed, end) in zip(batch, ends, strict=True):
                assert plain(end) == plain(wanted), f"killed after write {number}"
                died += [number] if killed else []
            if not any(killed for killed, _ in ends):
                break
    return died


def test_killed_after_some_writes_it_comes_to_the_same_end(cluster: DevCluster, tmp_path: Path) -> None:
    numbers = range(2, 80, 18)  # a life has more than a hundred writes; how many more differs
    assert check(cluster, tmp_path, numbers) == list(numbers)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_killed_after_every_single_write_it_comes_to_the_same_end(cluster: DevCluster, tmp_path: Path) -> None:
    died = check(cluster, tmp_path, itertools.count(1))
    assert died == list(range(1, len(died) + 1)) and len(died) > 60, died
