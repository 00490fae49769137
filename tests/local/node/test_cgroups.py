"""The files of cgroup v2, on a folder that holds what its documentation shows; v1 is tried by every pod here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidegate.core.errors import FixConfig
from tidegate_local.node.cgroups import CgroupsV2, GroupV2, LimitBelowUsage

MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A container's cgroup with 80 MiB in use, 16 MiB of it inactive page cache."""
    for name, text in {
        "memory.current": f"{80 * MIB}\n",
        "memory.max": f"{128 * MIB}\n",
        "memory.stat": f"anon {60 * MIB}\nfile {18 * MIB}\nkernel {2 * MIB}\ninactive_file {16 * MIB}\n",
        "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 1\n",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n",
        "cgroup.procs": "",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_usage_is_read_from_the_files_of_v2(folder: Path) -> None:
    usage = GroupV2(folder).usage()
    assert (usage.limit_bytes, usage.usage_bytes, usage.working_set_bytes) == (128 * MIB, 80 * MIB, 64 * MIB)
    assert (usage.rss_bytes, usage.cache_bytes) == (60 * MIB, 18 * MIB)
    assert (usage.cpu_seconds, usage.oom_kills) == (1.5, 1)


def test_no_limit_is_shown_as_zero(folder: Path) -> None:
    group = GroupV2(folder)
    group.set_limit(None)
    assert (folder / "memory.max").read_text() == "max"
    assert group.usage().limit_bytes == 0


def test_a_limit_above_what_cannot_be_reclaimed_is_written(folder: Path) -> None:
    GroupV2(folder).set_limit(65 * MIB)
    assert (folder / "memory.max").read_text() == str(65 * MIB)


def test_a_limit_that_would_kill_is_not_written(folder: Path) -> None:
    with pytest.raises(LimitBelowUsage, match=str(80 * MIB)):
        GroupV2(folder).set_limit(63 * MIB)
    assert (folder / "memory.max").read_text() == f"{128 * MIB}\n"


def scope(folder: Path, controllers: str, processes: str) -> Path:
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.procs").write_text(processes)
    return folder


def test_the_agent_steps_aside_and_hands_the_memory_controller_down(tmp_path: Path) -> None:
    own = scope(tmp_path, "cpu memory pids\n", f"{os.getpid()}\n")
    groups = CgroupsV2("stack", own)
    assert (own / "stack-agent" / "cgroup.procs").read_text() == "0"
    assert [(path / "cgroup.subtree_control").read_text() for path in (own, own / "stack")] == ["+memory"] * 2
    pod = groups.create("pod")
    assert (pod.folders[0] / "cgroup.subtree_control").read_text() == "+memory"
    container = groups.create("pod/main.0")
    assert (container.folders[0] / "memory.oom.group").read_text() == "1"
    assert not (container.folders[0] / "cgroup.subtree_control").exists()
    assert container.view == {"/sys/fs/cgroup": str(own / "stack" / "pod" / "main.0")}


@pytest.mark.parametrize(
    ("controllers", "processes", "why"),
    [("cpu\n", "", "lacks the memory controller"), ("memory\n", "1\n", "also holds")],
)
def test_a_cgroup_that_is_not_ours_alone_is_refused_with_what_to_do(
    tmp_path: Path, controllers: str, processes: str, why: str
) -> None:
    with pytest.raises(FixConfig, match=why) as refusal:
        CgroupsV2("stack", scope(tmp_path, controllers, processes))
    assert "tidegate-local podapi" in str(refusal.value)
    assert not (tmp_path / "stack").exists()
