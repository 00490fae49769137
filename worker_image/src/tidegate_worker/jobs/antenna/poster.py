"""Carry answers from the log to the server until each is accepted; the same bytes again after every doubt.

| what happens to a POST                          | what follows                                                         |
|-------------------------------------------------|----------------------------------------------------------------------|
| 200 that names every result                     | accepted                                                             |
| no answer, 5xx, 429, a proxy's page             | again after a pause; a large one is halved now and then              |
| 400 or 413 for several results                  | halved until the one that is at fault stands alone                   |
| 400 or 413 for one result                       | an error result in its place; but three of them without any accepted result between are the server's or our own fault: stop |
| 401, 403, 404                                   | stop: a person must act; everything stays in the log                 |

Nothing is held back for more than the linger time, because only a result that lands keeps Antenna's reaper away.
"""  # noqa: E501

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tidegate.core.errors import FixConfig, RetryLater, TidegateError
from tidegate_worker.jobs.antenna.answer_log import AnswerLog, Post
from tidegate_worker.jobs.antenna.api import CLIENT_INFO, AntennaApi, Body, RequestRefused

log = logging.getLogger(__name__)

_REFUSED_IN_A_ROW: Final = 3
#: A request that failed this often may be too large for the way it goes, if it is large at all.
_HALVE_EVERY: Final = 3
_LARGE_BYTES: Final = 1024 * 1024
_OPEN: Final = b'{"client_info":' + json.dumps(CLIENT_INFO).encode()
_CLOSE: Final = b"]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostLimits:
    threads: int = 2
    #: Aim of one request; a single result may be larger.
    request_bytes: int = 8 * 1024 * 1024
    #: The server takes about 10 ms a result before it answers.
    request_results: int = 50
    #: How long an answer waits for others to share its request.
    linger_seconds: float = 0.5
    answer_seconds: float = 60.0
    #: Added to the time-out for the server to read and check a large request.
    bytes_per_second: float = 500_000.0
    pause_seconds: float = 1.0
    pause_most_seconds: float = 60.0
    #: What may wait before `answer` blocks.
    waiting_bytes: int = 256 * 1024 * 1024
    waiting_results: int = 2000


