"""Starts, watches, heals and ends the stack's processes; knows nothing of what they are.

A process belongs to a stack if its pid and start time stand in the stack's `pids.json`, or if its environment carries
the stack's mark: whatever a service forked, and whatever was started in the instant before a kill of this program, is
found by the mark and ended too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_local.stack.layout import Layout, port_is_free

MARK: Final = "TIDEGATE_STACK"
POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the stack: how to start it, how to know that it serves, how to end it."""

    name: str
    argv: tuple[str, ...]
    #: None where it serves, else what is still missing, in words.
    unhealthy: Callable[[], str | None]
    env: Mapping[str, str] = field(default_factory=dict)
    ready_seconds: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 15.0
    #: Names of the ports it binds.
    ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    name: str
    pid: int | None
    problem: str | None


class Supervisor:
    def __init__(self, layout: Layout, services: Sequence[Service], say: Callable[[str], None]) -> None:
        self._layout = layout
        self._services = services
        self._say = say

    def up(self) -> list[str]:
        """Start what is not serving, in order; the names of what was started. On any failure, those are ended again."""
        started: list[Service] = []
        try:
            for service in self._services:
                if self._process(service.name) and service.unhealthy() is None:
                    continue
                self._stop(service)
                started.append(service)
                self._start(service)
            for service in started:
                self._await(service)
        except BaseException:
            # Also on Ctrl-C: what this call started ends with it, what served before stays.
            self._stop(*started)
            raise
        return [service.name for service in started]

    def down(self) -> None:
        self._stop(*self._services)
        self._end(self._marked(), signal.SIGTERM, 5.0)

    def kill(self, *names: str) -> None:
        """End services as a power failure would; `up` heals what is missing."""
        for name in names:
            if process := self._process(name):
                self._end([*process.children(recursive=True), process], signal.SIGKILL, 5.0)
            self._forget(name)

    def status(self) -> list[Status]:
        rows = []
        for service in self._services:
            process = self._process(service.name)
            problem = service.unhealthy() if process else "not running"
            rows.append(Status(service.name, process.pid if process else None, problem))
        return rows

    def demand_alive(self) -> None:
        """Raise where a service that serves no more would be waited for in vain."""
        for service in self._services:
            if self._process(service.name) is None:
                log = self._layout.logs / f"{service.name}.log"
                raise RetryLater(
                    f"{service.name} has ended; make up starts it again, and what it was at goes on. The last lines of"
                    f" {log}:\n{tail(log)}"
                )

    def taken_ports(self, ports: Mapping[str, int]) -> list[str]:
        """Names of the ports that another program has: their services do not run, and yet nobody else can bind them."""
        idle = [service for service in self._services if self._process(service.name) is None]
        return [name for service in idle for name in service.ports if not port_is_free(ports[name])]

    def _start(self, service: Service) -> None:
        self._say(f"starting {service.name}")
        log = self._layout.logs / f"{service.name}.log"
        with log.open("ab") as output:
            try:
                child = subprocess.Popen(
                    service.argv,
                    env={**os.environ, **service.env, MARK: str(self._layout.home)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # Its own session: a Ctrl-C at the terminal reaches this program alone, which ends things in order.
                    start_new_session=True,
                    cwd=self._layout.home,
                )
            except FileNotFoundError:
                raise FixConfig(f"{service.argv[0]} is not installed; make setup installs what is missing") from None
        self._record(service.name, psutil.Process(child.pid))

    def _await(self, service: Service) -> None:
        log = self._layout.logs / f"{service.name}.log"
        deadline = time.monotonic() + service.ready_seconds
        problem: str | None = "not asked yet"
        while time.monotonic() < deadline:
            if self._process(service.name) is None:
                raise RetryLater(f"{service.name} ended while starting; the last lines of {log}:\n{tail(log)}")
            problem = service.unhealthy()
            if problem is None:
                self._say(f"{service.name} serves")
                return
            time.sleep(POLL_SECONDS)
        raise RetryLater(
            f"{service.name} does not serve after {service.ready_seconds:.0f} s ({problem}); the last lines of {log}:\n"
            f"{tail(log)}"
        )

    def _stop(self, *services: Service) -> None:
        """End the services, last started first; all are told before any is waited for."""
        running = [(each, process) for each in reversed(services) if (process := self._process(each.name))]
        families: list[psutil.Process] = []
        for service, process in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                families += process.children(recursive=True)
                process.send_signal(service.stop_signal)
        told = time.monotonic()
        for service, process in running:
            self._await_end([process], told + service.stop_seconds - time.monotonic())
            self._forget(service.name)
            self._say(f"ended {service.name}")
        self._end(families, signal.SIGTERM, 5.0)

    def _end(self, processes: Sequence[psutil.Process], by: signal.Signals, patience_seconds: float) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(by)
        self._await_end(processes, patience_seconds)

    @staticmethod
    def _await_end(processes: Sequence[psutil.Process], patience_seconds: float) -> None:
        _, alive = psutil.wait_procs(processes, timeout=max(0.0, patience_seconds))
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5.0)

    def _marked(self) -> list[psutil.Process]:
        home = str(self._layout.home)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(MARK) == home:
                    found.append(process)
        return found

    # -- the record of what runs: pid and start time, because pids are used again --------------------------------------

    def _pids(self) -> dict[str, list[float]]:
        try:
            known: dict[str, list[float]] = json.loads(self._layout.pids.read_text())
        except FileNotFoundError:
            return {}
        return known

    def _process(self, name: str) -> psutil.Process | None:
        entry = self._pids().get(name)
        if entry is None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(entry[0]))
            if abs(process.create_time() - entry[1]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _record(self, name: str, process: psutil.Process) -> None:
        self._write({**self._pids(), name: [process.pid, process.create_time()]})

    def _forget(self, name: str) -> None:
        self._write({key: value for key, value in self._pids().items() if key != name})

    def _write(self, pids: dict[str, list[float]]) -> None:
        draft = self._layout.pids.with_suffix(".draft")
        draft.write_text(json.dumps(pids))
        draft.replace(self._layout.pids)


@contextlib.contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """One supervisor a stack at a time."""
    with layout.lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FixConfig(f"another make up, down or demo is at work on {layout.home}; wait for it to end") from None
        yield


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, read from its end."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 400 * lines))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
