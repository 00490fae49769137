"""The composition root: an assignment, a job, a fetcher and a predictor become a run and its report.

It neither reads the environment nor chooses a job or a model: the command line does.
"""

from __future__ import annotations

from tidegate.core.contract import Assignment, ProbeReport, WorkerReport
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.pipeline.settings import EngineSettings
from tidegate_worker.ports import Fetcher, Job, Predictor


def run(
    assignment: Assignment,
    job: Job,
    fetcher: Fetcher,
    predictor: Predictor,
    settings: EngineSettings,
    drain: Drain | None = None,
) -> WorkerReport:
    """Work the job until it is done, drained or hopeless; `exit_code` of the report is the process's.

    FixConfig of any port becomes exit 78 with its message as the reason; nothing is raised for what can be reported.
    """
    raise NotImplementedError


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
    """Measure on the job's own images: what is leased is processed and answered."""
    raise NotImplementedError