class Poster:
    """Threads that post what waits in the log, oldest first."""

    def __init__(
        self,
        api: AntennaApi,
        job_id: str,
        answers: AnswerLog,
        on_refused: Callable[[Post, str], None],
        limits: PostLimits,
    ) -> None:
        self._api = api
        self._path = f"/jobs/{job_id}/result/"
        self._answers = answers
        self._on_refused = on_refused
        self._limits = limits
        self._changed = threading.Condition()
        self._queue: deque[tuple[float, Post]] = deque()
        self._outstanding = 0
        self._outstanding_bytes = 0
        self._flushing = 0
        self._accepted: dict[int, Callable[[], None]] = {}
        self._refused: list[tuple[Post, str]] = []
        self._accepted_ever = False
        self._refused_in_a_row = 0
        self._closed = threading.Event()
        #: Why nothing will be posted any more.
        self.fatal: Exception | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"antenna-post-{number}", daemon=True)
            for number in range(limits.threads)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for_room(self) -> None:
        """Return once another answer may be taken over; raise where nothing will ever be accepted."""
        with self._changed:
            while self._full():
                self.raise_fatal()
                if self._closed.is_set():
                    raise RetryLater("the job is closed: what is not answered yet is left to a successor")
                self._changed.wait(1.0)
            self.raise_fatal()

    def put(self, post: Post, on_accepted: Callable[[], None] | None = None) -> None:
        with self._changed:
            if on_accepted is not None:
                self._accepted[post.number] = on_accepted
            self._queue.append((time.monotonic(), post))
            self._outstanding += 1
            self._outstanding_bytes += post.answer.size_bytes
            self._changed.notify_all()

    def replace(self, refused: Post, by: Post) -> None:
        """Post `by` and let it stand for `refused`."""
        with self._changed:
            on_accepted = self._accepted.pop(refused.number, None)
        self.put(by, on_accepted)
        self._settle([refused])

    def wait_for_less(self) -> None:
        """Return once something of what is outstanding is accepted; raise where nothing will be."""
        with self._changed:
            before = self._outstanding
            while self._outstanding and self._outstanding >= before:
                self.raise_fatal()
                self._changed.wait(1.0)

    def outstanding(self) -> int:
        with self._changed:
            return self._outstanding

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until nothing is outstanding; True if so."""
        give_up_at = time.monotonic() + timeout_seconds
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                while self._outstanding and self.fatal is None:
                    left = give_up_at - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                return not self._outstanding
            finally:
                self._flushing -= 1

    def close(self, timeout_seconds: float) -> None:
        """Stop the threads; a request under way is waited for no longer than this."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        give_up_at = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))

    def raise_fatal(self) -> None:
        if self.fatal is not None:
            raise self.fatal

    def _full(self) -> bool:
        return self._outstanding > 0 and (
            self._outstanding >= self._limits.waiting_results or self._outstanding_bytes >= self._limits.waiting_bytes
        )

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            try:
                self._deliver(group)
            except TidegateError as error:
                log.error("posting results stops: %s", error)  # noqa: TRY400 - the message is made for people
                with self._changed:
                    self.fatal = self.fatal or error
                    self._changed.notify_all()
                return
            except Exception as error:
                log.exception("posting results stops by a fault of its own")
                with self._changed:
                    self.fatal = self.fatal or error
                    self._changed.notify_all()
                return

    def _next_group(self) -> list[Post] | None:
        with self._changed:
            while not self._closed.is_set() and self.fatal is None:
                wait = self._due_in_seconds()
                if wait is not None and wait <= 0:
                    return self._pop_group()
                self._changed.wait(wait)
            return None

    def _due_in_seconds(self) -> float | None:
        """How long the queue may still linger; None while it is empty."""
        if not self._queue:
            return None
        if self._flushing or len(self._queue) >= self._limits.request_results:
            return 0.0
        if sum(post.answer.size_bytes for _, post in self._queue) >= self._limits.request_bytes:
            return 0.0
        return self._queue[0][0] + self._limits.linger_seconds - time.monotonic()

    def _pop_group(self) -> list[Post]:
        group: list[Post] = []
        size = 0
        while self._queue and len(group) < self._limits.request_results:
            post = self._queue[0][1]
            if group and size + post.answer.size_bytes > self._limits.request_bytes:
                break
            self._queue.popleft()
            group.append(post)
            size += post.answer.size_bytes
        return group

    def _deliver(self, group: Sequence[Post]) -> None:
        """Post until accepted, halving where that may help. Returns early only when the job is closed."""
        failures = 0
        while not self._closed.is_set() and self.fatal is None:
            try:
                self._post(group)
            except RetryLater as error:
                failures += 1
                pause = error.delay_seconds or self._pause_seconds(failures)
                log.warning("%d results wait %.0f s to be posted again: %s", len(group), pause, error)
                self._closed.wait(pause)
                large = sum(post.answer.size_bytes for post in group) > _LARGE_BYTES
                if failures % _HALVE_EVERY or len(group) == 1 or not large:
                    continue
            except RequestRefused as refused:
                if len(group) == 1:
                    self._refuse(group[0], str(refused))
                    return
            else:
                return
            middle = len(group) // 2
            self._deliver(group[:middle])
            self._deliver(group[middle:])
            return

    def _pause_seconds(self, failures: int) -> float:
        return float(min(self._limits.pause_most_seconds, self._limits.pause_seconds * 2 ** min(failures - 1, 10)))

    def _post(self, group: Sequence[Post]) -> None:
        posts = [self._answers.current(post.number) or post for post in group]
        body = self._body(posts)
        seconds = self._limits.answer_seconds + body.size_bytes / self._limits.bytes_per_second
        answer = self._api.post_body(self._path, body, seconds)
        queued = answer.get("results_queued") if isinstance(answer, dict) else None
        if queued != len(posts):
            raise RetryLater(f"the server took {queued} of {len(posts)} results")
        if any(not post.answer.failed for post in posts):
            with self._changed:
                self._accepted_ever = True
                self._refused_in_a_row = 0
        self._settle(posts)
        self._answer_refused()

    def _body(self, posts: Sequence[Post]) -> Body:
        openings = []
        for number, post in enumerate(posts):
            before = _OPEN + b',"results":[' if number == 0 else b"},"
            subject = json.dumps(post.reply_subject).encode()
            openings.append(before + b'{"reply_subject":' + subject + b',"result":')
        size = sum(map(len, openings)) + sum(post.answer.size_bytes for post in posts) + 1 + len(_CLOSE)

        class Chunks:
            def __init__(self, answers: AnswerLog) -> None:
                self._answers = answers

            def __iter__(self) -> Iterator[bytes]:
                for opening, post in zip(openings, posts, strict=True):
                    yield opening
                    yield from self._answers.read(post.answer)
                yield b"}" + _CLOSE

        return Body(size, Chunks(self._answers))

    def _settle(self, posts: Sequence[Post]) -> None:
        self._answers.close_posts(post.number for post in posts)
        with self._changed:
            told = [self._accepted.pop(post.number, None) for post in posts]
        for on_accepted in told:
            if on_accepted is not None:
                on_accepted()
        with self._changed:
            self._outstanding -= len(posts)
            self._outstanding_bytes -= sum(post.answer.size_bytes for post in posts)
            self._changed.notify_all()

    def _refuse(self, post: Post, told: str) -> None:
        log.error("the server refuses the result of image %s: %s", post.answer.image_id, told)
        with self._changed:
            self._refused.append((post, told))
            self._refused_in_a_row += 1
            systemic = self._refused_in_a_row >= _REFUSED_IN_A_ROW
            sure = self._accepted_ever
        if post.answer.failed or systemic:
            raise FixConfig(
                f"Antenna refuses results one after the other, so it is not the images: {told}; "
                "bring the worker and the server to versions that fit each other, nothing that was computed is lost"
            )
        if sure:
            self._answer_refused()

    def _answer_refused(self) -> None:
        """Answer what was refused with errors: the server has shown that it accepts results, so it is the image."""
        with self._changed:
            refused, self._refused = self._refused, []
            if refused and not self._accepted_ever:
                self._refused = refused
                return
        for post, told in refused:
            self._on_refused(post, told)
