"""Settings for a job from its own images: probe, then plan, within the memory that this process really has."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from tidegate.core.contract import MIB, Assignment, IngestSettings, Plan, ProbeReport
from tidegate.core.errors import FixConfig
from tidegate.core.sizing import Caps, ImageTooLarge, InsufficientEvidence, Job, Overrides, plan_run
from tidegate_worker import app
from tidegate_worker.cgroup import find_memory
from tidegate_worker.cli.composition import Loaded, Parts, engine_settings
from tidegate_worker.cli.targets import Target
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.ports import Job as JobPort
from tidegate_worker.settings import Settings

_log = logging.getLogger(__name__)

#: Learns sizes and speeds; the byte credits keep even its largest image within the limit.
PROBE_INGEST: Final = IngestSettings(
    budget_bytes=512 * MIB,
    micro_batch_images=1,
    downloads_in_flight=2,
    staged_images=4,
    staging_bytes=512 * MIB,
    decode_threads=1,
    lease_images=4,
)
DEFAULT_IMAGES: Final = 16
DEFAULT_SECONDS: Final = 30.0


def cap_bytes(settings: Settings) -> int:
    """What may be planned with: the setting, else the limit that the kernel holds this process to."""
    return settings.ingest.cap_bytes or find_memory().read().limit_bytes


def assign(settings: Settings, target: Target, loaded: Loaded, run_id: str, ingest: IngestSettings) -> Assignment:
    return Assignment(
        run_id=run_id,
        slot=0,
        generation=0,
        source=target.source,
        pipeline=loaded.predictor.pipeline,
        model_version=loaded.predictor.model_version,
        cap_bytes=cap_bytes(settings),
        ingest=ingest,
        grace_seconds=settings.ingest.grace_seconds,
    )


def measure(
    settings: Settings,
    parts: Parts,
    target: Target,
    loaded: Loaded,
    run_id: str,
    drain: Drain,
    *,
    at_most_images: int = DEFAULT_IMAGES,
    at_most_seconds: float = DEFAULT_SECONDS,
    around: Callable[[JobPort], JobPort] = lambda job: job,
) -> ProbeReport:
    """Work a few of the job's images, answer them, and say what they cost."""
    assignment = assign(settings, target, loaded, run_id, PROBE_INGEST)
    return app.probe(
        assignment,
        around(parts.job(assignment, loaded, target.output)),
        parts.fetcher(assignment),
        loaded.predictor,
        engine_settings(settings),
        drain,
        model_load_seconds=loaded.seconds,
        at_most_images=at_most_images,
        at_most_seconds=at_most_seconds,
    )


def planned(settings: Settings, report: ProbeReport) -> Plan:
    """The plan for what was measured; what a person has set stands."""
    outcome = plan_run(
        Job(
            run_id=report.run_id,
            pipeline=report.pipeline,
            model_version=report.model_version,
            now=time.time(),
            images_total=report.images_total,
        ),
        Caps(
            cap_bytes=cap_bytes(settings),
            lease_seconds=settings.antenna.antenna_lease_seconds,
            grace_seconds=settings.ingest.grace_seconds,
        ),
        report,
        overrides=overrides(settings),
    )
    match outcome:
        case InsufficientEvidence():
            _log.warning(outcome.reason)
            return outcome.plan
        case ImageTooLarge():
            if outcome.plan is None:
                raise FixConfig(outcome.reason)
            _log.warning(outcome.reason)
            return outcome.plan
    return outcome


def overrides(settings: Settings) -> Overrides:
    """What the environment fixes; the limit is the kernel's, and the plan must live within it."""
    ingest = settings.ingest
    return Overrides(
        budget_bytes=ingest.budget_bytes,
        micro_batch_images=ingest.micro_batch_images,
        downloads_in_flight=ingest.downloads_in_flight,
        staged_images=ingest.staged,
        staging_bytes=ingest.staging_bytes,
        decode_threads=ingest.decode_threads,
        lease_images=ingest.lease_images,
        pin_memory=ingest.pin_memory,
        one_at_a_time=ingest.one_at_a_time,
    )
