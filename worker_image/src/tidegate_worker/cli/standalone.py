"""A job without Airflow: probe, plan within this process's own limit, run; the settings are nobody's to guess."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from tidegate.core.contract import SourceKind, WorkerReport
from tidegate.core.errors import FixConfig
from tidegate_worker import app
from tidegate_worker.cli.antenna_access import antenna_api
from tidegate_worker.cli.composition import Parts, engine_settings
from tidegate_worker.cli.targets import Target
from tidegate_worker.cli.tuning import PROBE_INGEST, assign, measure, overrides, planned
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.ports import Job
from tidegate_worker.settings import Settings

_log = logging.getLogger(__name__)


def with_pipeline(target: Target, settings: Settings) -> Target:
    """`target` with its pipeline: an Antenna job knows its own."""
    if target.pipeline is not None or target.source.kind is not SourceKind.ANTENNA:
        return target
    api = antenna_api(settings)
    try:
        job = api.get(f"/jobs/{target.source.job}/", {"logs_limit": 1})
    finally:
        api.close()
    pipeline = job.get("pipeline") if isinstance(job, dict) else None
    slug = pipeline.get("slug") if isinstance(pipeline, dict) else None
    if not isinstance(slug, str):
        raise FixConfig(f"Antenna job {target.source.job} names no pipeline: give the job one, or add --pipeline SLUG")
    return replace(target, pipeline=slug)


def work(
    target: Target,
    settings: Settings,
    parts: Parts,
    drain: Drain,
    *,
    probe: bool = True,
    show_progress: bool = False,
    around: Callable[[Job], Job] = lambda job: job,
) -> WorkerReport:
    """Work one job to its end; `around` may put a watcher around the job of the run itself."""
    target = with_pipeline(target, settings)
    assert target.pipeline is not None, "a manifest's is asked for on the command line"
    loaded = parts.load(target.pipeline)
    run_id = target.run_id
    if probe:
        plan = planned(settings, measure(settings, parts, target, loaded, run_id, drain))
        for reason in plan.reasons:
            _log.info(reason)
        ingest, rate = plan.ingest, plan.images_per_second
    else:
        ingest, rate = PROBE_INGEST.model_copy(update=overrides(settings).ingest()), 0.0
    loaded.pin_memory(ingest.pin_memory)
    assignment = assign(settings, target, loaded, run_id, ingest).model_copy(update={"images_per_second": rate})
    return app.run(
        assignment,
        around(parts.job(assignment, loaded, target.output)),
        parts.fetcher(assignment),
        loaded.predictor,
        engine_settings(settings, show_progress=show_progress),
        drain,
    )
