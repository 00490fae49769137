"""The API killed while pods run: its successor on the same folder finds them, living or ended, and loses nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from kubernetes import client, watch

from tidegate.core.errors import FixConfig

if TYPE_CHECKING:
    from tests.local.node.conftest import Stack

COUNTS = "import time\nfor n in range(600):\n    print('count', n); time.sleep(0.1)"
DRAINS = """
import signal, sys, time
def drain(*_):
    print("draining"); time.sleep(1.5)
    open("/dev/termination-log", "w").write("drained")
    sys.exit(75)
signal.signal(signal.SIGTERM, drain)
print("ready")
time.sleep(60)
"""


def shims(stack: Stack) -> list[psutil.Process]:
    """The shims that hold a file of the stack's folder open as their working directory."""
    pods = str(stack.api.workdir / "pods")
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(pods):
                found.append(process)
        except psutil.Error:
            continue
    return found


def lives(process: psutil.Process) -> bool:
    """Whether it runs; an orphan that nobody has reaped yet does not."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_pod_lives_through_a_kill_of_the_api_and_its_log_has_no_gap(start: Callable[..., Stack]) -> None:
    first = start()
    first.run("counting", COUNTS)
    first.says("counting", "count 2")
    before = first.core.read_namespaced_pod("counting", "default")
    first.api.kill()
    time.sleep(0.5)
    second = start()
    after = second.core.read_namespaced_pod("counting", "default")
    assert second.api.url == first.api.url
    assert (after.status.phase, after.metadata.uid) == ("Running", before.metadata.uid)
    assert after.status.container_statuses[0].state == before.status.container_statuses[0].state
    second.says("counting", "count 12")
    lines = second.log("counting").splitlines()
    assert lines == [f"count {number}" for number in range(len(lines))]
    second.core.patch_namespaced_pod("counting", "default", {"spec": {"activeDeadlineSeconds": 1}})
    assert second.ended("counting").status.reason == "DeadlineExceeded"


def test_what_ended_while_nobody_looked_is_told_as_it_ended(start: Callable[..., Stack]) -> None:
    first = start()
    first.run(
        "ends", "import time; time.sleep(1); open('/dev/termination-log', 'w').write('bye'); raise SystemExit(65)"
    )
    first.run("grows", "import time; time.sleep(1)\nheld = []\nwhile True: held.append(b'x' * 1048576)")
    first.running("ends")
    first.running("grows")
    first.api.kill()
    time.sleep(2)
    second = start()
    ended = second.ended("ends").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason, ended.message) == (65, "Error", "bye")
    killed = second.ended("grows").status.container_statuses[0].state.terminated
    assert (killed.exit_code, killed.reason) == (137, "OOMKilled")


def test_a_drain_goes_on_over_a_kill_of_the_api_and_is_not_asked_for_twice(start: Callable[..., Stack]) -> None:
    first = start()
    first.run("drains", DRAINS, terminationGracePeriodSeconds=30)
    first.says("drains", "ready")
    first.core.patch_namespaced_pod("drains", "default", {"spec": {"activeDeadlineSeconds": 1}})
    first.says("drains", "draining")
    first.api.kill()
    second = start()
    pod = second.ended("drains")
    ended = pod.status.container_statuses[0].state.terminated
    assert (pod.status.reason, ended.exit_code, ended.message) == ("DeadlineExceeded", 75, "drained")
    assert second.log("drains").count("draining") == 1


def test_a_resize_after_a_kill_of_the_api_reaches_the_cgroup_of_before(start: Callable[..., Stack]) -> None:
    first = start()
    program = (
        "import time\nwhile True: print(open('/sys/fs/cgroup/memory/memory.limit_in_bytes').read()); time.sleep(.1)"
    )
    first.run("resized", program)
    first.says("resized", str(64 * 2**20))
    first.api.kill()
    second = start()
    asked = {"requests": {"memory": "96Mi"}, "limits": {"memory": "96Mi"}}
    body = {"spec": {"containers": [{"name": "main", "resources": asked}]}}
    second.core.patch_namespaced_pod_resize("resized", "default", body)
    second.says("resized", str(96 * 2**20))


def test_a_container_killed_together_with_its_shim_is_of_unknown_status(start: Callable[..., Stack]) -> None:
    first = start()
    program = (
        "import pathlib, time\n"
        "pathlib.Path('/dev/termination-log').write_text('in flight')\n"
        "print('written', flush=True)\n"
        "time.sleep(60)"
    )
    first.run("lost", program)
    # To run is not yet to have written.
    first.says("lost", "written")
    [shim] = shims(first)
    first.api.kill()
    os.kill(shim.pid, signal.SIGKILL)
    shim.wait(5)
    second = start()
    pod = second.ended("lost")
    ended = pod.status.container_statuses[0].state.terminated
    assert pod.status.phase == "Failed"
    assert (ended.exit_code, ended.reason, ended.message) == (137, "ContainerStatusUnknown", "in flight")


def test_a_pod_deleted_before_the_kill_is_gone_after_it(start: Callable[..., Stack]) -> None:
    first = start()
    first.run("goes", "import time; time.sleep(60)")
    uid = first.running("goes").metadata.uid
    [shim] = shims(first)
    first.core.delete_namespaced_pod("goes", "default", grace_period_seconds=1)
    first.api.kill()
    second = start()
    give_up = time.monotonic() + 10
    while (second.api.workdir / "pods" / uid).exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    with pytest.raises(client.ApiException) as missing:
        second.core.read_namespaced_pod("goes", "default")
    assert missing.value.status == 404
    assert not lives(shim)
    assert not (second.api.workdir / "pods" / uid).exists()


def test_a_watch_from_before_the_kill_is_told_to_list_again(start: Callable[..., Stack]) -> None:
    first = start()
    version = first.core.list_namespaced_pod("default").metadata.resource_version
    first.api.kill()
    second = start()
    with pytest.raises(client.ApiException) as gone:
        for _ in watch.Watch().stream(
            second.core.list_namespaced_pod, "default", resource_version=version, timeout_seconds=3
        ):
            pass
    assert gone.value.status == 410


def test_stopping_leaves_no_process_no_cgroup_and_no_mount(start: Callable[..., Stack]) -> None:
    stack = start()
    before = Path("/proc/self/mountinfo").read_text()
    for number in range(3):
        stack.run(f"pod-{number}", "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)")
    for number in range(3):
        stack.running(f"pod-{number}")
    processes = [child for shim in shims(stack) for child in (shim, *shim.children(recursive=True))]
    bases = [Path(line) for line in (stack.api.workdir / "cgroup-bases").read_text().split("\n")]
    assert len(processes) >= 6
    assert all(base.exists() for base in bases)
    stack.api.stop()
    assert not [process for process in processes if lives(process)]
    assert not [base for base in bases if base.exists()]
    assert Path("/proc/self/mountinfo").read_text() == before
    again = start()
    pod = again.core.read_namespaced_pod("pod-0", "default")
    assert (pod.status.phase, pod.status.reason) == ("Failed", "Terminated")


def test_after_a_kill_a_stop_of_the_successor_leaves_nothing_either(start: Callable[..., Stack]) -> None:
    first = start()
    first.run("left", "import time; time.sleep(60)")
    first.running("left")
    [shim] = shims(first)
    first.api.kill()
    assert shim.is_running()
    second = start()
    second.api.stop()
    assert not lives(shim)
    assert not [base for base in (second.api.workdir / "cgroup-bases").read_text().split("\n") if Path(base).exists()]


def test_a_second_api_on_the_same_folder_is_refused(start: Callable[..., Stack]) -> None:
    start()
    with pytest.raises(FixConfig, match="another pod API runs"):
        start()


def test_a_container_whose_shim_had_not_begun_is_started_again(start: Callable[..., Stack]) -> None:
    # What a kill leaves between making the attempt's folder and cgroup and telling the shim what to run.
    first = start()
    first.run("begun", "print('ran'); import time; time.sleep(60)", container={"image": "unknown:1"})
    first.until("begun", lambda pod: pod.status.container_statuses and pod.status.container_statuses[0].state.waiting)
    uid = first.core.read_namespaced_pod("begun", "default").metadata.uid
    first.api.kill()
    base = next(Path(line) for line in (first.api.workdir / "cgroup-bases").read_text().split("\n") if "memory" in line)
    attempt = first.api.workdir / "pods" / uid / "containers" / "main" / "0"
    attempt.mkdir(parents=True)
    (attempt / "lock").touch()
    (base / uid / "main.0").mkdir(parents=True)
    (base / "of-a-pod-that-is-gone" / "main.0").mkdir(parents=True)
    table = first.api.workdir.parent / "images.yaml"
    table.write_text(f'images: {{"unknown:1": {{python: "{sys.prefix}"}}}}\n')
    second = start("--images", str(table))
    second.says("begun", "ran")
    assert second.core.read_namespaced_pod("begun", "default").status.container_statuses[0].restart_count == 0
    assert not (base / "of-a-pod-that-is-gone").exists()
