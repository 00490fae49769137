"""A manifest behind the Job port: chunks claimed from the ledger, answers saved in it, parts written from it.

`on_acked` follows when the ledger has committed the answer. From then on the image is never leased again and its row is
in the output once, whatever is killed: the next worker that claims its chunk finds the answer there. Leases are renewed
by a thread of this job, so tasks do not expire; a worker that was stopped for longer than a lease finds its fence
overtaken, and what it still answers for that chunk is dropped, because somebody else answers it.

Each row is answered once. The row number is the key; ids may repeat, and are carried along.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from tidegate.core.errors import FixConfig, RetryLater, TidegateError
from tidegate_worker.jobs.manifest.ledger import ClaimedChunk, Ledger, SavedAnswer
from tidegate_worker.jobs.manifest.loading import load
from tidegate_worker.jobs.manifest.output_row import output_row
from tidegate_worker.jobs.manifest.parts import Output, PartFormat
from tidegate_worker.jobs.manifest.rows import Manifest, Row
from tidegate_worker.jobs.soundness import without_flaw
from tidegate_worker.net.uris import UriRules
from tidegate_worker.ports import Answer, Failure, Fetcher, JobProgress, JobState, Task

log = logging.getLogger(__name__)

_OWNER_CHARACTERS: Final = 200
_PAUSE_SECONDS: Final = 0.5
_PAUSE_MOST_SECONDS: Final = 15.0
#: For a part that is being written; what is left of it is a successor's to write.
_CLOSE_SECONDS: Final = 10.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestLimits:
    #: The unit that one worker claims and one part holds; fixed with a job's first start.
    chunk_rows: int = 256
    #: How long others wait for a worker that is gone; a relaunched one of the same owner need not wait.
    lease_seconds: float = 60.0
    part_format: PartFormat = "jsonl"
    #: Best classes kept of each score vector.
    top_classes: int = 5
    #: At most this often is the index of an unfinished job rewritten.
    index_seconds: float = 60.0


@dataclass(slots=True)
class _Held:
    """A chunk that this worker has claimed."""

    claimed: ClaimedChunk
    to_lease: deque[int]
    #: Rows whose answers are in the ledger.
    answered: set[int]

    def row(self, number: int) -> Row:
        return self.claimed.rows[number - self.claimed.first_row]

    @property
    def complete(self) -> bool:
        return len(self.answered) == len(self.claimed.rows)


class ManifestJob:
    """One manifest job, shared with every worker that has the same ledger."""

    def __init__(
        self,
        job: str,
        manifest_uri: str,
        ledger_url: str,
        output_uri: str,
        *,
        owner: str,
        pipeline: str,
        model_version: str,
        rules: UriRules,
        http: Fetcher,
        limits: ManifestLimits | None = None,
    ) -> None:
        """`owner` names the worker's place (run and slot): whoever bears it next takes over at once what it held."""
        if not job or len(job) > 253 or not owner or len(owner) > _OWNER_CHARACTERS:
            raise FixConfig("a manifest job needs a name of 1 to 253 characters, and an owner of 1 to 200")
        self.lease_seconds = float("inf")
        self._limits = limits or ManifestLimits()
        self._job = job
        self._pipeline = pipeline
        self._model_version = model_version
        self._manifest = Manifest(manifest_uri, rules, http)
        self._output = Output(output_uri, job, self._limits.part_format)
        self._ledger = Ledger(ledger_url)
        self._place = f"{owner}#"
        self._owner = f"{self._place}{uuid.uuid4().hex}"
        self._claiming = threading.Lock()
        self._lock = threading.Lock()
        self._held: dict[int, _Held] = {}
        self._chunk_rows = self._limits.chunk_rows
        self._loaded = False
        self._rows: int | None = None
        self._answering = 0
        self._indexed_at = time.monotonic()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._keeper: threading.Thread | None = None

    def prove(self) -> None:
        """Reach the ledger and have the manifest in it; reading ten million rows takes a minute, once a job."""
        self._ledger.create()
        # Before anything is claimed: what a killed predecessor in this place held need not run out.
        if not self._held:
            self._ledger.expire(self._job, self._place)
        state = load(self._ledger, self._job, self._manifest, self._output.uri, self._limits.chunk_rows, self._owner)
        self._chunk_rows, self._rows, self._loaded = state.chunk_rows, state.rows, True
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="manifest-keeper", daemon=True)
            self._keeper.start()

    def lease(self, at_most: int) -> Sequence[Task]:
        if not self._loaded:
            self.prove()
        # One claim at a time, and none of the other calls waits for it.
        with self._claiming:
            tasks = self._from_held(at_most)
            if tasks or at_most < 1 or self._closed.is_set():
                return tasks
            claimed = self._ledger.claim(self._job, self._owner, self._limits.lease_seconds)
            if claimed is None:
                return []
            self._hold(claimed)
            return self._from_held(at_most)

    def progress(self) -> JobProgress:
        if not self._loaded:
            self.prove()
        counts = self._ledger.counts(self._job)
        if counts.open_chunks == 0 and self._index():
            return JobProgress(JobState.COMPLETE, counts.answered, self._rows)
        return JobProgress(JobState.OPEN, counts.answered, self._rows)

    def answer(self, answers: Sequence[Answer], on_acked: Callable[[Answer], None]) -> None:
        """Commit the answers; blocks while the ledger does not answer."""
        by_chunk: dict[int, list[tuple[int, Answer]]] = {}
        for answer in answers:
            number = _row_of(answer.task)
            by_chunk.setdefault(number // self._chunk_rows, []).append((number, without_flaw(answer)))
        with self._lock:
            self._answering += len(answers)
        try:
            for chunk, rows in by_chunk.items():
                for answer in self._save(chunk, rows):
                    on_acked(answer)
        finally:
            with self._lock:
                self._answering -= len(answers)
        self._wake.set()

    def outstanding(self) -> int:
        with self._lock:
            return self._answering

    def flush(self, timeout_seconds: float) -> bool:
        """Wait for the parts of the chunks that are complete; the answers themselves are durable already."""
        give_up_at = time.monotonic() + timeout_seconds
        while True:
            with self._lock:
                if not self._answering and not any(held.complete for held in self._held.values()):
                    return True
            if time.monotonic() >= give_up_at:
                return False
            self._wake.set()
            time.sleep(0.02)

    def close(self) -> None:
        """Give the held chunks back; their saved answers are a successor's."""
        self._closed.set()
        self._wake.set()
        if self._keeper is not None:
            self._keeper.join(_CLOSE_SECONDS)
        with self._lock:
            fences = {number: held.claimed.fence for number, held in self._held.items()}
            self._held.clear()
        try:
            self._ledger.release(self._job, fences)
        except TidegateError as error:
            log.warning("chunks could not be given back, their leases will run out: %s", error)
        self._ledger.close()

    def _from_held(self, at_most: int) -> list[Task]:
        tasks: list[Task] = []
        with self._lock:
            for held in self._held.values():
                while held.to_lease and len(tasks) < at_most:
                    tasks.append(self._task(held, held.to_lease.popleft()))
        return tasks

    def _task(self, held: _Held, number: int) -> Task:
        row = held.row(number)
        return Task(
            image_id=str(number) if row.name is None else f"{number}:{row.name}",
            url=row.uri,
            delivery=held.claimed.lapses + 1,
            leased_at=time.monotonic(),
        )

    def _hold(self, claimed: ClaimedChunk) -> None:
        rows = range(claimed.first_row, claimed.first_row + len(claimed.rows))
        to_lease = deque(number for number in rows if number not in claimed.answered)
        with self._lock:
            self._held[claimed.number] = _Held(claimed, to_lease, set(claimed.answered))
        if not to_lease:
            self._wake.set()

    def _save(self, chunk: int, rows: Sequence[tuple[int, Answer]]) -> list[Answer]:
        """The answers that need nothing more from here: all, once they are durable or somebody else's to give."""
        with self._lock:
            held = self._held.get(chunk)
            if held is None:
                log.warning("%d answers come after their chunk %d was done or lost here", len(rows), chunk)
                return [answer for _, answer in rows]
            new = {number: answer for number, answer in rows if number not in held.answered}
        saved = [
            SavedAnswer(
                number,
                isinstance(answer.outcome, Failure),
                output_row(
                    answer,
                    number,
                    held.row(number).name,
                    self._pipeline,
                    self._model_version,
                    self._limits.top_classes,
                ),
            )
            for number, answer in new.items()
        ]
        if saved and not self._patiently(
            lambda: self._ledger.save(self._job, chunk, held.claimed.fence, saved), "saving answers"
        ):
            self._lose({chunk})
        with self._lock:
            held.answered.update(new)
        return [answer for _, answer in rows]

    def _lose(self, chunks: set[int]) -> None:
        with self._lock:
            for number in chunks:
                if self._held.pop(number, None) is not None:
                    log.warning("chunk %d of %s was taken over by another worker", number, self._job)

    def _patiently(self, call: Callable[[], _T], what: str) -> _T:
        """`call`, repeated while the other side does not answer and this job is open."""
        pause = _PAUSE_SECONDS
        while True:
            try:
                return call()
            except RetryLater as error:
                log.warning("%s waits %.1f s: %s", what, pause, error)
                if self._closed.wait(pause):
                    raise
                pause = min(_PAUSE_MOST_SECONDS, pause * 2)

    def _keep(self) -> None:
        """Renew leases and write the parts of complete chunks until closed."""
        renewed_at = 0.0
        period = self._limits.lease_seconds / 4
        while not self._closed.is_set():
            self._wake.wait(min(period, 5.0))
            self._wake.clear()
            try:
                if time.monotonic() - renewed_at >= period:
                    self._renew()
                    renewed_at = time.monotonic()
                self._finish_complete()
            except RetryLater as error:
                log.warning("the keeper of %s tries again: %s", self._job, error)
                self._closed.wait(_PAUSE_SECONDS)

    def _renew(self) -> None:
        with self._lock:
            fences = {number: held.claimed.fence for number, held in self._held.items()}
        if fences:
            self._lose(self._ledger.renew(self._job, fences, self._limits.lease_seconds))

    def _finish_complete(self) -> None:
        with self._lock:
            complete = [(number, held.claimed.fence) for number, held in self._held.items() if held.complete]
        for number, fence in complete:
            name = self._output.write_part(number, fence, self._ledger.answers(self._job, number))
            finished = self._ledger.finish(self._job, number, fence, name)
            if not finished:
                self._output.remove_part(name)
            with self._lock:
                self._held.pop(number, None)
        if complete and time.monotonic() - self._indexed_at >= self._limits.index_seconds:
            self._index()

    def _index(self) -> bool:
        """Write the index of the parts that stand, unless the final one is written; whether it is now."""
        state = self._ledger.state(self._job)
        assert state is not None, "entered by prove"
        if state.indexed:
            return True
        facts = {"pipeline": self._pipeline, "model_version": self._model_version, "manifest_rows": state.rows}
        with self._ledger.indexing(self._job) as (parts, whole):
            self._output.write_index(self._job, parts, whole, facts)
        self._indexed_at = time.monotonic()
        return whole


def _row_of(task: Task) -> int:
    """The row number that leads every image id of a manifest job."""
    return int(task.image_id.partition(":")[0])
