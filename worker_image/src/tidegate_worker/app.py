"""The composition root: an assignment, a job, a fetcher and a predictor become a run and its report.

It neither reads the environment nor chooses a job or a model: the command line does.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import torch

from tidegate.core.contract import Assignment, ExitCode, ProbeReport, WorkerReport
from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker import allocator
from tidegate_worker.cgroup import cpu_cores, find_memory
from tidegate_worker.engine import Engine
from tidegate_worker.journal import Journal
from tidegate_worker.metrics import MetricsServer
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.pipeline.settings import EngineSettings
from tidegate_worker.ports import Fetcher, Job, Predictor
from tidegate_worker.probing import ProbeRun
from tidegate_worker.progress import ProgressBar
from tidegate_worker.redact import redact
from tidegate_worker.stages.leasing import Ending, Quota

#: A probe's peak is what limits are made of; a reading costs a tenth of a millisecond.
_PROBE_GATE_SECONDS: Final = 0.02

_log = logging.getLogger(__name__)


def prepare_process() -> None:
    """Bounds on malloc and threads, room for file handles. Before models are loaded: arenas are never closed again."""
    allocator.tune()
    torch.set_num_threads(max(1, int(cpu_cores())))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(
    assignment: Assignment,
    job: Job,
    fetcher: Fetcher,
    predictor: Predictor,
    settings: EngineSettings,
    drain: Drain | None = None,
) -> WorkerReport:
    """Work the job until it is done, drained or hopeless; `exit_code` of the report is the process's.

    FixConfig of any port becomes exit 78 with its message as the reason. Only bugs are raised.
    """
    prepare_process()
    journal = Journal(settings.termination_log)
    engine: Engine | None = None
    try:
        engine = Engine(assignment, job, fetcher, predictor, settings, drain or Drain(), find_memory(), journal)
        with _shown(engine, settings):
            ending = engine.run()
    except FixConfig as error:
        ending = Ending(ExitCode.CONFIGURATION, redact(str(error)))
        _log.error("a setting must be changed: %s", ending.reason)
    report = engine.report(ending) if engine is not None else _report_without_engine(assignment, ending)
    journal.write(lambda: report)
    return report


def probe(
    assignment: Assignment,
    job: Job,
    fetcher: Fetcher,
    predictor: Predictor,
    settings: EngineSettings,
    drain: Drain | None = None,
    *,
    model_load_seconds: float = 0.0,
    at_most_images: int = 16,
    at_most_seconds: float = 30.0,
) -> ProbeReport:
    """Measure on the job's own images: what is leased is processed and answered.

    FixConfig is raised; RetryLater where the job's owner could not be reached.
    """
    prepare_process()
    quota = Quota(images=at_most_images, seconds=at_most_seconds)
    # A probe dies of a poisonous image as any worker does, and must name it.
    journal = Journal(settings.termination_log)
    engine = Engine(
        assignment,
        job,
        fetcher,
        predictor,
        settings,
        drain or Drain(),
        find_memory(),
        journal,
        quota=quota,
        first_alone=at_most_images // 2,
        gate_seconds=_PROBE_GATE_SECONDS,
    )
    with _shown(engine, settings):
        measured = ProbeRun(engine)
        ending = engine.run()
    # The measurements take the place of what it told of images in flight.
    journal.close()
    if ending.exit_code is ExitCode.UPSTREAM_UNAVAILABLE:
        raise RetryLater(ending.reason)
    return measured.report(model_load_seconds)


@contextmanager
def _shown(engine: Engine, settings: EngineSettings) -> Iterator[None]:
    """Metrics for Prometheus, a bar for a terminal."""
    with ExitStack() as stack:
        if settings.metrics_port is not None:
            server = MetricsServer(engine, settings.node, settings.metrics_address, settings.metrics_port)
            stack.callback(server.close)
        if settings.show_progress:
            stack.enter_context(ProgressBar(engine))
        yield


def _report_without_engine(assignment: Assignment, ending: Ending) -> WorkerReport:
    return WorkerReport(
        run_id=assignment.run_id,
        slot=assignment.slot,
        generation=assignment.generation,
        phase="finished",
        exit_code=ending.exit_code,
        reason=ending.reason[:600],
    )
