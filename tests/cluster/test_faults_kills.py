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
from faults_support import scene
from operator_support import Kubelet, OperatorProcess, prepare

from sartor_devcluster import DevCluster

AT_ONCE = 4
"""Lives side by side on two cores."""
KILLED = -9


def lived(cluster: DevCluster, folder: Path, kubelet: Kubelet, number: int) -> tuple[bool, dict[str, Any]]:
    """A life whose process is killed after its write `number` (0: never). Whether it was, and the end."""
    name = f"k{number:03d}"
    process: list[OperatorProcess] = []

    def kill(_request: Request, count: int) -> bool:
        if count != number:
            return False
        assert process, "the process writes before it is known here"
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
        assert life.proxy is not None
        if number == 0:
            asked = list(life.events("create", "update", "patch", "delete"))
            granted = [e for e in asked if e["responseStatus"]["code"] < 300]
            inside = [w for w in life.proxy.writes if not w.resource.startswith("hardwaretargets")]  # of no namespace
            assert len(granted) == len(inside), "the proxy sees every write that the audit log has"
        return KILLED in life.kept.ends, life.end(name)


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
    numbers = range(2, 110, 26)
    assert check(cluster, tmp_path, numbers) == list(numbers)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_killed_after_every_single_write_it_comes_to_the_same_end(cluster: DevCluster, tmp_path: Path) -> None:
    died = check(cluster, tmp_path, itertools.count(1))
    assert died == list(range(1, len(died) + 1)) and len(died) > 60, died
