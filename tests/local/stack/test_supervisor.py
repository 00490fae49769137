"""The supervisor with real processes of a second's life: what it starts it finds again, heals and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_local.stack.layout import LOOPBACK, Layout
from tidegate_local.stack.supervisor import MARK, Service, Supervisor, exclusive

#: Serves by touching a file; its child leaves the session and forgets its parent, as daemons do.
SERVES = """
import pathlib, subprocess, sys, time
subprocess.Popen(["sleep", "60"], start_new_session=True)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""
UP = """
import pathlib, sys
from tests.local.stack.test_supervisor import mute, service
from tidegate_local.stack.layout import Layout
from tidegate_local.stack.supervisor import Supervisor
layout = Layout(pathlib.Path(sys.argv[1]))
Supervisor(layout, [service(layout, "a"), mute()], print).up()
"""


def service(layout: Layout, name: str, *ports: str) -> Service:
    sign = layout.home / f"{name}.serves"

    def unhealthy() -> str | None:
        return None if sign.exists() else "no sign yet"

    sign.unlink(missing_ok=True)
    return Service(name, (sys.executable, "-c", SERVES, str(sign)), unhealthy, stop_seconds=5.0, ports=ports)


def mute(ready_seconds: float = 30.0) -> Service:
    return Service("mute", ("sleep", "60"), lambda: "it never serves", ready_seconds=ready_seconds)


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    layout = Layout(tmp_path / "home")
    layout.make()
    yield layout
    for process in marked(layout):
        process.kill()


def marked(layout: Layout) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(layout.home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pids(supervisor: Supervisor) -> dict[str, int | None]:
    return {row.name: row.pid for row in supervisor.status()}


def test_up_heals_what_is_missing_and_leaves_the_rest_alone(layout: Layout) -> None:
    supervisor = Supervisor(layout, [service(layout, "a"), service(layout, "b")], print)
    assert supervisor.up() == ["a", "b"]
    before = pids(supervisor)
    supervisor.kill("b")
    assert pids(supervisor) == {"a": before["a"], "b": None}
    assert supervisor.up() == ["b"]
    assert pids(supervisor)["a"] == before["a"]
    assert supervisor.up() == []


def test_down_ends_also_what_the_services_left_behind(layout: Layout) -> None:
    supervisor = Supervisor(layout, [service(layout, "a"), service(layout, "b")], print)
    supervisor.up()
    until(lambda: len(marked(layout)) == 4)
    supervisor.kill("a")
    supervisor.down()
    assert marked(layout) == []
    assert pids(supervisor) == {"a": None, "b": None}


def test_a_stack_of_another_home_is_left_alone(layout: Layout, tmp_path: Path) -> None:
    other = Layout(tmp_path / "other")
    other.make()
    theirs = Supervisor(other, [service(other, "a")], print)
    theirs.up()
    ours = Supervisor(layout, [service(layout, "a")], print)
    ours.up()
    ours.down()
    assert pids(theirs)["a"] is not None
    theirs.down()


def test_a_pid_that_now_belongs_to_a_stranger_is_no_service_of_ours(layout: Layout) -> None:
    supervisor = Supervisor(layout, [service(layout, "a")], print)
    layout.pids.write_text(f'{{"a": [{os.getpid()}, 1.0]}}')
    assert pids(supervisor) == {"a": None}


def test_a_service_that_never_serves_takes_those_started_with_it_down_again(layout: Layout) -> None:
    supervisor = Supervisor(layout, [service(layout, "a"), mute(ready_seconds=1.0)], print)
    with pytest.raises(RetryLater, match="mute does not serve after 1 s"):
        supervisor.up()
    assert pids(supervisor) == {"a": None, "mute": None}


def test_a_service_that_ends_while_starting_is_told_with_its_last_words(layout: Layout) -> None:
    words = Service("a", ("sh", "-c", "echo no such option; exit 2"), lambda: "not yet")
    with pytest.raises(RetryLater, match=r"ended while starting.*\n.*no such option"):
        Supervisor(layout, [words], print).up()


def test_a_program_that_is_not_installed_is_named_with_what_installs_it(layout: Layout) -> None:
    missing = Service("prometheus", ("prometheus-that-is-not-here",), lambda: None)
    supervisor = Supervisor(layout, [service(layout, "a"), missing], print)
    with pytest.raises(FixConfig, match="prometheus-that-is-not-here is not installed; make setup"):
        supervisor.up()
    assert pids(supervisor)["a"] is None


def test_a_port_that_another_program_has_is_named_and_chosen_anew(layout: Layout) -> None:
    ports = layout.ports()
    supervisor = Supervisor(layout, [service(layout, "a", "airflow"), service(layout, "b", "podapi")], print)
    assert supervisor.taken_ports(ports) == []
    with socket.socket() as stranger:
        stranger.bind((LOOPBACK, ports["podapi"]))
        stranger.listen()
        assert supervisor.taken_ports(ports) == ["podapi"]
        layout.forget_ports("podapi")
        anew = layout.ports()
        assert anew["podapi"] != ports["podapi"]
        assert {**anew, "podapi": 0} == {**ports, "podapi": 0}


def test_a_service_that_ends_in_the_middle_is_told_with_its_last_words(layout: Layout) -> None:
    supervisor = Supervisor(layout, [service(layout, "a"), service(layout, "b")], print)
    supervisor.up()
    supervisor.demand_alive()
    (layout.logs / "b.log").write_text("out of disk\n")
    supervisor.kill("b")
    with pytest.raises(RetryLater, match=r"(?s)b has ended; make up.*out of disk"):
        supervisor.demand_alive()
    supervisor.up()
    supervisor.demand_alive()
    supervisor.down()


def test_an_interrupted_up_ends_what_it_has_started(layout: Layout) -> None:
    child = subprocess.Popen([sys.executable, "-c", UP, str(layout.home)], stderr=subprocess.DEVNULL)
    until(lambda: (layout.home / "a.serves").exists() and len(marked(layout)) >= 2)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=120) != 0
    assert marked(layout) == []


def test_two_commands_on_one_stack_do_not_work_at_once(layout: Layout) -> None:
    with (
        exclusive(layout),
        pytest.raises(FixConfig, match="another make up, down or demo is at work"),
        exclusive(layout),
    ):
        pytest.fail("it got in")
    with exclusive(layout):
        pass


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path), capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(FixConfig, match=r"1 MiB are free at .*TIDEGATE_HOME"):
            Layout(tmp_path / "home").demand_room()
    finally:
        subprocess.run(("umount", tmp_path), check=True)


def test_secrets_are_made_once_and_readable_by_their_owner_alone(layout: Layout) -> None:
    first = layout.secret("token")
    assert layout.secret("token") == first
    assert (layout.secrets / "token").stat().st_mode & 0o077 == 0
