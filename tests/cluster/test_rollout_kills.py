"""SIGKILL after the n-th write of a whole rollout on a real API server, forward and back: the same weights, the same end.

The write has been granted when the process dies, and it never learns that. Each life has a namespace, a process, a proxy and
a played Gateway of its own.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults_proxy import Proxy, Request
from operator_support import prepare, wait_for
from rollout_support import FORWARD, Stage, install_gateway_api, remove_gateway_api, stage

from sartor_devcluster import DevCluster

AT_ONCE = 6
"""Lives side by side on two cores."""
BACK = [*FORWARD[:3], (100, 0)]


@pytest.fixture(scope="module")
def ready(cluster: DevCluster) -> Iterator[DevCluster]:
    prepare(cluster)
    install_gateway_api(cluster)
    yield cluster
    remove_gateway_api(cluster)


class Killer:
    """Kills the operator of a life once, at its write `number`, and starts it again."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.stage: Stage | None = None
        self.killed = False

    def written(self, _request: Request, count: int) -> bool:
        if count != self._number:
            return False
        assert self.stage is not None, "the process writes before there is a rollout"
        self.killed = True
        self.stage.operator.kill()
        self.stage.operator.start()
        return True


def lived(cluster: DevCluster, folder: Path, number: int, *, back: bool) -> bool:
    """A life whose operator is killed after its write `number` (0: never). Whether there was such a write."""
    folder = folder / f"{'back' if back else 'forward'}-{number:03d}"
    folder.mkdir()
    killer = Killer(number)
    with (
        Proxy(cluster.kubeconfig, folder / "proxy.kubeconfig") as proxy,
        stage(cluster, folder, proxy.kubeconfig) as made,
    ):
        made.policy = {**made.policy, "baselineAfterPromotion": {"replicas": 1, "scaleDownAfter": "1s"}}
        killer.stage = made
        proxy.written = killer.written
        made.operator.says("fail 3" if back else "pass")
        made.begin()
        status = made.reaches("RolledBack" if back else "Promoted", 240)
        if not back:
            wait_for("the floor", lambda: made.replicas() == 1, 60)
        assert made.gateway.weights == (BACK if back else FORWARD), (number, made.gateway.weights)
        weights = status["baseline"]["weight"], status["candidate"]["weight"]
        assert weights == ((100, 0) if back else (0, 100)), number
        told = made.events()
        assert told.count("StepStarted") == 3, (number, told)
        assert told.count("RolledBack" if back else "RolloutPromoted") == 1, (number, told)
        proxy.written = lambda _request, _count: False  # what follows is the test's own end
    return killer.killed


def check(cluster: DevCluster, folder: Path, numbers: Iterable[int], ways: Sequence[bool]) -> dict[bool, list[int]]:
    """Kill at each of these writes, a few lives at a time, until a life has no such write. At which one died, by `back`."""
    died: dict[bool, list[int]] = {back: [] for back in ways}
    waiting = iter(numbers)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while batch := list(itertools.islice(waiting, AT_ONCE // len(ways))):
            lives = list(itertools.product(batch, ways))
            killed = list(pool.map(lambda one: lived(cluster, folder, one[0], back=one[1]), lives))
            for (number, back), was in zip(lives, killed, strict=True):
                died[back] += [number] if was else []
            if not any(killed):
                break
    return died


def test_killed_after_some_writes_the_same_weights_are_served(ready: DevCluster, tmp_path: Path) -> None:
    numbers = [2, 7, 11]
    assert check(ready, tmp_path, numbers, (False, True)) == {False: numbers, True: numbers}


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
def test_killed_after_every_single_write_the_same_weights_are_served(
    ready: DevCluster, tmp_path: Path, back: bool
) -> None:
    died = check(ready, tmp_path, itertools.count(0), (back,))[back]
    last, gaps = max(died), sorted(set(range(1, max(died) + 1)) - set(died))
    print(f"died after each of {last} writes but {gaps}")
    # How often the status is written depends on times, so a life may end one write before another one does.
    assert last > 10 and all(gap > 0.8 * last for gap in gaps), died
