"""Control groups on file trees as the kernel shows them; version 1 is used for real in tests/sandbox where it can be had."""

from pathlib import Path

import pytest

from sartor_agents.run.sandbox.cgroups import group
from sartor_agents.run.sandbox.limits import MIB, Limits

LIMITS = Limits(
    memory_bytes=100 * MIB, workspace_bytes=10 * MIB, temporary_bytes=10 * MIB, shared_bytes=MIB, processes=9, cpus=1.5
)


def version_2(root: Path, *, offered: str = "cpu memory pids", inside: str = "/user.slice/app.slice/run.scope") -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{inside}\n")
    parent = root / "sys/fs/cgroup" / inside.strip("/").rpartition("/")[0]
    (parent / "run.scope").mkdir(parents=True)
    (parent / "cgroup.subtree_control").write_text(offered + "\n")
    (parent / "cgroup.procs").write_text("")
    return parent


def values(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_version_2_makes_a_group_beside_the_own_one(tmp_path: Path) -> None:
    parent = version_2(tmp_path)
    with group(LIMITS, root=tmp_path) as made:
        assert made is not None
        folder = made.folders["memory"]
        assert folder.parent == parent and set(made.folders) == {"memory", "pids", "cpu"}
        assert values(folder) == {
            "memory.max": str(121 * MIB), "memory.oom.group": "1", "pids.max": "9", "cpu.max": "150000 100000",
        }  # fmt: skip
        assert made.joining()[-1] == str(folder)
        (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
        assert made.out_of_memory()
        for path in folder.iterdir():  # the kernel's files vanish with their folder
            path.unlink()
    assert not folder.exists()


@pytest.mark.parametrize("offered", ["", "cpu", "memory", "cpu pids"])
def test_version_2_without_delegation_gives_none(tmp_path: Path, offered: str) -> None:
    parent = version_2(tmp_path, offered=offered)
    with group(LIMITS, root=tmp_path) as made:
        assert made is None
    assert {path.name for path in parent.iterdir()} == {"run.scope", "cgroup.subtree_control", "cgroup.procs"}


def test_version_1_takes_its_three_hierarchies(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/job\n3:pids:/\n2:cpu,cpuacct:/job\n0::/\n")
    for controller, own in (("memory", "job"), ("pids", ""), ("cpu", "job")):
        (tmp_path / "sys/fs/cgroup" / controller / own).mkdir(parents=True)
    with group(LIMITS, root=tmp_path) as made:
        assert made is not None
        assert values(made.folders["memory"]) == {"memory.limit_in_bytes": str(121 * MIB)}
        assert values(made.folders["pids"]) == {"pids.max": "9"}
        assert values(made.folders["cpu"]) == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"}
        assert made.folders["memory"].parent.name == "job" and made.folders["pids"].parent.name == "pids"
        for folder in made.folders.values():
            for path in folder.iterdir():
                path.unlink()
    assert not any(folder.exists() for folder in made.folders.values())


def test_no_groups_at_all(tmp_path: Path) -> None:
    with group(LIMITS, root=tmp_path) as made:
        assert made is None
