"""An Antenna job behind the Job port: leases, answers, progress and what its server needs help with.

`on_acked` follows when the server has taken the result over (HTTP 200) and the answer is kept for another delivery of
its image. That is not yet saved: completion is the server's own status, which `progress` asks for.

Help that the server needs (all of it harmless where it was not needed):
- an image whose delivery a predecessor did not live to answer is taken up again, also past its last delivery;
- an image delivered again after its answer was accepted gets the same answer again, and is not computed again;
- a job that stays unfinished with nothing left to lease is sent one of its accepted results again: its progress is
  counted without a lock, and the last update is lost now and then;
- when a job leaves the states in which tasks are served, leases and reply subjects are dropped: its queue may be made
  anew under the same name, and an old subject would then acknowledge another image.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.antenna.answer_log import AnswerLog, Kept, LogBounds, Post
from tidegate_worker.jobs.antenna.api import AntennaAccess, AntennaApi, RequestRefused
from tidegate_worker.jobs.antenna.lease_log import LeaseLog
from tidegate_worker.jobs.antenna.leasing import LeaseDesk
from tidegate_worker.jobs.antenna.pipeline import AntennaPipeline
from tidegate_worker.jobs.antenna.poster import Poster, PostLimits
from tidegate_worker.jobs.antenna.reply_subject import Delivery
from tidegate_worker.jobs.antenna.result import checked, result_chunks, strongest
from tidegate_worker.jobs.antenna.scores import DECIMALS
from tidegate_worker.ports import Answer, Failure, JobProgress, JobState, Prediction, Task

log = logging.getLogger(__name__)

_SERVING: Final = frozenset({"STARTED", "RETRY"})
_FINISHED: Final = frozenset({"SUCCESS", "FAILURE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AntennaLimits:
    #: The server's NATS_TASK_TTR.
    lease_seconds: float = 300.0
    #: How long `lease` waits for the server, which takes two minutes to notice that its queue is down.
    patience_seconds: float = 20.0
    #: One result; the server and the proxies in front of it accept 100 MB a request.
    result_bytes: int = 95_000_000
    #: A job that neither leases nor moves for this long is nudged, then after twice as long, and so on.
    hang_seconds: float = 12.0
    post: PostLimits = field(default_factory=PostLimits)
    log: LogBounds = field(default_factory=LogBounds)


class AntennaJob:
    """One job, served by this process from `state_dir`, which no other process may use at the same time."""

    def __init__(
        self,
        access: AntennaAccess,
        job_id: str,
        pipeline: AntennaPipeline,
        state_dir: Path,
        *,
        model_version: str = "",
        limits: AntennaLimits | None = None,
    ) -> None:
        if not job_id.isascii() or not job_id.isdigit():
            raise FixConfig(f"an Antenna job is named by its number, not {job_id!r}")
        self._limits = limits or AntennaLimits()
        self.lease_seconds = self._limits.lease_seconds
        self._job_id = job_id
        self._pipeline = pipeline
        self._api = AntennaApi(access)
        # Answers of other weights are not this job's answers.
        name = hashlib.sha256(repr((self._api.base_url, job_id, pipeline.slug, model_version)).encode()).hexdigest()
        self._directory = directory = state_dir / f"antenna-{job_id}-{name[:12]}"
        self._is_over = False
        self._answers = AnswerLog.open(directory, self._limits.log, subjects_good_seconds=self.lease_seconds)
        self._poster = Poster(self._api, job_id, self._answers, self._answer_refused, self._limits.post)
        self._desk = LeaseDesk(
            self._api, job_id, LeaseLog(directory), self._limits.lease_seconds, self._limits.patience_seconds
        )
        self._lock = threading.Lock()
        self._was_serving = True
        #: Subjects of leases from before this moment are void; a predecessor's are good for a lease, as in its answers.
        self._subjects_from = time.monotonic() - self.lease_seconds
        self._seen: object = None
        self._still_since = time.monotonic()
        self._nudges = 0
        for post in self._answers.waiting:
            self._poster.put(post)

    def prove(self) -> None:
        """Look at the job and lease one task, which the next `lease` hands out: a list answers any token."""
        self._poster.raise_fatal()
        details = self._details()
        mode = details.get("dispatch_mode")
        if mode not in (None, "async_api"):
            raise FixConfig(f"Antenna job {self._job_id} is dispatched by {mode!r}; only async_api jobs can be pulled")
        pipeline = details.get("pipeline")
        slug = pipeline.get("slug") if isinstance(pipeline, dict) else None
        if slug is not None and slug != self._pipeline.slug:
            raise FixConfig(
                f"Antenna job {self._job_id} asks for pipeline {slug!r}, but this worker serves {self._pipeline.slug!r}"
            )
        self._desk.prefetch()

    def lease(self, at_most: int) -> Sequence[Task]:
        self._poster.raise_fatal()
        leased = self._desk.take(at_most)
        made_anew_at = self._desk.queue_made_anew()
        if made_anew_at is not None:
            log.info("the queue of Antenna job %s was made anew: earlier reply subjects are dropped", self._job_id)
            self._void_subjects(made_anew_at)
        tasks = [task for task in leased if not self._answered_before(task)]
        if tasks:
            self._still_since = time.monotonic()
        return tasks

    def progress(self) -> JobProgress:
        self._poster.raise_fatal()
        details = self._details()
        status = str(details.get("status", "UNKNOWN"))
        done, total = _counts(details.get("progress"))
        serving = status in _SERVING
        with self._lock:
            left, self._was_serving = self._was_serving and not serving, serving
        if left:
            log.info(
                "Antenna job %s is %s and serves no tasks: nothing leased before is good any more", self._job_id, status
            )
            self._desk.drop()
            self._void_subjects(time.monotonic())
        if serving:
            self._is_over = False
            self._nudge_if_hanging((status, details.get("progress")))
            return JobProgress(JobState.OPEN, done, total)
        self._is_over = status in _FINISHED
        return JobProgress(JobState.COMPLETE if self._is_over else JobState.INACTIVE, done, total)

    def answer(self, answers: Sequence[Answer], on_acked: Callable[[Answer], None]) -> None:
        """Take the answers over; what reaches `on_acked` carries no scores, which are not kept in memory.

        FixConfig, where models and catalogue do not fit, comes after the sound answers of the call were taken over.
        """
        misfit: FixConfig | None = None
        posts: list[tuple[Post, Answer]] = []
        try:
            for answer in answers:
                self._poster.wait_for_room()
                try:
                    sound = checked(answer, self._pipeline)
                except FixConfig as error:
                    misfit = misfit or error
                else:
                    posts.append((self._record(sound), sound))
        finally:
            # What is written goes out, whatever happens to the rest.
            self._answers.sync()
            for post, sound in posts:
                self._poster.put(post, partial(on_acked, _without_scores(sound)))
                self._serve_other_deliveries(sound.task, post.answer)
        if posts:
            self._still_since = time.monotonic()
        if misfit is not None:
            raise misfit

    def outstanding(self) -> int:
        return self._poster.outstanding()

    def flush(self, timeout_seconds: float) -> bool:
        return self._poster.flush(timeout_seconds)

    def close(self) -> None:
        self._poster.close(timeout_seconds=2.0)
        self._desk.close()
        self._answers.close()
        self._api.close()
        if self._is_over and not self._poster.outstanding():
            # On a volume that outlives the pods, the answers of every job would pile up.
            shutil.rmtree(self._directory, ignore_errors=True)

    def _details(self) -> dict[str, Any]:
        try:
            # The logs of a job can be megabytes; servers that do not know the parameter ignore it.
            details = self._api.get(f"/jobs/{self._job_id}/", {"logs_limit": 1})
        except RequestRefused as refused:
            raise RetryLater(f"Antenna refuses to show job {self._job_id}: {refused}") from None
        if not isinstance(details, dict):
            raise RetryLater(f"Antenna shows job {self._job_id} as {type(details).__name__}, not as an object")
        return details

    def _record(self, answer: Answer) -> Post:
        task = answer.task
        failed = isinstance(answer.outcome, Failure)
        subject = self._subject(task)
        kept = self._answers.kept(task.image_id)
        if kept is not None and not kept.failed:
            # Computed twice, after a lease ran out. The first answer stands: another would be saved beside it.
            return self._answers.again(kept, subject)
        sequence = Delivery.of(task.reply_subject).stream_sequence
        for decimals in range(DECIMALS, 1, -1):
            post = self._append(answer, subject, sequence, failed, decimals)
            if post is not None:
                return post
            log.warning("the result of image %s is too large: rounding to %d decimals", task.image_id, decimals - 1)
        assert isinstance(answer.outcome, Prediction), "an error is never too large"
        count = len(answer.outcome.detections)
        while count > 1:
            count = count * 3 // 4
            post = self._append(strongest(answer, count), subject, sequence, failed, 2)
            if post is not None:
                log.warning("the result of image %s is too large: its best %d boxes are sent", task.image_id, count)
                return post
        raise FixConfig(
            f"one box with its scores is more than the {self._limits.result_bytes} bytes of a result: allow larger ones"
        )

    def _append(self, answer: Answer, subject: str, sequence: int, failed: bool, decimals: int) -> Post | None:
        while True:
            try:
                return self._answers.append(
                    answer.task.image_id,
                    subject,
                    sequence,
                    failed,
                    result_chunks(answer, self._pipeline, decimals),
                    self._limits.result_bytes,
                )
            except RetryLater as full:
                if not self._poster.outstanding():
                    raise FixConfig(f"{full}, though none waits there: give the state directory more room") from None
                self._poster.wait_for_less()

    def _answer_refused(self, post: Post, told: str) -> None:
        """Answer an image whose result the server will not have: left alone, it would be computed and refused again."""
        task = Task(post.answer.image_id, "")
        failure = Answer(task, Failure(f"Antenna refused the result: {told}"))
        chunks = result_chunks(failure, self._pipeline, DECIMALS)
        by = self._answers.append(
            task.image_id, post.reply_subject, post.answer.sequence, True, chunks, self._limits.result_bytes
        )
        assert by is not None, "an error is never too large"
        self._answers.sync()
        self._poster.replace(post, by)

    def _answered_before(self, task: Task) -> bool:
        """Whether this image needs no computing: its answer is at hand and goes out for this delivery too."""
        kept = self._answers.kept(task.image_id)
        if kept is None or (kept.failed and kept.sequence != Delivery.of(task.reply_subject).stream_sequence):
            return False
        try:
            post = self._answers.again(kept, self._subject(task))
        except RetryLater:
            return False
        log.info("image %s is delivered again: its answer is posted again", task.image_id)
        self._poster.put(post)
        self._serve_other_deliveries(task, kept)
        return True

    def _subject(self, task: Task) -> str:
        """Empty where the queue may have been made anew since: it would acknowledge another image."""
        return task.reply_subject or "" if task.leased_at >= self._subjects_from else ""

    def _serve_other_deliveries(self, task: Task, kept: Kept) -> None:
        for subject in self._desk.answered(task):
            self._poster.put(self._answers.again(kept, subject))

    def _void_subjects(self, before: float) -> None:
        """Use no reply subject of a lease from before this moment."""
        self._subjects_from = before
        self._answers.forget_subjects()

    def _nudge_if_hanging(self, seen: object) -> None:
        now = time.monotonic()
        with self._lock:
            if seen != self._seen:
                self._seen, self._still_since, self._nudges = seen, now, 0
            if self._desk.holds_leases() or not self._desk.ran_dry() or self._poster.outstanding():
                self._still_since = now
            due = now - self._still_since >= self._limits.hang_seconds * 2**self._nudges
            kept = self._answers.latest_accepted() if due else None
            if kept is None:
                return
            self._nudges += 1
        log.info("Antenna job %s neither moves nor ends: one accepted result is posted again", self._job_id)
        # Without a subject: the image's message was acknowledged long ago.
        self._poster.put(self._answers.again(kept, ""))


def _without_scores(answer: Answer) -> Answer:
    """The answer with nothing in it that is large: it waits in memory until its result is accepted."""
    if isinstance(answer.outcome, Failure):
        return answer
    return replace(answer, outcome=replace(answer.outcome, detections=()))


def _counts(progress: object) -> tuple[int | None, int | None]:
    """Images done and in all, by the server's own stages; None where it does not tell yet."""
    stages = progress.get("stages") if isinstance(progress, dict) else None
    told: dict[tuple[str, str], int] = {}
    for stage in stages if isinstance(stages, list) else ():
        for param in stage.get("params") or ():
            if isinstance(param.get("value"), int):
                told[str(stage.get("key")), str(param.get("key"))] = param["value"]
    done, remaining = told.get(("process", "processed")), told.get(("process", "remaining"))
    if done is not None and remaining is not None:
        return done, done + remaining
    return done, told.get(("collect", "total_images"))
