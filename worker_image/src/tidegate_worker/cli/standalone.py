"""A job without Airflow: probe, plan within this process's own limit, run; the settings are nobody's to guess."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from tidegate.core.contract import IngestSettings, ProbeReport, SourceKind, WorkerReport
from tidegate.core.errors import FixConfig
from tidegate_worker import app
from tidegate_worker.cli.antenna_access import antenna_api
from tidegate_worker.cli.composition import Loaded, Parts, engine_settings
from tidegate_worker.cli.targets import Target
from tidegate_worker.cli.tuning import PROBE_INGEST, assign, measure, overrides, planned
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.ports import Job
from tidegate_worker.settings import Settings

_log = logging.getLogger(__name__)


def _as_it_is(job: Job) -> Job:
    return job


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


@dataclass(frozen=True, slots=True)
class Pace:
    """How a job is worked: its ingest settings, and the rate with which its leases begin."""

    ingest: IngestSettings
    images_per_second: float = 0.0

    def leasing_at_most(self, seconds: float) -> Pace:
        """The same, holding no more than so much work."""
        if not self.images_per_second:
            return self
        images = max(1, min(self.ingest.lease_images, round(self.images_per_second * seconds)))
        return replace(self, ingest=self.ingest.model_copy(update={"lease_images": images}))


def unmeasured(settings: Settings) -> Pace:
    """What the environment says, and a probe's modest settings for the rest."""
    return Pace(PROBE_INGEST.model_copy(update=overrides(settings).ingest()))


def probed(
    target: Target, settings: Settings, parts: Parts, drain: Drain, *, around: Callable[[Job], Job] = _as_it_is
) -> ProbeReport:
    """What some of the job's images cost; they are answered."""
    target, loaded = _loaded(target, settings, parts)
    return measure(settings, parts, target, loaded, target.run_id, drain, around=around)


def tuned(settings: Settings, report: ProbeReport) -> Pace:
    """What the plan makes of a probe; its reasons are logged."""
    plan = planned(settings, report)
    for reason in plan.reasons:
        _log.info(reason)
    return Pace(plan.ingest, plan.images_per_second)


def work(
    target: Target,
    settings: Settings,
    parts: Parts,
    drain: Drain,
    pace: Pace,
    *,
    show_progress: bool = False,
    around: Callable[[Job], Job] = _as_it_is,
) -> WorkerReport:
    """Work one job to its end; `around` may put a watcher around the job."""
    target, loaded = _loaded(target, settings, parts)
    loaded.pin_memory(pace.ingest.pin_memory)
    assignment = assign(settings, target, loaded, target.run_id, pace.ingest).model_copy(
        update={"images_per_second": pace.images_per_second}
    )
    return app.run(
        assignment,
        around(parts.job(assignment, loaded, target.output)),
        parts.fetcher(assignment),
        loaded.predictor,
        engine_settings(settings, show_progress=show_progress),
        drain,
    )


def _loaded(target: Target, settings: Settings, parts: Parts) -> tuple[Target, Loaded]:
    named = with_pipeline(target, settings)
    assert named.pipeline is not None, "a manifest's is asked for on the command line"
    return named, parts.load(named.pipeline)
