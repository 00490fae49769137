"""A worker's last words where it ends before its engine begins: without them Airflow could only say that it did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tidegate.core.contract import Assignment, ProbeReport, WorkerReport
from tidegate.core.errors import TidegateError
from tidegate_worker.cgroup import find_memory
from tidegate_worker.cli.main import exit_code_of
from tidegate_worker.journal import Journal
from tidegate_worker.redact import redact
from tidegate_worker.settings import Settings

_REASON_CHARACTERS = 600


@contextmanager
def told_in_last_words(settings: Settings, assignment: Assignment) -> Iterator[None]:
    """Write what is raised here into the termination log, and raise it on."""
    try:
        yield
    except TidegateError as error:
        report = WorkerReport(
            run_id=assignment.run_id,
            slot=assignment.slot,
            generation=assignment.generation,
            phase="finished",
            exit_code=exit_code_of(error),
            reason=redact(str(error))[:_REASON_CHARACTERS],
            limit_bytes=find_memory().read().limit_bytes,
        )
        Journal(settings.storage.last_words).write(lambda: report)
        raise


def report_probe(settings: Settings, report: ProbeReport) -> None:
    """The measurements, in place of a worker's last words."""
    path = settings.storage.last_words
    if path is not None:
        path.write_text(report.to_json(), encoding="utf-8")
