"""Nothing gets out of a command's sandbox, and each attempt does get through where the protection is missing."""

import os
import signal
from pathlib import Path

import battery
import pytest
from battery import NEEDS_ROOT, OUTSIDE, SYSTEM_CALLS, Planted


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_works_outside_does_not_inside(planted: Planted, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", planted.facts["canary"])
    found = battery.inside(planted.sandbox, name, planted.facts)
    assert not found.escaped and found.text.startswith("DENIED"), found.text
    if name in NEEDS_ROOT and os.geteuid() != 0:
        pytest.skip("denied inside; the control needs root")
    control = battery.outside(name, planted.facts, pass_fds=(planted.secret,))
    assert control.escaped, control.text


@pytest.mark.parametrize("name", SYSTEM_CALLS)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the attempts use the numbers of x86-64")
def test_the_filter_stops_what_namespaces_do_not(planted: Planted, name: str) -> None:
    found = battery.inside(planted.sandbox, name, planted.facts)
    assert not found.escaped, found.text
    with battery.without(*SYSTEM_CALLS[name]):
        control = battery.inside(planted.sandbox, name, planted.facts)
    assert control.escaped, control.text


def test_nothing_outlives_its_step(planted: Planted) -> None:
    found = battery.inside(planted.sandbox, "outlive", planted.facts)
    assert "left behind" in found.text and not survivors(planted.facts["token"])
    battery.outside("outlive", planted.facts)
    left = survivors(planted.facts["token"])
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left


def survivors(token: str) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if token.encode() in words:
            found.append(int(path.parent.name))
    return found
