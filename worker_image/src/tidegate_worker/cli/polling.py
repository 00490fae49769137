"""Serve whatever Antenna jobs are open, as the peer's worker does: list, work what has work, sleep, list again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from tidegate.core.contract import ExitCode, Source, SourceKind
from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.cli.antenna_access import antenna_api
from tidegate_worker.cli.composition import Parts
from tidegate_worker.cli.standalone import work
from tidegate_worker.cli.targets import Target
from tidegate_worker.jobs.antenna.registry import OpenJob, open_jobs
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.policy.backoff import delay_seconds
from tidegate_worker.ports import Answer, Job, JobProgress, Task
from tidegate_worker.settings import Settings

#: A job that brings no task for so long is left for another: what it still waits for is in other workers' hands.
_PATIENCE_SECONDS: Final = 15.0
_NAP_SECONDS: Final = 0.2
#: A job that failed is not tried again for so long, or its fault would be met every five seconds.
_REST_SECONDS: Final = 300.0

_log = logging.getLogger(__name__)


class Patience:
    """A job that asks its run to drain when it has brought nothing for a while."""

    def __init__(self, job: Job, drain: Drain, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._job = job
        self._drain = drain
        self._patience_seconds = patience_seconds
        self._last_task_at = time.monotonic()
        self.lease_seconds = job.lease_seconds

    def lease(self, at_most: int) -> Sequence[Task]:
        tasks = self._job.lease(at_most)
        now = time.monotonic()
        if tasks or self._job.outstanding():
            self._last_task_at = now
        elif now - self._last_task_at >= self._patience_seconds:
            self._drain.ask(f"no task for {self._patience_seconds:.0f} s; other jobs may have some")
        return tasks

    def prove(self) -> None:
        self._job.prove()

    def progress(self) -> JobProgress:
        return self._job.progress()

    def answer(self, answers: Sequence[Answer], on_acked: Callable[[Answer], None]) -> None:
        self._job.answer(answers, on_acked)

    def outstanding(self) -> int:
        return self._job.outstanding()

    def flush(self, timeout_seconds: float) -> bool:
        return self._job.flush(timeout_seconds)

    def close(self) -> None:
        self._job.close()


class OpenJobs:
    """The rounds over the open jobs of the pipelines that this worker serves."""

    def __init__(self, settings: Settings, parts: Parts, drain: Drain) -> None:
        self._settings = settings
        self._parts = parts
        self._drain = drain
        self._slugs = parts.slugs(())
        self._rests_until: dict[str, float] = {}
        self._api = antenna_api(settings)

    def serve(self, *, once: bool) -> int:
        _log.info("serving open jobs of %s", ", ".join(self._slugs))
        failures = 0
        try:
            while not self._drain.asked:
                try:
                    worked = self._round()
                    failures = 0
                except RetryLater as error:
                    _log.warning("Antenna cannot be asked for jobs: %s", error)
                    failures += 1
                    self._sleep(delay_seconds(failures, error.delay_seconds, random.random()))
                    continue
                if once and not worked:
                    return ExitCode.DONE
                if not worked:
                    self._sleep(self._settings.antenna.poll_seconds)
        finally:
            self._api.close()
        return ExitCode.DRAINED

    def _round(self) -> bool:
        """Every open job once; whether any had work."""
        answered = 0
        for job in self._due():
            if self._drain.asked:
                break
            answered += self._work(job)
        return answered > 0

    def _due(self) -> list[OpenJob]:
        now = time.monotonic()
        listed = open_jobs(self._api, self._slugs)
        return [job for job in listed if self._rests_until.get(job.job_id, 0.0) <= now]

    def _work(self, job: OpenJob) -> int:
        """How many images of this job were answered. One bad job must not keep the others waiting."""
        source = Source(kind=SourceKind.ANTENNA, uri=self._settings.antenna.antenna_url, job=job.job_id)
        try:
            # The job may tire of waiting; the worker's own wish to stop is another.
            patience = _LinkedDrain(self._drain)
            report = work(
                Target(source, job.pipeline, None),
                self._settings,
                self._parts,
                patience,
                around=lambda real: Patience(real, patience),
            )
        except (FixConfig, RetryLater) as error:
            _log.error("Antenna job %s is left alone for %.0f s: %s", job.job_id, _REST_SECONDS, error)
            self._rests_until[job.job_id] = time.monotonic() + _REST_SECONDS
            return 0
        if report.exit_code not in {ExitCode.DONE, ExitCode.DRAINED}:
            _log.error("Antenna job %s is left alone for %.0f s: %s", job.job_id, _REST_SECONDS, report.reason)
            self._rests_until[job.job_id] = time.monotonic() + _REST_SECONDS
        return report.acked

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._drain.asked and time.monotonic() < until:
            time.sleep(_NAP_SECONDS)


class _LinkedDrain(Drain):
    """Asked when its own job tires, or when the whole worker is."""

    def __init__(self, outer: Drain) -> None:
        self._outer = outer
        super().__init__()

    @property
    def asked(self) -> bool:
        return self._asked or self._outer.asked

    @asked.setter
    def asked(self, value: bool) -> None:
        self._asked = value


def serve_open_jobs(settings: Settings, parts: Parts, drain: Drain, *, once: bool = False) -> int:
    """Until asked to stop, or, `once`, until a round over all open jobs finds no work."""
    return OpenJobs(settings, parts, drain).serve(once=once)
