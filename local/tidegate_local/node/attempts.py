"""One run of one container: started through a shim, found again after a restart, signalled, read at its end.

Everything that is known of an attempt lies in its folder (the shim's table says what), so that an agent that was killed
between any two lines finds it there. A lock that only the shim holds says whether the shim still lives.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tidegate.core.contract import TERMINATION_MESSAGE_BYTES
from tidegate_local.node import states
from tidegate_local.node.cgroups import Group
from tidegate_local.podapi.logs import LogFile

_SHIM: Final = Path(__file__).with_name("shim.py")
#: An attempt of an earlier agent cannot be waited for; it is looked at this often.
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Begun:
    pid: int
    start_ticks: int
    started_at: float


class Attempt:
    """A container from its start to its end. `on_end` is called once, when nothing of it runs any more."""

    def __init__(self, folder: Path, group: Group, on_end: Callable[[], None]) -> None:
        self.folder = folder
        self.group = group
        self._on_end = on_end
        self._watcher: asyncio.Task[None] | None = None

    # -- beginning

    async def start(self, specification: dict[str, Any]) -> None:
        """Start the shim and wait until the command runs, or could not."""
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with (self.folder / "shim-errors").open("wb") as errors:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-S", str(_SHIM),
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
                    pass_fds=[lock], start_new_session=True, env={}, cwd="/",
                )  # fmt: skip
            text = json.dumps({**specification, "folder": str(self.folder), "lock": lock}).encode()
        finally:
            os.close(lock)
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the shim was started with pipes")
        process.stdin.write(text)
        process.stdin.close()
        self._watcher = asyncio.create_task(self._wait_for_child(process))
        await process.stdout.read(1)

    def adopt(self) -> None:
        """Watch an attempt that an earlier agent started."""
        self._watcher = asyncio.create_task(self._wait_for_lock())

    async def _wait_for_child(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        self._on_end()

    async def _wait_for_lock(self) -> None:
        while self.is_alive:
            await asyncio.sleep(_POLL_SECONDS)
        self._on_end()

    # -- what is known

    @property
    def is_alive(self) -> bool:
        """Whether the shim lives, and with it, perhaps, the container."""
        return _is_locked(self.folder / "lock")

    @property
    def has_ended(self) -> bool:
        return _has_ended(self.folder)

    @property
    def never_ran(self) -> bool:
        """The shim ended before it came to starting the command: as if it had not been tried."""
        return self.has_ended and not any((self.folder / name).exists() for name in ("running.json", "exit.json"))

    def _begun(self) -> Begun | None:
        content = _read(self.folder / "running.json")
        return Begun(**content) if content else None

    def state(self, termination_log: Path, *, falls_back_to_log: bool) -> states.State:
        """What the container's status says of this attempt."""
        begun, end = self._begun(), _read(self.folder / "exit.json")
        if end is None:
            if self.is_alive:
                return states.Running(begun.started_at) if begun else states.Waiting()
            # Between the two looks the shim may have ended as it should.
            end = _read(self.folder / "exit.json")
        if end is None:
            noticed = (self.folder / "lock").stat().st_mtime
            return states.lost(begun.started_at if begun else None, noticed, _message(termination_log))
        if end["error"]:
            told = f"failed to create containerd task: failed to create shim task: {end['error']}"
            return states.Terminated(128, "StartError", end["finished_at"], None, told)
        message = _message(termination_log)
        if not message and falls_back_to_log and end["exit_code"] != 0:
            message = _log_end(self.folder / "log")
        started = begun.started_at if begun else end["finished_at"]
        return states.ended(end["exit_code"], end["oom_kills"], started, end["finished_at"], message)

    # -- ending

    def signal(self, number: signal.Signals) -> None:
        """Signal the container's first process, if it is still the one that was started."""
        begun = self._begun()
        if begun is None:
            return
        try:
            descriptor = os.pidfd_open(begun.pid)
        except ProcessLookupError:
            return
        try:
            if _start_ticks(begun.pid) == begun.start_ticks:
                signal.pidfd_send_signal(descriptor, number)
        except (ProcessLookupError, FileNotFoundError):
            return
        finally:
            os.close(descriptor)

    async def finished(self) -> None:
        """Return once nothing of it runs any more."""
        if self._watcher is not None:
            await self._watcher


def log_file(containers: Path, name: str, *, previous: bool) -> LogFile | None:
    """The log of a container's latest attempt, or of the one before it; `containers` is the pod's folder of them."""
    folders = sorted((containers / name).glob("[0-9]*"), key=lambda path: int(path.name))
    place = 2 if previous else 1
    if len(folders) < place:
        return None
    folder = folders[-place]
    return LogFile(folder / "log", lambda: _has_ended(folder))


def _has_ended(folder: Path) -> bool:
    return (folder / "exit.json").exists() or not _is_locked(folder / "lock")


def _is_locked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return content


def _start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])


def _message(path: Path) -> str:
    """The last bytes of the termination message file, as the kubelet reads it."""
    return _end_of(path, TERMINATION_MESSAGE_BYTES)


def _end_of(path: Path, limit_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            return file.read(limit_bytes).decode(errors="replace")
    except OSError:
        return ""


def _log_end(path: Path) -> str:
    """The last 80 lines or 2 KiB of the log, whichever is less."""
    lines = [line.split(" ", 3)[-1] for line in _end_of(path, 8192).splitlines(keepends=True)[-80:]]
    return "".join(lines)[-2048:]
