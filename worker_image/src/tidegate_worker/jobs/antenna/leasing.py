"""Leases of one Antenna job: asked for by one request at a time, remembered on disk until they are answered.

A request for tasks reserves them when it is answered, whether or not somebody still waits. So it runs on a thread of
its own and is never given up: a caller that is out of patience finds its answer with the next call. What it brings is
on disk before anybody looks at it. What nobody here is working on any more is handed out again:

| found on disk                    | handed out again                                                            |
|----------------------------------|-----------------------------------------------------------------------------|
| its lease still runs             | at once: a predecessor was killed over it                                   |
| expired, at its last delivery    | at once: nobody else will ever get it, and a late answer counts             |
| expired, to be delivered again   | once the server has had time to deliver it again to us, and did not         |

Nothing here computes or answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tidegate.core.errors import FixConfig, RetryLater, TidegateError
from tidegate_worker.jobs.antenna.api import CLIENT_INFO, AntennaApi, RequestRefused
from tidegate_worker.jobs.antenna.lease_log import LeaseLog, LoggedLease
from tidegate_worker.jobs.antenna.reply_subject import Delivery
from tidegate_worker.ports import Task

log = logging.getLogger(__name__)

#: The server notices after 120 s that its queue is down.
_ANSWER_SECONDS: Final = 150.0
_BATCH_MOST: Final = 500
_ID_CHARACTERS: Final = 512
#: The server delivers twice; a task at its second delivery never comes again.
_DELIVERIES: Final = 2
#: How long after its expiry a task should have come again.
_OVERDUE_SECONDS: Final = 10.0
#: A task that so many processes have taken up runs alone: it may be what ended them.
_TAKERS_BESIDE_OTHERS: Final = 2


@dataclass(slots=True)
class _Request:
    began: float
    answered: threading.Event = field(default_factory=threading.Event)
    tasks: list[Task] | None = None
    error: TidegateError | None = None


@dataclass(slots=True)
class _Lease:
    task: Task
    #: Deliveries of the same image that came while it was being worked on.
    also: list[str] = field(default_factory=list)


class LeaseDesk:
    """See the module; safe to use from any thread."""

    def __init__(
        self, api: AntennaApi, job_id: str, lease_log: LeaseLog, lease_seconds: float, patience_seconds: float
    ) -> None:
        self._api = api
        self._log = lease_log
        self._path = f"/jobs/{job_id}/tasks/"
        self._lease_seconds = lease_seconds
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._request: _Request | None = None
        self._spare: deque[Task] = deque()
        self._leases: dict[str, _Lease] = {}
        self._ran_dry_at: float | None = None
        self._highest_consumer_sequence = max(
            (Delivery.of(lease.reply_subject).consumer_sequence for lease in lease_log.open), default=0
        )
        self._made_anew_at: float | None = None
        #: From the unix seconds of the log to this process's clock.
        self._epoch = time.time() - time.monotonic()

    def prefetch(self) -> None:
        """Ask for one task and keep it for the next `take`: the cheapest request that a bad token cannot pass."""
        with self._lock:
            if self._spare:
                return
        tasks = self._ask(1)
        with self._lock:
            self._spare.extend(tasks)

    def take(self, at_most: int) -> list[Task]:
        """Up to `at_most` leased tasks, each image once."""
        if at_most < 1:
            return []
        with self._lock:
            taken = self._take_spare(at_most) or self._take_up(at_most)
        if taken:
            return taken
        tasks = self._ask(min(at_most, _BATCH_MOST))
        with self._lock:
            self._ran_dry_at = None if tasks else time.monotonic()
            self._spare.extend(tasks)
            return self._take_spare(at_most)

    def answered(self, task: Task) -> list[str]:
        """Its answer is durable; reply subjects of its other deliveries, which the same answer serves."""
        with self._lock:
            self._log.done([task.image_id])
            lease = self._leases.pop(task.image_id, None)
            return lease.also if lease else []

    def drop(self) -> None:
        """Forget every lease."""
        with self._lock:
            self._spare.clear()
            self._leases.clear()
            self._log.clear()

    def holds_leases(self) -> bool:
        with self._lock:
            now = time.monotonic()
            return bool(self._spare) or any(lease.task.expires_at > now for lease in self._leases.values())

    def ran_dry(self) -> bool:
        """Whether the last request brought nothing."""
        with self._lock:
            return self._ran_dry_at is not None and not self._spare

    def queue_made_anew(self) -> float | None:
        """Since when leases are of a new queue, if deliveries began to count anew since the last call."""
        with self._lock:
            at, self._made_anew_at = self._made_anew_at, None
            return at

    def close(self) -> None:
        """A request under way may still be answered; what it brings then is lost to this log, not to the server."""
        with self._lock:
            self._log.close()

    def _take_spare(self, at_most: int) -> list[Task]:
        taken: list[Task] = []
        now = time.monotonic()
        while self._spare and len(taken) < at_most:
            task = self._spare.popleft()
            if task.expires_at <= now:
                continue
            lease = self._leases.get(task.image_id)
            if lease is not None and lease.task.expires_at > now:
                # Still being worked on: one answer will serve both deliveries.
                lease.also.append(task.reply_subject or "")
                continue
            self._leases[task.image_id] = _Lease(task)
            taken.append(task)
        return taken

    def _take_up(self, at_most: int) -> list[Task]:
        """Tasks on disk that nobody works on; those that many processes have tried come last, and alone."""
        now = time.monotonic()
        waiting = {task.image_id for task in self._spare}
        idle = [lease for lease in self._log.open if lease.image_id not in waiting and self._is_idle(lease, now)]
        taken = sorted(idle, key=lambda lease: lease.takers)[:at_most]
        if not taken:
            return []
        log.info("%d tasks that were leased before and not answered are taken up again", len(taken))
        again = [replace(lease, takers=lease.takers + 1) for lease in taken]
        self._log.leased(again)
        tasks = [self._known(lease, now) for lease in again]
        self._leases.update((task.image_id, _Lease(task)) for task in tasks)
        return tasks

    def _is_idle(self, lease: LoggedLease, now: float) -> bool:
        """Nobody here works on it, and nobody else will."""
        held = self._leases.get(lease.image_id)
        if held is not None and (held.task.last_delivery or held.task.expires_at > now):
            return False
        expired_at = lease.leased_at - self._epoch + self._lease_seconds
        if lease.delivery >= _DELIVERIES or expired_at > now:
            return True
        overdue_at = expired_at + min(_OVERDUE_SECONDS, self._lease_seconds)
        return self._ran_dry_at is not None and self._ran_dry_at > overdue_at

    def _known(self, lease: LoggedLease, now: float) -> Task:
        leased_at = lease.leased_at - self._epoch
        expires_at = leased_at + self._lease_seconds
        return Task(
            image_id=lease.image_id,
            url=lease.url,
            reply_subject=lease.reply_subject,
            delivery=lease.delivery,
            last_delivery=lease.delivery >= _DELIVERIES or lease.takers > _TAKERS_BESIDE_OTHERS,
            leased_at=leased_at,
            # Its answer is welcome for as long as the job is open.
            expires_at=expires_at if expires_at > now else float("inf"),
        )

    def _ask(self, count: int) -> list[Task]:
        with self._lock:
            if self._request is None:
                self._request = _Request(time.monotonic())
                body = {"batch_size": count, "client_info": CLIENT_INFO}
                threading.Thread(
                    target=self._send, args=(self._request, body), name="antenna-lease", daemon=True
                ).start()
            request = self._request
        if not request.answered.wait(self._patience_seconds):
            waited = time.monotonic() - request.began
            raise RetryLater(f"Antenna has not answered for {waited:.0f} s whether it has tasks", 0.0)
        with self._lock:
            if self._request is not request:
                return []
            self._request = None
        if request.error is not None:
            raise request.error
        return request.tasks or []

    def _send(self, request: _Request, body: dict[str, Any]) -> None:
        try:
            request.tasks = self._lent(self._api.post(self._path, body, seconds=_ANSWER_SECONDS), request.began)
        except RequestRefused as refused:
            request.error = FixConfig(f"Antenna serves no tasks of this job: {refused.told}")
        except TidegateError as error:
            request.error = error
        finally:
            if request.tasks is None and request.error is None:
                request.error = RetryLater("asking Antenna for tasks failed without an answer")
            request.answered.set()

    def _lent(self, answer: object, began: float) -> list[Task]:
        """The tasks of an answer, on disk: the shorter it is only in this process, the less a kill can lose."""
        items = answer.get("tasks") if isinstance(answer, dict) else None
        if not isinstance(items, list):
            raise RetryLater("Antenna answered no list of tasks")
        tasks = [task for item in items if (task := self._task(item, began)) is not None]
        with self._lock:
            self._note_sequences(tasks, began)
            self._log.leased(
                LoggedLease(task.image_id, task.url, task.reply_subject, task.delivery, task.leased_at + self._epoch)
                for task in tasks
            )
        return tasks

    def _note_sequences(self, leased: list[Task], began: float) -> None:
        """Every delivery of one queue has a higher number than those before it: any that has not means another."""
        numbers = [number for task in leased if (number := Delivery.of(task.reply_subject).consumer_sequence)]
        if numbers and min(numbers) <= self._highest_consumer_sequence:
            self._made_anew_at = began
            self._spare.clear()
            self._leases.clear()
            self._log.clear()
        self._highest_consumer_sequence = max(numbers, default=self._highest_consumer_sequence)

    def _task(self, item: object, leased_at: float) -> Task | None:
        """What the server reserved, whatever its ids look like; None where it names no image."""
        if not isinstance(item, dict):
            return None
        named = item.get("image_id")
        image_id = str(item.get("id") if named is None else named)
        if image_id in ("None", "") or len(image_id) > _ID_CHARACTERS:
            log.error("Antenna leased a task that no answer can name: id %.100r", image_id)
            return None
        url = item.get("image_url")
        subject = item.get("reply_subject")
        reply_subject = subject if isinstance(subject, str) else None
        delivery = Delivery.of(reply_subject)
        return Task(
            image_id=image_id,
            url=url if isinstance(url, str) else "",
            reply_subject=reply_subject,
            delivery=delivery.delivered,
            last_delivery=delivery.delivered >= _DELIVERIES,
            leased_at=leased_at,
            expires_at=leased_at + self._lease_seconds,
        )
