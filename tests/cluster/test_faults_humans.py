"""What people do in the middle of a life: delete anything, hold it, change their mind. It goes on, or begins anew."""

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from faults_support import DELIVERY, STEPS, Gate, Scene, scene
from operator_support import wait_for

from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.kinds import (
    CANDIDATE,
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    NETWORK_POLICY,
    POD,
    RUN,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    SYNTHESIS,
    Kind,
)

SERVING = "serving"
PHASES = (*STEPS, DELIVERY, SERVING)
CHILDREN = (JOB, POD, RUN, CANDIDATE, DEPLOYMENT, SECRET, CONFIG_MAP, SERVICE)


def kinds_of_steps(steps: Iterable[str]) -> list[str]:
    """Steps without the number of their execution."""
    return [step.rpartition("/")[0] for step in steps]


def deleted(cluster: DevCluster, folder: Path, cases: list[tuple[Kind, str]]) -> None:
    """In each life all objects of one kind are deleted at one moment; all lives at the same time, in one namespace."""
    lives = {f"{kind.plural}-{PHASES.index(phase)}": (kind, phase) for kind, phase in cases}
    gate = Gate({name: phase for name, (_, phase) in lives.items() if phase != SERVING})
    with scene(cluster, folder, gate=gate) as life:
        life.begin(*lives)
        for name, (kind, phase) in lives.items():
            if phase == SERVING:
                wait_for(f"{name} serves", lambda n=name: life.phases()[n] == "Serving", 180, every=0.5)
            else:
                life.at(name, phase, 180)
            for child in life.of(kind, name):
                life.api.delete(kind, life.namespace, names.name_of(child))
            gate.held.pop(name, None)
        for name, (kind, _) in lives.items():
            if kind is CONFIG_MAP:
                begin_again(life, name)
        life.serving(120)
        for name, (kind, phase) in lives.items():
            try:
                wait_for(f"{name}: a record of each step, what serves, and no other", lambda n=name: whole(life, n))
            except AssertionError as error:
                raise AssertionError(f"{error}: {life.remembered(name)}, {serving(life, name)}") from None
            if kind is CANDIDATE or (kind is SERVICE and phase != DELIVERY):
                assert life.kubelet.of[name] == STEPS, (name, life.kubelet.of[name])


def serving(life: Scene, name: str) -> tuple[list[str], int]:
    """Roles of its Deployments, and how many Services it has."""
    return sorted(names.label(d, names.ROLE_LABEL) for d in life.of(DEPLOYMENT, name)), len(life.of(SERVICE, name))


def whole(life: Scene, name: str) -> bool:
    """What another run has left goes when the garbage collector comes to it."""
    done = kinds_of_steps(r.id for r in life.records(name) if r.failure is None)
    return done == kinds_of_steps(STEPS) and serving(life, name) == (["serving-baseline", "serving-stack"], 2)


def begin_again(life: Scene, name: str) -> None:
    """A run whose memory was deleted goes on from what is left, or says what to do; that is done then."""
    wait_for(f"{name} ends", lambda: life.phases()[name] in ("Serving", "Failed"), 120, every=0.3)
    if life.phases()[name] == "Failed":
        assert "delete this run to start it again" in life.status(name)["message"]
        for run in life.of(RUN, name):
            life.api.delete(RUN, life.namespace, names.name_of(run))
        wait_for(f"{name} begins again", lambda: life.phases()[name] != "Failed")


def test_deleting_every_kind_of_child_at_some_moment(cluster: DevCluster, tmp_path: Path) -> None:
    moments = [STEPS[2], STEPS[4], STEPS[1], SERVING, STEPS[3], STEPS[5], STEPS[4], DELIVERY]
    deleted(cluster, tmp_path, list(zip(CHILDREN, moments, strict=True)))


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("phase", PHASES)
def test_deleting_every_kind_of_child_at_every_moment(cluster: DevCluster, tmp_path: Path, phase: str) -> None:
    deleted(cluster, tmp_path, [(kind, phase) for kind in CHILDREN])


def test_identities_and_walls_of_the_namespace_come_back(cluster: DevCluster, tmp_path: Path) -> None:
    """Without its service account a pod cannot be created, so no step may wait for a human to put it back."""
    gate = Gate({"one": STEPS[1]})
    with scene(cluster, tmp_path, gate=gate) as life:
        life.begin("one")
        life.at("one", STEPS[1])
        ours = {names.MANAGED_BY: names.SARTOR}
        before = {(k, names.name_of(m)) for k in (SERVICE_ACCOUNT, NETWORK_POLICY)
                  for m in life.api.all(k, life.namespace, ours)}  # fmt: skip
        for kind, name in before:
            life.api.delete(kind, life.namespace, name)
        gate.held.clear()
        life.serving()
        after = {(k, names.name_of(m)) for k in (SERVICE_ACCOUNT, NETWORK_POLICY)
                 for m in life.api.all(k, life.namespace, ours)}  # fmt: skip
        assert after == before and len(after) > 4
        life.undisturbed("one")


def test_deleting_the_synthesis_at_every_moment_leaves_nothing(cluster: DevCluster, tmp_path: Path) -> None:
    lives = {f"gone-{number}": phase for number, phase in enumerate(PHASES)}
    gate = Gate({name: phase for name, phase in lives.items() if phase != SERVING})
    with scene(cluster, tmp_path, gate=gate) as life:
        life.begin(*lives)
        for name, phase in lives.items():
            if phase == SERVING:
                wait_for(f"{name} serves", lambda n=name: life.phases()[n] == "Serving", 120, every=0.3)
            else:
                life.at(name, phase, 120)
            life.api.delete(SYNTHESIS, life.namespace, name)

        def left() -> list[str]:
            kinds = (SYNTHESIS, *CHILDREN)
            found = ((k, m) for k in kinds for m in life.api.all(k, life.namespace))
            return [f"{k.kind} {names.name_of(m)}" for k, m in found if names.name_of(m).startswith("gone-")]

        try:
            wait_for("nothing is left", lambda: not left(), 60, every=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}: {left()}") from None
        time.sleep(1)
        assert not left(), "nothing comes back"


