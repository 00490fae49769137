"""Lease no more than can be answered, and know when there is nothing left to lease.

| seen                                                      | ending                                         |
|-----------------------------------------------------------|------------------------------------------------|
| the job's own count is complete, nothing held             | done                                           |
| no task for the lease time and 30 s, nothing held         | done, not complete                             |
| asked to drain                                            | drained                                        |
| too many images failed                                    | failure budget spent                           |
| the job's owner, or every image host, silent for too long | upstream unavailable                           |
| as many images leased as were to be measured              | done, not complete                             |
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tidegate.core.contract import Assignment, ExitCode, Suspect
from tidegate.core.errors import RetryLater
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.pipeline.flow import Flow
from tidegate_worker.pipeline.lease import Place, journal_id
from tidegate_worker.pipeline.settings import EngineSettings
from tidegate_worker.policy.backoff import delay_seconds
from tidegate_worker.policy.failure_budget import spent
from tidegate_worker.policy.leasing import allowance, request
from tidegate_worker.policy.rate import Rate
from tidegate_worker.policy.suspicion import Handling, handling
from tidegate_worker.policy.unreachable import Certain, certain
from tidegate_worker.ports import Failure, Job, JobProgress, JobState, Task

_log = logging.getLogger(__name__)

_STEP_SECONDS: Final = 0.05
_STRANDED: Final = Failure(
    "held by a pod that was killed, at its last delivery; its address is lost with that pod, so it was not tried again:"
    " a retry of the job at its owner brings it again",
    quarantined=True,
)
_AT_WORK: Final = (Place.QUEUED, Place.STAGED, Place.PARKED, Place.IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class Quota:
    """A probe takes this much and no more."""

    images: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Ending:
    exit_code: ExitCode
    reason: str
    complete: bool = False


class Leasing:
    def __init__(
        self,
        flow: Flow,
        job: Job,
        assignment: Assignment,
        settings: EngineSettings,
        drain: Drain,
        quota: Quota | None = None,
    ) -> None:
        self._flow = flow
        self._job = job
        self._assignment = assignment
        self._settings = settings
        self._drain = drain
        self._quota = quota
        self._suspects = {suspect.image_id: suspect for suspect in assignment.suspects}
        #: What may never be leased again, with the error that it then gets: its last delivery went to a killed worker.
        self._killers: dict[str, Failure] = {}
        self._stranded: dict[str, Failure] = {}
        if quota is None:
            self._stranded = dict.fromkeys(assignment.stranded, _STRANDED)
            for suspect in assignment.suspects:
                if suspect.reply_subject and handling(suspect, False) is Handling.QUARANTINE:
                    self._stranded.pop(suspect.image_id, None)
                    self._killers[suspect.image_id] = _quarantined(suspect)
        self._rate = Rate(assignment.images_per_second)
        self._leased = 0
        self._leased_done = 0
        self._failures = 0
        now = time.monotonic()
        self._started_at = self._heard_at = self._last_task_at = self._next_lease_at = now
        self._next_progress_at = now
        self._was_busy = False
        self._counted: JobProgress | None = None
        self._still_since = now
        #: The last that the owner said; asked for before the first lease.
        self.progress: JobProgress | None = None

    def run(self) -> Ending:
        while True:
            ending = self._called_off() or self._step()
            if ending is not None:
                return ending
            time.sleep(_STEP_SECONDS)

    def _step(self) -> Ending | None:
        self._measure()
        try:
            return self._lease_or_ask()
        except RetryLater as error:
            return self._wait(error)

    def _called_off(self) -> Ending | None:
        if self._drain.asked:
            return Ending(ExitCode.DRAINED, self._drain.reason)
        tally = self._flow.ledger.tally()
        # What was answered without being tried says nothing of the rest of the job.
        failed, tried = tally.failed - tally.quarantined, tally.acked - tally.quarantined
        if spent(failed, tried, self._settings.failure_ratio, self._settings.failure_minimum):
            return Ending(
                ExitCode.FAILURE_BUDGET_SPENT,
                f"{failed} of {tried} images failed, more than {self._settings.failure_ratio:.0%}",
            )
        silent_seconds = self._seconds_without_images()
        if silent_seconds > self._settings.upstream_silence_seconds:
            return Ending(ExitCode.UPSTREAM_UNAVAILABLE, f"no image could be fetched for {silent_seconds:.0f} s")
        if self._quota is not None and (
            self._leased >= self._quota.images or time.monotonic() - self._started_at >= self._quota.seconds
        ):
            return Ending(ExitCode.DONE, f"{self._leased} images leased to be measured")
        return None

    def _seconds_without_images(self) -> float:
        since = self._flow.fetching_fails_since
        return time.monotonic() - since if since is not None and self._flow.nothing_comes() else 0.0

    def _lease_or_ask(self) -> Ending | None:
        now = time.monotonic()
        if self.progress is not None and now >= self._next_lease_at and (wanted := self._wanted()):
            tasks = self._job.lease(wanted)
            self._heard()
            if tasks:
                self._take_in(tasks)
                return None
            # Empty is not done: ask the owner.
            self._next_lease_at = now + self._settings.poll_seconds * (0.75 + random.random() / 2)
            self._next_progress_at = now
        if now < self._next_progress_at:
            return None
        self._next_progress_at = now + self._settings.progress_seconds
        self.progress = self._job.progress()
        self._heard()
        return self._judge(self.progress)

    def _wanted(self) -> int:
        """How many tasks to ask for now."""
        held = self._flow.ledger.count(*_AT_WORK)
        if self._flow.inlet.memory().gate.closed:
            # Behind a closed gate one image at a time still goes through alone.
            return 0 if held else 1
        allowed = allowance(
            self._rate.images_per_second(time.monotonic()),
            self._job.lease_seconds,
            self._assignment.grace_seconds,
            self._assignment.ingest.lease_images,
        )
        wanted = request(held, allowed)
        return wanted if self._quota is None else min(wanted, self._quota.images - self._leased)

    def _take_in(self, tasks: Sequence[Task]) -> None:
        now = time.monotonic()
        self._last_task_at = now
        self._leased += len(tasks)
        self._rate.started(now)
        for task in tasks:
            suspect = self._suspects.get(journal_id(task))
            self._killers.pop(journal_id(task), None)
            self._stranded.pop(journal_id(task), None)
            how = handling(suspect, task.last_delivery)
            lease = self._flow.ledger.add(task, alone=how is not Handling.BESIDE_OTHERS)
            if lease is None:
                continue
            if how is Handling.QUARANTINE:
                assert suspect is not None
                self._flow.answer(lease, _quarantined(suspect))
            else:
                self._flow.fetch(lease)

    def _answer_unreachable(self, progress: JobProgress) -> None:
        """Left alone, they would hold up the job until its owner gives it up."""
        now = time.monotonic()
        if progress != self._counted or self._flow.ledger.count() or self._job.outstanding():
            self._counted, self._still_since = progress, now
        told = progress.total is not None and progress.done is not None
        may = certain(
            len(self._killers),
            len(self._stranded),
            progress.total - progress.done if told else None,  # type: ignore[operator]
            now - max(self._still_since, self._last_task_at),
            self._job.lease_seconds,
            self._settings.settle_seconds,
        )
        if may is Certain.NOTHING:
            return
        due, self._killers = self._killers, {}
        if may is Certain.ALL:
            due, self._stranded = due | self._stranded, {}
        for image_id, failure in due.items():
            lease = self._flow.ledger.add(Task(image_id, "", last_delivery=True), alone=True)
            if lease is not None:
                self._flow.answer(lease, failure)

    def _judge(self, progress: JobProgress) -> Ending | None:
        if progress.state is JobState.OPEN and (self._killers or self._stranded):
            self._answer_unreachable(progress)
        if progress.state is not JobState.OPEN and self._flow.ledger.count(*_AT_WORK):
            _log.info("the job is %s: what is leased and not answered is dropped", progress.state)
            self._flow.drop_unanswered()
        if self._flow.ledger.count() or self._job.outstanding():
            if progress.state is JobState.COMPLETE:
                self._next_progress_at = time.monotonic() + 4 * _STEP_SECONDS
            return None
        if progress.state is JobState.COMPLETE:
            return Ending(ExitCode.DONE, "the job's own count is complete", complete=True)
        idle_seconds = time.monotonic() - self._last_task_at
        if idle_seconds > self._job.lease_seconds + self._settings.idle_margin_seconds:
            return Ending(ExitCode.DONE, f"no task for {idle_seconds:.0f} s, and the job is {progress.state}")
        return None

    def _measure(self) -> None:
        """Follow the rate, and ask at once whether the job is complete when the last image is acked."""
        now = time.monotonic()
        done = self._flow.ledger.tally().acked
        if done > self._leased_done:
            self._rate.done(now, done - self._leased_done)
            self._leased_done = done
        busy = self._flow.ledger.count() > 0
        if self._was_busy and not busy:
            self._rate.idle()
            if now < self._next_lease_at:
                self._next_progress_at = now
        self._was_busy = busy

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        if self._failures:
            # While its owner was away nobody could say that there was no task.
            self._last_task_at = self._heard_at
        self._failures = 0

    def _wait(self, error: RetryLater) -> Ending | None:
        now = time.monotonic()
        silent_seconds = now - self._heard_at
        if silent_seconds > self._settings.upstream_silence_seconds:
            return Ending(ExitCode.UPSTREAM_UNAVAILABLE, f"no answer for {silent_seconds:.0f} s: {error}"[:600])
        self._failures += 1
        wait_seconds = delay_seconds(self._failures, error.delay_seconds, random.random())
        wait_seconds = min(wait_seconds, self._settings.upstream_silence_seconds - silent_seconds + _STEP_SECONDS)
        _log.warning("the job's owner is not well, next try in %.1f s: %s", wait_seconds, error)
        self._next_lease_at = self._next_progress_at = now + wait_seconds
        return None


def _quarantined(suspect: Suspect) -> Failure:
    reason = (
        f"in flight at {suspect.strikes} memory kills or crashes of the worker, "
        f"{suspect.strikes_alone} of them alone: quarantined"
    )
    return Failure(reason, quarantined=True)
