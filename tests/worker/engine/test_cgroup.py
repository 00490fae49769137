"""Finding one's own memory cgroup: both versions, inside and outside containers, and the real one."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from tests.worker.engine.cage import caged

from tidegate.core.contract import MIB
from tidegate_worker.cgroup import CgroupV1, CgroupV2, WholeMachine, cpu_cores, find_memory

POD = "kubepods.slice/pod1.slice/cri-1.scope"


def proc(directory: Path, cgroup: str, mountinfo: str) -> Path:
    here = directory / "proc"
    here.mkdir()
    (here / "cgroup").write_text(cgroup)
    (here / "mountinfo").write_text(mountinfo.replace("POINT", str(directory / "fs")))
    return here


def v2_files(directory: Path, limit: str, stat: dict[str, int] | None = None) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(limit)
    (directory / "memory.events").write_text("low 0\noom 1\noom_kill 3\n")
    table = {"anon": 100 * MIB, "file": 900 * MIB, "shmem": 10 * MIB, "kernel": 7 * MIB, "slab_reclaimable": 2 * MIB}
    (directory / "memory.stat").write_text("".join(f"{key} {value}\n" for key, value in (table | (stat or {})).items()))


def v1_files(directory: Path, limit_bytes: int, hierarchical_bytes: int = 2**62) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.limit_in_bytes").write_text(str(limit_bytes))
    (directory / "memory.kmem.usage_in_bytes").write_text(str(5 * MIB))
    (directory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (directory / "memory.stat").write_text(
        f"cache {900 * MIB}\nrss 1\nhierarchical_memory_limit {hierarchical_bytes}\n"
        f"total_rss {100 * MIB}\ntotal_shmem {10 * MIB}\ntotal_cache {900 * MIB}\n"
    )


V2_MOUNT = "30 23 0:27 / POINT rw - cgroup2 cgroup2 rw\n"
V1_MOUNT = "35 31 0:32 {root} POINT rw - cgroup cgroup rw,memory\n"


def test_version_2_counts_anonymous_shared_and_kernel_memory_and_no_page_cache(tmp_path: Path) -> None:
    v2_files(tmp_path / "fs" / POD, str(512 * MIB))
    memory = find_memory(proc(tmp_path, f"0::/{POD}\n", V2_MOUNT))
    assert isinstance(memory, CgroupV2)
    assert memory.read().nonreclaimable_bytes == (100 + 10 + 7 - 2) * MIB
    assert memory.oom_kills() == 3


def test_the_limit_is_the_smallest_of_all_ancestors_and_is_read_anew(tmp_path: Path) -> None:
    own = tmp_path / "fs" / POD
    v2_files(own, "max")
    v2_files(own.parent, str(512 * MIB))
    v2_files(own.parent.parent, str(900 * MIB))
    memory = find_memory(proc(tmp_path, f"0::/{POD}\n", V2_MOUNT))
    assert memory.read().limit_bytes == 512 * MIB
    (own.parent / "memory.max").write_text(str(768 * MIB))
    assert memory.read().limit_bytes == 768 * MIB


def test_a_cgroup_that_bounds_nothing_is_shared_and_its_neighbours_are_not_counted(tmp_path: Path) -> None:
    v2_files(tmp_path / "fs" / POD, "max")
    memory = find_memory(proc(tmp_path, f"0::/{POD}\n", V2_MOUNT))
    assert isinstance(memory, WholeMachine)
    reading = memory.read()
    assert reading.nonreclaimable_bytes < reading.limit_bytes <= psutil.virtual_memory().total


def test_inside_a_cgroup_namespace_the_mount_point_is_the_own_cgroup(tmp_path: Path) -> None:
    v2_files(tmp_path / "fs", str(300 * MIB))
    assert find_memory(proc(tmp_path, "0::/\n", V2_MOUNT)).read().limit_bytes == 300 * MIB


def test_outside_the_namespaces_view_the_mount_point_is_the_own_cgroup(tmp_path: Path) -> None:
    v2_files(tmp_path / "fs", str(300 * MIB))
    assert find_memory(proc(tmp_path, "0::/../other\n", V2_MOUNT)).read().limit_bytes == 300 * MIB


def test_version_1_in_a_container_that_shows_only_its_subtree(tmp_path: Path) -> None:
    v1_files(tmp_path / "fs", 400 * MIB)
    memory = find_memory(proc(tmp_path, f"4:memory:/{POD}\n0::/\n", V1_MOUNT.format(root=f"/{POD}")))
    assert isinstance(memory, CgroupV1)
    assert memory.read().limit_bytes == 400 * MIB
    assert memory.read().nonreclaimable_bytes == (100 + 10 + 5) * MIB
    assert memory.oom_kills() == 2


def test_version_1_knows_of_ancestors_that_are_not_mounted(tmp_path: Path) -> None:
    v1_files(tmp_path / "fs", 400 * MIB, hierarchical_bytes=350 * MIB)
    memory = find_memory(proc(tmp_path, f"4:memory:/{POD}\n", V1_MOUNT.format(root=f"/{POD}")))
    assert memory.read().limit_bytes == 350 * MIB


def test_version_1_without_readable_kernel_memory_counts_the_rest(tmp_path: Path) -> None:
    v1_files(tmp_path / "fs", 400 * MIB)
    (tmp_path / "fs" / "memory.kmem.usage_in_bytes").unlink()
    memory = find_memory(proc(tmp_path, "4:memory:/\n", V1_MOUNT.format(root="/")))
    assert memory.read().nonreclaimable_bytes == 110 * MIB


def test_a_version_2_tree_without_the_memory_controller_gives_way_to_version_1(tmp_path: Path) -> None:
    v1_files(tmp_path / "fs", 400 * MIB)
    (tmp_path / "unified").mkdir()
    mounts = f"41 31 0:38 / {tmp_path / 'unified'} rw - cgroup2 cgroup2 rw\n" + V1_MOUNT.format(root="/")
    assert isinstance(find_memory(proc(tmp_path, "4:memory:/\n0::/\n", mounts)), CgroupV1)


def test_without_cgroups_the_process_is_measured_against_the_machine(tmp_path: Path) -> None:
    memory = find_memory(proc(tmp_path, "", ""))
    assert isinstance(memory, WholeMachine)
    assert 0 < memory.read().nonreclaimable_bytes < memory.read().limit_bytes


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 0.5), ("max 100000", None)])
def test_a_cpu_quota_cuts_the_cores(tmp_path: Path, quota: str, cores: float | None) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs" / "cpu.max").write_text(quota)
    here = proc(tmp_path, "0::/\n", V2_MOUNT)
    assert cpu_cores(here) == (cores if cores is not None else cpu_cores(proc_without_mounts(tmp_path)))


def proc_without_mounts(directory: Path) -> Path:
    here = directory / "bare"
    here.mkdir()
    (here / "cgroup").write_text("")
    (here / "mountinfo").write_text("")
    return here


PROGRAM = """
import sys
from tidegate_worker.cgroup import find_memory
memory = find_memory()
before = memory.read()
balloon = bytearray(b"x") * (100 * 2**20)
after = memory.read()
print(before.limit_bytes, after.nonreclaimable_bytes - before.nonreclaimable_bytes, flush=True)
sys.stdin.readline()
print(memory.read().limit_bytes, flush=True)
"""


def test_the_real_kernel_is_read_and_a_resize_is_seen_at_once() -> None:
    with caged(700 * MIB) as cage:
        process = cage.start(PROGRAM)
        assert process.stdout is not None
        assert process.stdin is not None
        limit, grown = map(int, process.stdout.readline().split())
        assert limit == 700 * MIB
        assert 95 * MIB < grown < 110 * MIB
        cage.limit(900 * MIB)
        process.stdin.write("\n")
        process.stdin.flush()
        assert int(process.stdout.readline()) == 900 * MIB
        assert process.wait(10) == 0
