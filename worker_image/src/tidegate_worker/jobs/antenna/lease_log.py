"""Leases on disk, from the moment they are lent until they are answered: a kill then loses none of them.

Antenna delivers a task twice and never again, and takes an answer at any time until the job ends. A worker that is
killed twice over the same task is therefore the only one who can still finish it, if it remembers where the image is.

| line                  | meaning                                                  |
|-----------------------|----------------------------------------------------------|
| {"leased": {...}}     | this task was lent, or taken up again by a successor     |
| {"done": [ids]}       | these were answered; the answer is durable elsewhere     |

A torn last line is cut off. The file holds signed URLs, so only its owner may read it, and it is rewritten without what
is done. Whoever opens it has the directory to itself. Not covered: when a lease is taken up again (`leasing`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

#: Lines of what is done that the file may hold beside the rest.
_DONE_LINES: Final = 4096


@dataclass(frozen=True, slots=True)
class LoggedLease:
    image_id: str
    url: str
    reply_subject: str | None
    delivery: int
    #: Unix seconds: monotonic clocks do not outlive a node.
    leased_at: float
    #: Processes that have had it, this one included.
    takers: int = 1


class LeaseLog:
    """Not safe to use from several threads at once: the desk's lock guards it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "leases.jsonl"
        self._open: dict[str, LoggedLease] = {}
        self._lines = 0
        self._file = -1
        if self._path.exists():
            self._replay(self._path.read_bytes())
        self._rewrite()

    @property
    def open(self) -> list[LoggedLease]:
        """What is lent and not answered, in the order in which it was lent."""
        return list(self._open.values())

    def leased(self, leases: Iterable[LoggedLease]) -> None:
        lines = []
        for lease in leases:
            self._open[lease.image_id] = lease
            lines.append(json.dumps({"leased": asdict(lease)}))
        self._append(lines, durable=True)

    def done(self, image_ids: Iterable[str]) -> None:
        finished = [image_id for image_id in image_ids if self._open.pop(image_id, None) is not None]
        if finished:
            # Losing this line costs a look at the answer log after a restart, no more.
            self._append([json.dumps({"done": finished})], durable=False)

    def clear(self) -> None:
        """None of these leases means anything any more."""
        if self._open:
            self._open.clear()
            self._rewrite()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, lines: list[str], *, durable: bool) -> None:
        if not lines or self._file < 0:
            return
        data = memoryview("".join(f"{line}\n" for line in lines).encode())
        try:
            while data:
                data = data[os.write(self._file, data) :]
            if durable:
                os.fdatasync(self._file)
        except OSError as error:
            log.warning("leases are not recorded, so a kill may lose them: %s", error.strerror)
            # What was written may be torn: the next call writes all anew.
            self._lines += _DONE_LINES
            return
        self._lines += len(lines)
        if self._lines > len(self._open) + _DONE_LINES:
            self._rewrite()

    def _replay(self, content: bytes) -> None:
        for line in content.split(b"\n"):
            try:
                told = json.loads(line) if line else {}
            except ValueError:
                log.warning("%s: a torn line is skipped", self._path)
                continue
            if leased := told.get("leased"):
                self._open[leased["image_id"]] = LoggedLease(**leased)
            for image_id in told.get("done", ()):
                self._open.pop(image_id, None)

    def _rewrite(self) -> None:
        """The same state in as few lines as possible, put in place whole."""
        fresh = self._path.with_suffix(".new")
        try:
            file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(os.dup(file), "wb") as out:
                out.writelines(json.dumps({"leased": asdict(lease)}).encode() + b"\n" for lease in self._open.values())
                out.flush()
                os.fdatasync(file)
            fresh.replace(self._path)
        except OSError as error:
            log.warning("the record of leases cannot be rewritten: %s", error.strerror)
            return
        self.close()
        self._file = file
        self._lines = len(self._open)
