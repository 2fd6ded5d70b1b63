"""Between the operator and the API server anything may happen: what was done is done once, and the life goes on."""

import itertools
import threading
import time
from pathlib import Path

import pytest
from faults_proxy import Proxy, Refusal
from faults_support import STEPS, Gate, Scene, scene
from operator_support import wait_for

from sartor_devcluster import DevCluster
from sartor_operator.shell import LEASE_LOST

SOME = ("one", "two")


def proxy_of(life: Scene) -> Proxy:
    assert life.proxy is not None, "the scene was asked for a proxy"
    return life.proxy


def test_watches_that_break_again_and_again(cluster: DevCluster, tmp_path: Path) -> None:
    """A machine in between that ends every connection after a second costs a second, not more with every time."""
    with scene(cluster, tmp_path, proxied=True, seconds=0.5) as life:
        over = threading.Event()

        def cut() -> None:
            while not over.wait(1.0):
                proxy_of(life).cut_watches()

        cutting = threading.Thread(target=cut, name="cutting")
        cutting.start()
        try:
            life.begin(*SOME)
            life.serving()
            life.begin("late")
            life.serving(120)  # each of its steps is seen within seconds; with back-off to 30 s it would take minutes
        finally:
            over.set()
            cutting.join()
        life.undisturbed(*SOME, "late")


def test_watches_that_say_nothing_for_a_while(cluster: DevCluster, tmp_path: Path) -> None:
    """Decisions from an old picture of the cluster are refused by names that are taken, not carried out twice."""
    with scene(cluster, tmp_path, proxied=True) as life:
        life.begin(*SOME)
        for step in STEPS[:4]:
            life.at("one", step)
            proxy_of(life).held = True
            time.sleep(1.5)
            proxy_of(life).held = False
        life.serving()
        life.undisturbed(*SOME)


def test_watches_that_are_too_old(cluster: DevCluster, tmp_path: Path) -> None:
    """Every watch is refused with 410 for four seconds: lists begin anew, and not as fast as they can."""
    with scene(cluster, tmp_path, proxied=True, seconds=0.5) as life:
        proxy = proxy_of(life)
        life.begin(*SOME)
        life.at("one", STEPS[1])
        begun = time.monotonic()
        proxy.refuse = lambda request: Refusal(410, "Expired") if request.verb == "watch" else None
        proxy.cut_watches()
        time.sleep(4)
        proxy.refuse = lambda _request: None
        lists = [r.resource for r in list(proxy.seen) if r.verb == "list" and begun <= r.at < begun + 4]
        life.serving()
        life.undisturbed(*SOME)
        assert len(lists) < 10 * len(set(lists)), f"{len(lists)} lists of {len(set(lists))} kinds in 4 s"


@pytest.mark.parametrize(
    "write",
    [
        "one-001-plan-1-1-record",
        pytest.param("one-001-implement-1-1-", marks=pytest.mark.exhaustive),
        pytest.param("one-001-judge-1-1-seed", marks=pytest.mark.exhaustive),
    ],
)
def test_lists_from_the_past_after_a_restart(cluster: DevCluster, tmp_path: Path, write: str) -> None:
    """A replica of the API server that lags: for seconds a new process knows only how things were before a write."""
    gate = Gate({"one": STEPS[4]})

    def before(proxy: Proxy) -> None:
        proxy.remember_at = lambda request: request.is_write and request.name.startswith(write)

    with scene(cluster, tmp_path, proxied=True, before=before, gate=gate, ends=frozenset({-9})) as life:
        proxy = proxy_of(life)
        life.begin("one", "two")
        life.at("one", STEPS[4])
        assert proxy.remembers, f"nothing was written that begins with {write}"
        proxy.remember_at = lambda _request: False
        proxy.stale = proxy.held = True
        life.kept.process.kill()
        wait_for("a new process", lambda: life.kept.ends == [-9] and life.kept.process.leading())
        time.sleep(3)
        proxy.stale = proxy.held = False
        gate.held.clear()
        life.serving()
        life.undisturbed("one", "two")


