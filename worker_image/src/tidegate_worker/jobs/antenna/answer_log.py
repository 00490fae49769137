"""Answers on disk: what waits to be posted, and what was accepted, kept in case its image is delivered again.

One append-only log in segments. A record counts once it is synced, so a kill loses only what `sync` had not returned
for; a torn tail is cut off at the next start. Marks (closed, forgotten) are not synced: to lose one means to post
again, which is harmless.

| record      | head                                | meaning                                                     |
|-------------|-------------------------------------|-------------------------------------------------------------|
| answer      | n, image, subject, failed, sequence | post this body                                              |
| again       | n, answer, subject                  | post the body of an earlier answer for another delivery     |
| closed      | n: [...]                            | posted and accepted (or given up)                           |
| forgotten   |                                     | no reply subject before this is good any more               |

Disk and memory are bounded: the oldest segments in which nothing waits are deleted. Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.antenna.segment import Segment


@dataclass(frozen=True, slots=True)
class LogBounds:
    segment_bytes: int = 32 * 1024 * 1024
    segment_answers: int = 2000
    #: Of answers that are accepted and kept; what waits is bounded by who appends.
    kept_bytes: int = 256 * 1024 * 1024
    kept_answers: int = 20_000


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer in the log."""

    number: int
    image_id: str
    failed: bool
    #: Which message of the server's queue it answered first.
    sequence: int
    segment: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Post:
    """One delivery to be answered with the body of `answer`."""

    number: int
    answer: Kept
    reply_subject: str


