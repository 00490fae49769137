"""Serve whatever Antenna jobs are open, as the peer's worker does: list, work what has work, sleep, list again.

Jobs take turns, because Antenna's reaper fails a job that lands no result for ten minutes, also one that nobody has
begun: a turn ends when the job brings nothing for a while, or when it was long enough and other jobs wait.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from tidegate.core.contract import ExitCode, Source, SourceKind
from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.cli.antenna_access import antenna_api
from tidegate_worker.cli.composition import Parts
from tidegate_worker.cli.standalone import Pace, probed, tuned, unmeasured, work
from tidegate_worker.cli.targets import Target
from tidegate_worker.jobs.antenna.registry import OpenJob, open_jobs, prove_token
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.policy.backoff import delay_seconds
from tidegate_worker.ports import Answer, Job, JobProgress, Task
from tidegate_worker.settings import Settings

_NAP_SECONDS: Final = 0.2
#: A job that failed is not tried again for so long, or its fault would be met every five seconds.
_REST_SECONDS: Final = 300.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TurnRules:
    #: A job that brings no task for so long is left for another: what it still waits for is in other workers' hands.
    #: Longer than a job takes to see that it hangs, and to be helped.
    patience_seconds: float = 25.0
    #: In which every open job should have had its turn: well within Antenna's ten minutes.
    round_seconds: float = 240.0
    shortest_seconds: float = 20.0
    #: Of work, held leased where others wait: it is answered before they come.
    lease_seconds: float = 30.0
    #: A job that brought nothing is not looked at again for so long, or drained jobs would break into those with work.
    idle_rest_seconds: float = 120.0

    def turn_seconds(self, jobs: int) -> float:
        return min(self.round_seconds, max(self.shortest_seconds, self.round_seconds / max(1, jobs)))


class Turn:
    """A job that asks its run to drain when its turn is over."""

    def __init__(
        self,
        job: Job,
        drain: Drain,
        turn_seconds: float,
        patience_seconds: float,
        others_wait: Callable[[], bool],
    ) -> None:
        self._job = job
        self._drain = drain
        self._turn_seconds = turn_seconds
        self._others_wait = others_wait
        self._patience_seconds = patience_seconds
        self._last_task_at = time.monotonic()
        #: Set by the first lease: however slow the start, every turn brings its job on.
        self._ends_at: float | None = None
        self.lease_seconds = job.lease_seconds

    def lease(self, at_most: int) -> Sequence[Task]:
        if self._is_over():
            return ()
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

    def _is_over(self) -> bool:
        now = time.monotonic()
        if self._ends_at is None:
            self._ends_at = now + self._turn_seconds
            return False
        if now < self._ends_at:
            return False
        if self._others_wait():
            self._drain.ask("other jobs wait for their turn")
            return True
        self._ends_at = now + self._turn_seconds
        return False


class OpenJobs:
    """The rounds over the open jobs of the pipelines that this worker serves."""

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        drain: Drain,
        slugs: Sequence[str],
        *,
        probe: bool = True,
        rules: TurnRules = TurnRules(),  # values only
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._drain = drain
        self._slugs = slugs
        self._probe = probe
        self._rules = rules
        self._rests_until: dict[str, float] = {}
        #: Of jobs that had a turn: they are not probed again.
        self._paces: dict[str, Pace] = {}
        self._api = antenna_api(settings)

    def serve(self, *, once: bool) -> int:
        _log.info("serving open jobs of %s", ", ".join(self._slugs))
        failures = 0
        proven = False
        try:
            while not self._drain.asked:
                try:
                    if not proven:
                        self._prove()
                        proven = True
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

    def _prove(self) -> None:
        if not prove_token(self._api):
            _log.info("no finished job to try the token on; the first open one will tell")

    def _round(self) -> bool:
        """A turn for every open job; whether any had work."""
        answered = 0
        # In the server's random order, so that workers spread; by pipeline, so that none is loaded twice a round.
        jobs = sorted(self._due(), key=lambda job: job.pipeline)
        turn_seconds = self._rules.turn_seconds(len(jobs))
        for job in jobs:
            if self._drain.asked:
                break
            of_this = self._work(job, turn_seconds, alone=len(jobs) == 1)
            answered += of_this
            if not of_this and len(jobs) > 1:
                until = time.monotonic() + self._rules.idle_rest_seconds
                self._rests_until[job.job_id] = max(until, self._rests_until.get(job.job_id, 0.0))
        return answered > 0

    def _due(self) -> list[OpenJob]:
        now = time.monotonic()
        listed = open_jobs(self._api, self._slugs)
        known = {job.job_id for job in listed}
        self._paces = {job_id: pace for job_id, pace in self._paces.items() if job_id in known}
        return [job for job in listed if self._rests_until.get(job.job_id, 0.0) <= now]

    def _others_wait(self, job: OpenJob) -> bool:
        try:
            return any(other.job_id != job.job_id for other in self._due())
        except (FixConfig, RetryLater) as error:
            _log.warning("Antenna cannot be asked for other jobs: %s", error)
            return False

    def _work(self, job: OpenJob, turn_seconds: float, *, alone: bool) -> int:
        """How many images of this job were answered. One bad job must not keep the others waiting."""
        source = Source(kind=SourceKind.ANTENNA, uri=self._settings.antenna.antenna_url, job=job.job_id)
        target = Target(source, job.pipeline, None)
        try:
            answered, pace = self._paced(job, target, turn_seconds)
            if pace is None or self._drain.asked:
                return answered
            drain = _LinkedDrain(self._drain)
            report = work(
                target,
                self._settings,
                self._parts,
                drain,
                pace if alone else pace.leasing_at_most(self._rules.lease_seconds),
                around=lambda real: self._turn(real, drain, job, turn_seconds),
            )
        except (FixConfig, RetryLater) as error:
            self._rest(job, str(error))
            return 0
        if report.exit_code not in {ExitCode.DONE, ExitCode.DRAINED}:
            self._rest(job, report.reason)
        return answered + report.acked

    def _paced(self, job: OpenJob, target: Target, turn_seconds: float) -> tuple[int, Pace | None]:
        """Images answered by a probe, and how to go on; None where the job has nothing to work on now."""
        if job.job_id in self._paces:
            return 0, self._paces[job.job_id]
        if not self._probe:
            return 0, unmeasured(self._settings)
        drain = _LinkedDrain(self._drain)
        report = probed(
            target,
            self._settings,
            self._parts,
            drain,
            around=lambda real: self._turn(real, drain, job, turn_seconds),
        )
        if report.acked:
            self._paces[job.job_id] = tuned(self._settings, report)
        return report.acked, self._paces.get(job.job_id)

    def _turn(self, job: Job, drain: Drain, listed: OpenJob, turn_seconds: float) -> Turn:
        return Turn(job, drain, turn_seconds, self._rules.patience_seconds, partial(self._others_wait, listed))

    def _rest(self, job: OpenJob, reason: str) -> None:
        _log.error("Antenna job %s is left alone for %.0f s: %s", job.job_id, _REST_SECONDS, reason)
        self._rests_until[job.job_id] = time.monotonic() + _REST_SECONDS

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._drain.asked and time.monotonic() < until:
            time.sleep(_NAP_SECONDS)


class _LinkedDrain(Drain):
    """Asked when the turn of its own job is over, or when the whole worker is."""

    def __init__(self, outer: Drain) -> None:
        self._outer = outer
        super().__init__()

    @property
    def asked(self) -> bool:
        return self._asked or self._outer.asked

    @asked.setter
    def asked(self, value: bool) -> None:
        self._asked = value


def serve_open_jobs(
    settings: Settings, parts: Parts, drain: Drain, slugs: Sequence[str], *, once: bool = False, probe: bool = True
) -> int:
    """Until asked to stop, or, `once`, until a round over all open jobs finds no work."""
    return OpenJobs(settings, parts, drain, slugs, probe=probe).serve(once=once)