def test_a_storm_of_429(cluster: DevCluster, tmp_path: Path) -> None:
    """Everything is refused for six seconds with `Retry-After: 2`, and nothing is asked again before."""
    with scene(cluster, tmp_path, proxied=True, seconds=0.3, lease=60.0) as life:
        proxy = proxy_of(life)
        life.begin(*SOME)
        life.at("one", STEPS[2])
        begun = time.monotonic()
        proxy.refuse = lambda _request: Refusal(429, "TooManyRequests", retry_after=2)
        proxy.cut_watches()
        time.sleep(6)
        proxy.refuse = lambda _request: None
        storm = [r for r in list(proxy.seen) if begun <= r.at < begun + 6]
        life.serving()
        life.undisturbed(*SOME)
    again: dict[tuple[str, str, str], list[float]] = {}
    for request in storm:
        if request.is_write and not request.resource.startswith("leases") and request.name:
            again.setdefault((request.verb, request.resource, request.name), []).append(request.at)
    early = {key: at for key, at in again.items() if any(b - a < 1.9 for a, b in itertools.pairwise(at))}
    assert not early, "asked again before the time that the API server named"
    assert len(storm) < 120, f"{len(storm)} requests in 6 s"


def test_a_storm_of_409_and_429(cluster: DevCluster, tmp_path: Path) -> None:
    """Every other write is refused at first: conflicts and overload by turns."""
    refusals = itertools.cycle(
        [Refusal(409, "Conflict"), None, Refusal(429, "TooManyRequests", retry_after=0), None, None]
    )
    with scene(cluster, tmp_path, proxied=True) as life:
        proxy_of(life).refuse = lambda request: next(refusals) if request.is_write else None
        life.begin(*SOME)
        life.serving()
        life.undisturbed(*SOME)
        assert sum(r.is_write for r in proxy_of(life).seen) > len(proxy_of(life).writes) * 1.4, "they were refused"


def away(cluster: DevCluster, folder: Path, seconds: float) -> None:
    gate = Gate({"one": STEPS[2], "two": STEPS[4]})
    with scene(cluster, folder, gate=gate, lease=15.0, ends=frozenset({LEASE_LOST})) as life:
        life.begin(*SOME)
        life.at("one", STEPS[2])
        life.at("two", STEPS[4])
        cluster.stop_component("kube-apiserver", kill=True)
        time.sleep(seconds)
        gate.held.clear()
        cluster.start_component("kube-apiserver")
        cluster.wait_ready()
        life.serving(120)
        life.undisturbed(*SOME)
        assert life.kept.ends or seconds < 15, "who cannot renew the lease for its time is no leader"


def test_the_api_server_is_away_for_some_seconds(cluster: DevCluster, tmp_path: Path) -> None:
    away(cluster, tmp_path, 6.0)


@pytest.mark.exhaustive
def test_the_api_server_is_away_for_a_minute(cluster: DevCluster, tmp_path: Path) -> None:
    away(cluster, tmp_path, 60.0)


def test_a_lease_that_gets_no_answer_is_lost_in_time(cluster: DevCluster, tmp_path: Path) -> None:
    """Renewals hang while everything else works: whoever is no leader any more has ended before another one begins."""
    with scene(cluster, tmp_path, proxied=True, lease=15.0, ends=frozenset({LEASE_LOST})) as life:
        wait_for("it leads", life.kept.process.leading)
        begun = time.monotonic()
        proxy_of(life).hang = lambda request: request.resource == "leases" and request.verb == "update"
        wait_for("the process ends", lambda: life.kept.ends == [LEASE_LOST], 40)
        taken = time.monotonic() - begun
        proxy_of(life).hang = lambda _request: False
        # The renewal that hung is done after all, and the next process waits for the whole of that lease.
        wait_for("it leads again", life.kept.process.leading, 120)
        assert taken < 15.5, f"leader for {taken:.1f} s without a lease, which others may take after 15 s"