# --- suspend ------------------------------------------------------------------------------------------------------------


def hold(life: Scene, name: str, suspend: bool) -> None:
    """Returns once the operator has seen it."""
    patched = life.api.patch(SYNTHESIS, life.namespace, name, {"spec": {"suspend": suspend}})
    wanted = patched["metadata"]["generation"]
    wait_for(f"{name} is seen", lambda: life.status(name).get("observedGeneration", 0) >= wanted)


def test_suspending_in_every_phase_holds_and_goes_on_where_it_stopped(cluster: DevCluster, tmp_path: Path) -> None:
    lives = {f"held-{number}": step for number, step in enumerate(STEPS)}
    gate = Gate(dict(lives))
    with scene(cluster, tmp_path, gate=gate) as life:
        life.begin(*lives)
        life.begin("from-the-start", suspend=True)
        for name, step in lives.items():
            life.at(name, step)
            hold(life, name, True)
        for name in list(lives):
            gate.held.pop(name)  # the step in flight ends
        for name, step in lives.items():
            wait_for(f"{name} ends its step", lambda n=name, s=step: s in [r.id for r in life.records(n)], every=0.2)
            if step == STEPS[-1]:
                continue  # the confirmation was the last; what is won is delivered
            wait_for(f"{name} is held", lambda n=name: life.phases()[n] == "Suspended")
            wait_for(f"{name}: its servers go", lambda n=name: not life.of(DEPLOYMENT, n))
        time.sleep(2)
        for name, step in lives.items():
            assert life.kubelet.of[name] == STEPS[: STEPS.index(step) + 1], name
        assert life.phases()["from-the-start"] == "Suspended" and "from-the-start" not in life.kubelet.of
        assert "spec.suspend" in life.status("from-the-start")["message"]
        for name in (*lives, "from-the-start"):
            hold(life, name, False)
        life.serving()
        life.undisturbed(*lives, "from-the-start")


def test_suspending_a_synthesis_that_delivers_or_serves_takes_nothing_away(cluster: DevCluster, tmp_path: Path) -> None:
    gate = Gate({"delivers": DELIVERY})
    with scene(cluster, tmp_path, gate=gate) as life:
        life.begin("delivers", "serves")
        life.at("delivers", DELIVERY)
        wait_for("it serves", lambda: life.phases()["serves"] == "Serving", 150)
        uids = {names.uid(d) for name in ("delivers", "serves") for d in life.of(DEPLOYMENT, name)}
        hold(life, "delivers", True)
        hold(life, "serves", True)
        gate.held.clear()
        life.serving()
        assert {names.uid(d) for name in ("delivers", "serves") for d in life.of(DEPLOYMENT, name)} == uids
        hold(life, "delivers", False)
        hold(life, "serves", False)
        time.sleep(1)
        life.serving()
        life.undisturbed("delivers", "serves")


# --- another mind -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phases",
    [
        pytest.param((STEPS[2], STEPS[4], SERVING), id="some"),
        pytest.param((*STEPS, SERVING), id="every", marks=pytest.mark.exhaustive),
    ],
)
def test_another_intent_in_a_phase_starts_a_new_run(
    cluster: DevCluster, tmp_path: Path, phases: tuple[str, ...]
) -> None:
    """What searched is superseded at its step; what was won serves, without a gap, until the new run has won."""
    lives = {f"anew-{number}": phase for number, phase in enumerate(phases)}
    gate = Gate({name: phase for name, phase in lives.items() if phase != SERVING})
    served = f"anew-{len(phases) - 1}"
    with scene(cluster, tmp_path, gate=gate) as life:
        life.begin(*lives)
        for name, phase in lives.items():
            if phase != SERVING:
                life.at(name, phase)
        wait_for("the last one serves", lambda: life.phases()[served] == "Serving", 120, every=0.3)
        gate.held[served] = STEPS[4]  # of its second run
        for name in lives:
            life.api.patch(SYNTHESIS, life.namespace, name, {"spec": {"search": {"seed": 5}}})
        life.at(served, STEPS[4])
        wait_for("two runs", lambda: len(life.of(RUN, served)) == 2)
        wait_for("the second run measures", lambda: life.kubelet.of[served].count(STEPS[4]) == 2, 150)
        serving = [d for d in life.of(DEPLOYMENT, served) if names.label(d, names.ROLE_LABEL).startswith("serving-")]
        assert sorted(d["status"]["availableReplicas"] for d in serving) == [1, 1], "the old winner serves on"
        assert "serves on" in life.status(served)["message"]
        gate.held.clear()
        wait_for(
            "all runs have ended",
            lambda: all((r.get("status") or {}).get("finishedAt") for n in lives for r in life.of(RUN, n)),
            120,
            every=0.5,
        )
        life.serving()
        for name, phase in lives.items():
            ends = sorted(r["status"]["phase"] for r in life.of(RUN, name))
            assert ends == (["Succeeded"] * 2 if phase == SERVING else ["Cancelled", "Succeeded"]), (name, ends)
            assert [r.id for r in life.records(name)] == STEPS, name
            # A run ends by what its last pod said; the Job controller says that the Job is over a moment later.
            wait_for(
                f"{name}: no Job of the old run is left at work",
                lambda name=name: all(j.get("status", {}).get("conditions") for j in life.of(JOB, name)),
            )
