"""One run: the stages put together, started, watched and brought to an end.

Whatever ends a run (job complete, SIGTERM, failure budget, upstream away), it ends the same way: nothing more is
leased, what is leased is answered as far as the grace period goes, what is left is in the report.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import Final

from tidegate.core.contract import LAST_DELIVERY, Assignment, ExitCode, WorkerReport
from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker import allocator
from tidegate_worker.cgroup import MemoryView, own_bytes
from tidegate_worker.journal import Journal
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.pipeline.flow import Flow
from tidegate_worker.pipeline.inlet import Inlet
from tidegate_worker.pipeline.lease import Ledger, Place, journal_entries, journal_id
from tidegate_worker.pipeline.runtime import Crew, Stage
from tidegate_worker.pipeline.settings import EngineSettings
from tidegate_worker.pipeline.timing import Timing
from tidegate_worker.policy.backoff import delay_seconds
from tidegate_worker.ports import Failure, Fetcher, Job, JobProgress, Predictor
from tidegate_worker.redact import redact
from tidegate_worker.stages.decode import Decode
from tidegate_worker.stages.download import Download
from tidegate_worker.stages.infer import Infer
from tidegate_worker.stages.leasing import Ending, Leasing, Quota
from tidegate_worker.stages.nvjpeg import DecodeOnDevice
from tidegate_worker.stages.post import Post
from tidegate_worker.staging import Staging

_log = logging.getLogger(__name__)

GATE_SECONDS: Final = 0.2
_STEP_SECONDS: Final = 0.05
#: Leased and not in flight yet.
_AHEAD: Final = (Place.QUEUED, Place.STAGED, Place.PARKED)
#: Kept of the grace period for the report and the exit itself.
_EXIT_SECONDS: Final = 5.0
_JOIN_SECONDS: Final = 2.0


class Engine:
    def __init__(
        self,
        assignment: Assignment,
        job: Job,
        fetcher: Fetcher,
        predictor: Predictor,
        settings: EngineSettings,
        drain: Drain,
        memory: MemoryView,
        journal: Journal,
        quota: Quota | None = None,
        first_alone: int = 0,
        gate_seconds: float = GATE_SECONDS,
    ) -> None:
        ingest = assignment.ingest
        self.assignment = assignment
        self.job = job
        self.predictor = predictor
        self.memory = memory
        self.timing = Timing()
        self.ledger = Ledger()
        self.journal = journal
        self.staging = Staging(settings.staging_dir, ingest.staging_bytes, ingest.staged_images)
        # What loading the models left free in the arenas is no floor.
        allocator.trim()
        self.inlet = Inlet(
            assignment,
            memory.read,
            allocator.trim,
            lambda: self.ledger.tally().acked,
            own_bytes=own_bytes(),
            first_alone=first_alone,
        )
        self.flow = Flow(self.ledger, self.staging, self.inlet, self.timing)
        self._settings = settings
        self._drain = drain
        self._gate_seconds = gate_seconds
        self._patience_seconds = assignment.grace_seconds - _EXIT_SECONDS
        if quota is not None:
            self._patience_seconds = min(self._patience_seconds, quota.seconds)
        self._ended = threading.Event()
        self._ending: Ending | None = None
        self._leasing_error: BaseException | None = None
        self._leasing = Leasing(self.flow, job, assignment, settings, drain, quota)
        flow = self.flow
        download = Download(flow, fetcher, predictor, settings)
        decode = Decode(flow, predictor, self.write_journal, assignment.cap_bytes)
        infer = Infer(flow, predictor)
        post = Post(flow, job)
        self.crew = Crew(
            (
                Stage("download", ingest.downloads_in_flight, flow.intake.take, download.work, flow.intake.__len__),
                self._decode_stage(decode, settings),
                Stage(
                    "infer",
                    1,
                    lambda: flow.decoded.take(ingest.micro_batch_images),
                    infer.work,
                    flow.decoded.__len__,
                ),
                Stage(
                    "post",
                    1,
                    lambda: flow.answers.take(ingest.micro_batch_images),
                    post.work,
                    flow.answers.__len__,
                ),
            )
        )

    def _decode_stage(self, decode: Decode, settings: EngineSettings) -> Stage:
        ingest = self.assignment.ingest
        if settings.nvjpeg and self.predictor.device.type == "cuda":
            on_device = DecodeOnDevice(decode, self.predictor.device)
            take = partial(self.inlet.take_batch, ingest.micro_batch_images)
            return Stage("decode", ingest.decode_threads, take, on_device.work, self.inlet.__len__)
        return Stage("decode", ingest.decode_threads, self.inlet.take, decode.work, self.inlet.__len__)

    def run(self) -> Ending:
        """Until the end; FixConfig and bugs are raised after everything is stopped."""
        try:
            return self._prove() or self._work()
        finally:
            self._ended.set()
            self._stop()

    def report(self, ending: Ending | None = None) -> WorkerReport:
        """The state in the words of the contract: what is in memory while running, what is left behind at the end."""
        tally = self.ledger.tally()
        memory = self.inlet.memory()
        listed = self.ledger.held(Place.IN_FLIGHT) if ending is None else self.ledger.held()
        return WorkerReport(
            run_id=self.assignment.run_id,
            slot=self.assignment.slot,
            generation=self.assignment.generation,
            phase="running" if ending is None else "finished",
            exit_code=None if ending is None else ending.exit_code,
            reason="" if ending is None else redact(ending.reason)[:600],
            acked=tally.acked,
            failed=tally.failed,
            quarantined=tally.quarantined,
            redelivered=tally.redelivered,
            in_flight=journal_entries(listed),
            held_last=tuple(
                journal_id(lease.task)
                for lease in (self.ledger.held(*_AHEAD) if ending is None else ())
                if lease.task.delivery >= LAST_DELIVERY
            ),
            limit_bytes=memory.reading.limit_bytes,
            floor_bytes=memory.floor_bytes,
            peak_bytes=memory.peak_bytes,
            growth_bytes_per_image=memory.growth_bytes_per_image,
            wanted_bytes=memory.wanted_bytes,
            gate_closed_seconds=round(memory.gate.closed_seconds, 1),
            job_complete=ending is not None and ending.complete,
        )

    @property
    def progress(self) -> JobProgress | None:
        """The job's own count as it was last asked for."""
        return self._leasing.progress

    def write_journal(self) -> None:
        self.journal.write(self.report)

    def _prove(self) -> Ending | None:
        """The job is there and may be worked, or why not."""
        started_at = time.monotonic()
        failures = 0
        while True:
            if self._drain.asked:
                return Ending(ExitCode.DRAINED, self._drain.reason)
            try:
                self.job.prove()
            except RetryLater as error:
                failures += 1
                silent_seconds = time.monotonic() - started_at
                if silent_seconds > self._settings.upstream_silence_seconds:
                    return Ending(ExitCode.UPSTREAM_UNAVAILABLE, f"no answer for {silent_seconds:.0f} s: {error}")
                _log.warning("the job cannot be opened yet: %s", error)
                self._pause(delay_seconds(failures, error.delay_seconds, 0.5))
            else:
                return None

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._drain.asked:
            time.sleep(_STEP_SECONDS)

    def _work(self) -> Ending:
        self.write_journal()
        threading.Thread(target=self._watch, name="gate", daemon=True).start()
        self.crew.start()
        threading.Thread(target=self._lease, name="lease", daemon=True).start()
        ending = self._until_called_off()
        _log.info("no more leases: %s", ending.reason, extra={"held": self.ledger.count()})
        self._until_answered()
        return self._ending or ending

    def _lease(self) -> None:
        try:
            self._ending = self._leasing.run()
        except BaseException as error:  # noqa: BLE001  # a thread's error would vanish with it
            self._leasing_error = error

    def _until_called_off(self) -> Ending:
        while self._ending is None:
            self._raise_failure()
            if self._drain.asked:
                # Not left to the leasing thread: its call may hang longer than the grace period.
                return Ending(ExitCode.DRAINED, self._drain.reason)
            time.sleep(_STEP_SECONDS)
        return self._ending

    def _until_answered(self) -> None:
        deadline = time.monotonic() + self._patience_seconds
        if self._drain.asked:
            for lease in self.inlet.drain():
                self.flow.fetch(lease)
        while time.monotonic() < min(deadline, self._drain_deadline()):
            self._raise_failure()
            self._give_up_parked()
            at_work = self.ledger.count(Place.QUEUED, Place.STAGED, Place.IN_FLIGHT, Place.ANSWERED)
            if self._ending is not None and not at_work and not self.job.outstanding():
                return
            time.sleep(_STEP_SECONDS)

    def _drain_deadline(self) -> float:
        return self._drain.asked_at + self.assignment.grace_seconds - _EXIT_SECONDS

    def _raise_failure(self) -> None:
        failure = self._leasing_error or self.crew.failure
        if failure is not None:
            raise failure

    def _give_up_parked(self) -> None:
        """A parked image comes again to a successor; if this was its last delivery, its failure is said now."""
        for lease in self.inlet.withdraw(lambda lease: lease.place is Place.PARKED and lease.task.last_delivery):
            self.flow.answer(lease, Failure("it needs a larger memory limit than the worker had at its last delivery"))

    def _watch(self) -> None:
        """The gate's own clock: no stage can hold it up."""
        last = time.monotonic()
        while not self._ended.wait(self._gate_seconds):
            now = time.monotonic()
            try:
                for lease in self.inlet.observe(now - last):
                    self.flow.fetch(lease)
                self.write_journal()
            except OSError as error:
                _log.error("memory could not be read: %s", error)
            last = now

    def _stop(self) -> None:
        try:
            self.job.flush(max(0.0, min(self._drain_deadline() - time.monotonic(), self.assignment.grace_seconds)))
        except (RetryLater, FixConfig) as error:
            _log.error("answers are left behind: %s", error)
        self.flow.close()
        if not self.crew.join(_JOIN_SECONDS):
            _log.warning("some threads are still at work and are left behind")
        self.job.close()
        self.staging.close()