class AnswerLog:
    """See the module; safe to use from any thread of the one process that has it open."""

    def __init__(self, directory: Path, bounds: LogBounds | None = None) -> None:
        self._directory = directory
        self._bounds = bounds or LogBounds()
        self._lock = threading.RLock()
        self._segments: dict[int, Segment] = {}
        self._kept: dict[str, Kept] = {}
        self._waiting: dict[int, Post] = {}
        #: Where the record of a waiting post lies: its segment may go no earlier than the post.
        self._recorded_in: dict[int, int] = {}
        self._next_number = 1
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._guard = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise FixConfig(f"the state directory {directory} cannot be written: {error}") from None
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._guard)
            raise FixConfig(
                f"another worker has {directory} open: give every worker a state directory of its own"
            ) from None

    @classmethod
    def open(cls, directory: Path, bounds: LogBounds | None = None, *, subjects_good_seconds: float) -> Self:
        """The log in `directory`, with what an earlier process left.

        Reply subjects that are older than a lease are dropped: the queue may have been made anew since, and an old
        subject would then acknowledge another image. An answer counts without its subject too.
        """
        opened = cls(directory, bounds)
        opened._recover(time.time() - subjects_good_seconds)
        return opened

    @property
    def waiting(self) -> list[Post]:
        with self._lock:
            return list(self._waiting.values())

    def kept(self, image_id: str) -> Kept | None:
        with self._lock:
            return self._kept.get(image_id)

    def latest_accepted(self) -> Kept | None:
        """A success that the server has accepted."""
        with self._lock:
            waiting = {post.answer.number for post in self._waiting.values()}
            for kept in reversed(self._kept.values()):
                if not kept.failed and kept.number not in waiting:
                    return kept
            return None

    def append(
        self,
        image_id: str,
        reply_subject: str,
        sequence: int,
        failed: bool,
        chunks: Iterable[bytes],
        at_most_bytes: int,
    ) -> Post | None:
        """Write an answer; None, and nothing written, where its body is larger than `at_most_bytes`.

        Call `sync` before it counts.
        """
        with self._lock:
            number = self._next_number
            head = {"n": number, "image": image_id, "subject": reply_subject, "failed": failed, "sequence": sequence}
            written = self._write({"answer": head, "at": time.time()}, chunks, at_most_bytes)
            if written is None:
                return None
            segment, offset, size = written
            self._next_number = number + 1
            kept = Kept(number, image_id, failed, sequence, segment.number, offset, size)
            segment.answers += 1
            return self._await(Post(number, kept, reply_subject), segment)

    def again(self, kept: Kept, reply_subject: str) -> Post:
        """Post the body of `kept` once more, for another delivery of its image."""
        with self._lock:
            number = self._next_number
            head = {"n": number, "answer": kept.number, "subject": reply_subject}
            segment, _, _ = self._required(self._write({"again": head, "at": time.time()}, (), 0))
            self._next_number = number + 1
            return self._await(Post(number, kept, reply_subject), segment)

    def sync(self) -> None:
        with self._lock:
            if self._segments and self._guard >= 0:
                self._current().sync()

    def close_posts(self, numbers: Iterable[int]) -> None:
        """These were accepted, or are replaced by another: they wait no longer."""
        with self._lock:
            closed = [number for number in numbers if number in self._waiting]
            if not closed or self._guard < 0:
                return
            # Losing the mark to a full disk costs a second post after a restart, no more.
            with contextlib.suppress(RetryLater):
                self._write({"closed": closed}, (), 0)
            for number in closed:
                self._forget_post(number)
            self._evict(self._bounds.kept_bytes, self._bounds.kept_answers)

    def forget_subjects(self) -> None:
        """No subject so far is good any more, and what failed may now succeed."""
        with self._lock:
            # Without the mark, a successor still drops what is older than a lease.
            with contextlib.suppress(RetryLater):
                self._write({"forgotten": True}, (), 0)
            self._drop_subjects()

    def read(self, kept: Kept) -> Iterator[bytes]:
        """The body of an answer, piece by piece."""
        with self._lock:
            if self._guard < 0:
                raise RetryLater(f"the answer log in {self._directory} is closed")
            return self._segments[kept.segment].read(kept.offset, kept.size_bytes)

    def current(self, number: int) -> Post | None:
        """The post as it stands now: its subject may have been dropped since."""
        with self._lock:
            return self._waiting.get(number)

    def close(self) -> None:
        with self._lock:
            for segment in self._segments.values():
                segment.close()
            self._segments.clear()
            if self._guard >= 0:
                os.close(self._guard)
                self._guard = -1

    def _await(self, post: Post, segment: Segment) -> Post:
        if post.answer.number == post.number:
            self._kept.pop(post.answer.image_id, None)
            self._kept[post.answer.image_id] = post.answer
        self._waiting[post.number] = post
        self._recorded_in[post.number] = segment.number
        segment.waiting += 1
        if post.answer.segment != segment.number:
            self._segments[post.answer.segment].waiting += 1
        return post

    def _forget_post(self, number: int) -> None:
        post = self._waiting.pop(number)
        recorded = self._recorded_in.pop(number)
        self._segments[recorded].waiting -= 1
        if post.answer.segment != recorded:
            self._segments[post.answer.segment].waiting -= 1

    def _drop_subjects(self, numbers: Iterable[int] | None = None) -> None:
        for number in list(self._waiting) if numbers is None else numbers:
            self._waiting[number] = replace(self._waiting[number], reply_subject="")
        if numbers is None:
            waiting = {post.answer.number for post in self._waiting.values()}
            gone = [kept.image_id for kept in self._kept.values() if kept.failed and kept.number not in waiting]
            for image_id in gone:
                del self._kept[image_id]

    def _write(
        self, head: dict[str, Any], chunks: Iterable[bytes], at_most_bytes: int
    ) -> tuple[Segment, int, int] | None:
        """Append one record, making room by what is only kept where the disk is full."""
        if self._guard < 0:
            # Another process may have it open by now.
            raise RetryLater(f"the answer log in {self._directory} is closed")
        segment = self._current()
        try:
            body = segment.append(head, chunks, at_most_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._drop_kept()
            raise RetryLater(f"no space is left in {self._directory} for an answer") from None
        return None if body is None else (segment, *body)

    @staticmethod
    def _required(written: tuple[Segment, int, int] | None) -> tuple[Segment, int, int]:
        assert written is not None, "a record without a body always fits"
        return written

    def _current(self) -> Segment:
        if self._segments:
            last = next(reversed(self._segments.values()))
            if last.size_bytes < self._bounds.segment_bytes and last.answers < self._bounds.segment_answers:
                return last
            last.sync()
        number = max(self._segments, default=0) + 1
        segment = Segment(self._directory / f"answers-{number:08d}.log", fresh=True)
        _sync_directory(self._directory)
        self._segments[number] = segment
        return segment

    def _evict(self, kept_bytes: int, kept_answers: int) -> None:
        """Delete the oldest segments until no more than this is kept; the one being written, and what waits, stays."""
        for segment in list(self._segments.values())[:-1]:
            total = sum(each.size_bytes for each in self._segments.values())
            if (total <= kept_bytes and len(self._kept) <= kept_answers) or segment.waiting:
                return
            self._keep_none_of(segment)
            segment.close()
            segment.path.unlink(missing_ok=True)
            del self._segments[segment.number]

    def _drop_kept(self) -> None:
        """Keep nothing that does not wait."""
        self._evict(0, 0)
        segment = self._current()
        if not segment.waiting:
            self._keep_none_of(segment)
            segment.empty()

    def _keep_none_of(self, segment: Segment) -> None:
        for image_id in [image for image, kept in self._kept.items() if kept.segment == segment.number]:
            del self._kept[image_id]

    def _recover(self, subjects_good_from: float) -> None:
        answers: dict[int, Kept] = {}
        stale: set[int] = set()
        for path in sorted(self._directory.glob("answers-*.log")):
            segment = Segment(path, fresh=False)
            self._segments[segment.number] = segment
            for head, offset, size in segment.records():
                self._replay(head, offset, size, segment, answers)
                if head.get("at", 0.0) < subjects_good_from:
                    stale.update(_numbers(head))
        self._drop_subjects(stale & self._waiting.keys())

    def _replay(self, head: dict[str, Any], offset: int, size: int, segment: Segment, answers: dict[int, Kept]) -> None:
        if told := head.get("answer"):
            kept = Kept(told["n"], told["image"], told["failed"], told["sequence"], segment.number, offset, size)
            answers[kept.number] = kept
            segment.answers += 1
            self._next_number = max(self._next_number, kept.number + 1)
            self._await(Post(kept.number, kept, told["subject"]), segment)
        elif told := head.get("again"):
            self._next_number = max(self._next_number, told["n"] + 1)
            if found := answers.get(told["answer"]):
                self._await(Post(told["n"], found, told["subject"]), segment)
        elif "closed" in head:
            for number in head["closed"]:
                if number in self._waiting:
                    self._forget_post(number)
        elif "forgotten" in head:
            self._drop_subjects()


def _numbers(head: dict[str, Any]) -> list[int]:
    told = head.get("answer") or head.get("again")
    return [told["n"]] if told else []


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
