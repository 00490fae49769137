"""From what was measured to the memory and ingest settings of a pod, with the reasons in words.

Covers request and limit, the byte budget, the ingest settings, leases, grace and the curve of images/s over memory;
what one image costs is `workload`, how many in flight help is `throughput`, the next limit after a trip is `remedy`.

A limit is derived so that the inlet gate, which closes at 0.80 of it and opens at 0.70, stays open in steady state:

    limit = max((floor + growth + pinned + budget) / 0.70, (floor + largest image) / 0.80, peak / 0.80)

with the budget at saturation and the peak that a probe reached, or that earlier runs forecast. Above that more memory
buys no image; under the cap less of it costs images, not the job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Final, Literal, NamedTuple

from tidegate.core.baseline import Baseline
from tidegate.core.contract import GIB, MIB, CurvePoint, IngestSettings, Plan, ProbeReport
from tidegate.core.errors import ContractMismatch, FixConfig
from tidegate.core.headroom import EndedRun, HeadroomPolicy, forecast_limit_bytes
from tidegate.core.leasing import LEAST_GRACE_SECONDS, Leases, plan_leases
from tidegate.core.remedy import GATE_RATIO, LIMIT_STEP_BYTES
from tidegate.core.throughput import Saturation, rate_with, saturate
from tidegate.core.volume import usual_peak
from tidegate.core.workload import Workload, from_baseline, from_both, from_report

GATE_OPENS_RATIO: Final = 0.70
CURVE_LIMITS: Final = tuple(size * GIB for size in (1, 2, 4, 8, 16))

#: Where nothing is known: full-size camera images one at a time, on the public models, peaked at 3.4 GB.
_UNKNOWN_LIMIT_BYTES: Final = 4 * GIB
_UNKNOWN_ROOM_BYTES: Final = 1 * GIB
_UNKNOWN_STAGING_BYTES: Final = 512 * MIB
#: A leak is answered by recycling, which is cheaper than RAM; only this share of the need is bought for it.
_GROWTH_SHARE: Final = 0.10
_UNKNOWN_RUN_IMAGES: Final = 10_000
#: Copying to the device is worth pinned pages only when it is a material share of the device's time.
_MATERIAL_COPY_SHARE: Final = 0.10
_BUFFERS_PINNED: Final = 2
#: The worker's own gate makes kills rare, and it resumes after the last ack: one is worth far less than a mean run.
_WORKER_KILLS: Final = HeadroomPolicy(first_price_runs=0.1)
#: Pulling a worker image of several GB on a fresh node; loading is added as measured, with slack for a cold disk.
_PULL_SECONDS: Final = 300.0
_LOAD_SLACK: Final = 4.0


@dataclass(frozen=True, slots=True)
class Job:
    """The run that a plan is for; `now` decides whether its baseline is stale."""

    run_id: str
    pipeline: str
    model_version: str
    now: float
    images_total: int | None = None


@dataclass(frozen=True, slots=True)
class Caps:
    """What the administrator and the source allow."""

    cap_bytes: int
    staging_bytes: int = 10 * GIB
    #: How long the source keeps a lease; a task that is not answered by then is delivered again.
    lease_seconds: float = 300.0
    grace_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name, least in (
            ("cap_bytes", LIMIT_STEP_BYTES),
            ("staging_bytes", MIB),
            ("lease_seconds", 1.0),
            ("grace_seconds", LEAST_GRACE_SECONDS),
        ):
            value = getattr(self, name)
            if not value >= least or math.isinf(value):
                raise FixConfig(f"{name} is {value}; set it to at least {least}")


@dataclass(frozen=True, slots=True)
class Overrides:
    """Settings that a person fixed for this run; they stand as they are, and the reasons say what they cost."""

    limit_bytes: int | None = None
    budget_bytes: int | None = None
    micro_batch_images: int | None = None
    downloads_in_flight: int | None = None
    staged_images: int | None = None
    staging_bytes: int | None = None
    decode_threads: int | None = None
    lease_images: int | None = None
    pin_memory: bool | None = None
    one_at_a_time: bool | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and not isinstance(value, bool) and value < 1:
                raise FixConfig(f"{each.name} is {value}; set it to at least 1, or leave it out to have it planned")

    def ingest(self) -> dict[str, int | bool]:
        """The fixed ingest settings by their names in IngestSettings."""
        chosen = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "limit_bytes"}
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True, slots=True)
class InsufficientEvidence:
    """Nothing measured says what this job needs; `plan` is safe, slow, and worth replacing by a probe."""

    plan: Plan
    reason: str


@dataclass(frozen=True, slots=True)
class ImageTooLarge:
    """The largest image cannot be admitted under the cap; `plan` runs the others, and is absent where none can run."""

    wanted_bytes: int
    plan: Plan | None
    reason: str


def plan_run(
    job: Job,
    caps: Caps,
    report: ProbeReport | None = None,
    baseline: Baseline | None = None,
    overrides: Overrides | None = None,
) -> Plan | InsufficientEvidence | ImageTooLarge:
    """The plan for `job` from a probe, from settled baselines, from both, or a safe default that says it is one."""
    _same_job(job, report, baseline)
    overrides = overrides or Overrides()
    peaks = _peaks(job, baseline)
    probed = from_report(report) if report is not None else None
    usual = from_baseline(baseline) if baseline is not None and baseline.healthy_runs else None
    if probed is not None and usual is not None:
        return _plan(job, caps, overrides, peaks, from_both(probed, usual), "probe+baseline")
    if probed is not None:
        return _plan(job, caps, overrides, peaks, probed, "probe")
    if usual is not None and baseline is not None and baseline.settled(job.now):
        seen = replace(usual, peak_bytes=_forecast_peak(job, caps, baseline))
        return _plan(job, caps, overrides, peaks, seen, "baseline")
    return _default(job, caps, overrides, peaks, report, baseline)


class _Peaks(NamedTuple):
    """What comparable healthy runs have come to: the usual peak and how far peaks scatter."""

    usual_bytes: int = 0
    spread_bytes: int = 0


def _peaks(job: Job, baseline: Baseline | None) -> _Peaks:
    usual = usual_peak(job.now, baseline.recent) if baseline is not None else None
    if usual is None:
        return _Peaks()
    return _Peaks(round(usual.median_bytes), round(usual.median_bytes * usual.log_spread))


def _forecast_peak(job: Job, caps: Caps, baseline: Baseline) -> int:
    """What earlier runs say of this one's peak; it corrects a model of images that has come out too low."""
    runs = [
        EndedRun(sample.images, sample.peak_bytes, sample.runtime_seconds)
        for sample in baseline.recent
        if sample.peak_bytes
    ]
    return math.ceil(forecast_limit_bytes(runs, job.images_total or 0, caps.cap_bytes, _WORKER_KILLS)) if runs else 0


def _plan(
    job: Job,
    caps: Caps,
    overrides: Overrides,
    peaks: _Peaks,
    work: Workload,
    evidence: Literal["probe", "baseline", "probe+baseline"],
) -> Plan | ImageTooLarge:
    full = saturate(work, overrides.micro_batch_images)
    memory = _memory(job, caps, overrides, work, full)
    alone = (work.floor_bytes + work.largest_image_bytes) / GATE_RATIO
    wanted, too_large = _round_up(alone), alone > caps.cap_bytes
    if work.floor_bytes + work.typical_image_bytes >= caps.cap_bytes:
        return ImageTooLarge(
            wanted,
            None,
            f"models and one typical image need {_size(work.floor_bytes + work.typical_image_bytes)}, the cap is"
            f" {_size(caps.cap_bytes)}: raise the cap to {_size(wanted)} or use a smaller model",
        )
    rate = rate_with(work, full, memory.budget_bytes)
    leases = plan_leases(work, full, rate, caps.lease_seconds, caps.grace_seconds, overrides.lease_images)
    ingest = _ingest(caps, overrides, work, full, memory, leases)
    upper = work.floor_bytes + memory.growth_bytes + memory.pinned_bytes
    upper += max(ingest.budget_bytes, work.largest_image_bytes)
    in_flight = min(full.budget_bytes // work.image_bytes, max(1, ingest.budget_bytes // work.image_bytes))
    plan = Plan(
        run_id=job.run_id,
        pipeline=job.pipeline,
        model_version=job.model_version,
        limit_bytes=memory.limit_bytes,
        cap_bytes=caps.cap_bytes,
        floor_bytes=work.floor_bytes,
        lower_bytes=work.floor_bytes,
        target_bytes=min(upper, work.floor_bytes + in_flight * work.typical_image_bytes),
        upper_bytes=upper,
        ingest=ingest,
        grace_seconds=leases.grace_seconds,
        startup_seconds=_PULL_SECONDS + math.ceil(_LOAD_SLACK * work.model_load_seconds),
        images_per_second=rate,
        images_total=job.images_total,
        baseline_velocity_bytes_per_second=work.growth_bytes_per_image * rate,
        usual_peak_bytes=peaks.usual_bytes,
        usual_peak_spread_bytes=peaks.spread_bytes,
        curve=_curve(work, full, memory),
        evidence=evidence,
        reasons=(*memory.reasons, *leases.reasons, *_ingest_reasons(work, full, ingest, overrides)),
    )
    if not too_large:
        return plan
    return ImageTooLarge(
        wanted,
        plan,
        f"the largest image needs {_size(work.largest_image_bytes)} beside {_size(work.floor_bytes)} of models, a limit"
        f" of {_size(wanted)}; the cap is {_size(caps.cap_bytes)}: raise it, or that image is quarantined",
    )


@dataclass(frozen=True, slots=True)
class _Memory:
    limit_bytes: int
    budget_bytes: int
    growth_bytes: int
    pinned_bytes: int
    one_at_a_time: bool
    pin_memory: bool
    reasons: tuple[str, ...]


def _memory(job: Job, caps: Caps, overrides: Overrides, work: Workload, full: Saturation) -> _Memory:
    copy_share = work.host_to_device_seconds / work.infer_seconds if work.infer_seconds else 0.0
    pin = work.has_cuda and copy_share >= _MATERIAL_COPY_SHARE
    pin = pin if overrides.pin_memory is None else overrides.pin_memory
    pinned = _BUFFERS_PINNED * full.batch_bytes if pin else 0
    wanted_budget = overrides.budget_bytes or full.budget_bytes
    growth_in_run = work.growth_bytes_per_image * (job.images_total or _UNKNOWN_RUN_IMAGES)
    growth = min(growth_in_run, math.ceil(_GROWTH_SHARE * (work.floor_bytes + wanted_budget)))
    used = work.floor_bytes + growth + pinned
    needs = {
        f"{_size(work.floor_bytes)} of models, {_size(growth)} of growth, {_size(pinned)} pinned and a budget of"
        f" {_size(wanted_budget)} within 0.70 of the limit": (used + wanted_budget) / GATE_OPENS_RATIO,
        f"models and the largest image ({_size(work.largest_image_bytes)}) within 0.80 of the limit": (
            (work.floor_bytes + work.largest_image_bytes) / GATE_RATIO
        ),
        f"a peak of {_size(work.peak_bytes)}, measured or forecast, within 0.80 of the limit": work.peak_bytes
        / GATE_RATIO,
    }
    cause, need = max(needs.items(), key=lambda item: item[1])
    limit, reasons = _limit(caps, overrides, _round_up(need), cause)
    room = math.floor(GATE_OPENS_RATIO * limit) - used
    budget = overrides.budget_bytes or min(full.budget_bytes, room)
    alone = budget < work.image_bytes if overrides.one_at_a_time is None else overrides.one_at_a_time
    if budget < full.budget_bytes:
        reasons.append(
            f"the budget is {_size(max(0, budget))} of the {_size(full.budget_bytes)} that would saturate the worker:"
            " slower, not unsafe; the curve shows what more memory buys"
        )
    if budget > room:
        reasons.append(
            f"the fixed budget exceeds the {_size(max(0, room))} beside the models: the gate will close at times"
        )
    if (work.floor_bytes + work.largest_image_bytes) / GATE_RATIO > limit:
        reasons.append("the largest image measured does not fit this limit: it is parked until the limit is raised")
    if alone:
        reasons.append("one image at a time: the room beside the models is less than an image at p90 needs")
    return _Memory(limit, max(budget, work.typical_image_bytes), growth, pinned, alone, pin, tuple(reasons))


def _limit(caps: Caps, overrides: Overrides, need: int, cause: str) -> tuple[int, list[str]]:
    """The limit and why; a limit that a person gave stands, even a tight one, for the breaker can raise it."""
    if overrides.limit_bytes is not None:
        limit = min(overrides.limit_bytes, caps.cap_bytes)
        reasons = [f"limit {_size(limit)}: given by a person; the measured need is {_size(need)} ({cause})"]
        if limit < overrides.limit_bytes:
            reasons.append(f"{_size(overrides.limit_bytes)} were asked for, the cap is {_size(caps.cap_bytes)}")
        return limit, reasons
    if need > caps.cap_bytes:
        return caps.cap_bytes, [f"limit {_size(caps.cap_bytes)}: the cap; the measured need is {_size(need)} ({cause})"]
    return need, [f"limit {_size(need)}: {cause}"]


def _ingest(
    caps: Caps, overrides: Overrides, work: Workload, full: Saturation, memory: _Memory, leases: Leases
) -> IngestSettings:
    staged = full.staged_images
    if work.file_bytes:
        staged = min(staged, max(1, caps.staging_bytes // work.file_bytes))
    staged = min(staged, leases.images)
    batch = 1 if memory.one_at_a_time else min(full.micro_batch_images, max(1, memory.budget_bytes // work.image_bytes))
    planned = IngestSettings(
        budget_bytes=memory.budget_bytes,
        micro_batch_images=batch,
        downloads_in_flight=min(full.downloads_in_flight, leases.images),
        staged_images=staged,
        # One more than is staged: the file being decoded leaves the disk only after its answer.
        staging_bytes=min(caps.staging_bytes, max(_UNKNOWN_STAGING_BYTES, 2 * (staged + 1) * work.file_bytes)),
        decode_threads=1 if memory.one_at_a_time else full.decode_threads,
        lease_images=leases.images,
        pin_memory=memory.pin_memory,
        one_at_a_time=memory.one_at_a_time,
    )
    return planned.model_copy(update=overrides.ingest())


def _ingest_reasons(work: Workload, full: Saturation, ingest: IngestSettings, overrides: Overrides) -> tuple[str, ...]:
    share = work.download_seconds / work.infer_seconds if work.infer_seconds else 0.0
    reasons = [
        f"a budget of {_size(full.budget_bytes)} saturates: {full.images_per_second:.2f} images/s, bound by"
        f" {full.bottleneck}, with {full.budget_bytes / work.image_bytes:.1f} images of {_size(work.image_bytes)} (p90)"
        " between admission and answer",
        f"a download takes {share:.1f} times as long as inference: {ingest.downloads_in_flight} downloads in flight,"
        f" {ingest.staged_images} images staged on disk",
        f"pinned memory {'on' if ingest.pin_memory else 'off'}: copies to the device take"
        f" {work.host_to_device_seconds * 1000:.0f} ms of {work.infer_seconds * 1000:.0f} ms an image"
        if work.has_cuda
        else "pinned memory off: no CUDA device"
        if not ingest.pin_memory
        else "pinned memory on: as a person asked",
    ]
    if chosen := overrides.ingest():
        reasons.append("fixed by a person: " + ", ".join(f"{name} = {value}" for name, value in chosen.items()))
    return tuple(reasons)


def _curve(work: Workload, full: Saturation, memory: _Memory) -> tuple[CurvePoint, ...]:
    used = work.floor_bytes + memory.growth_bytes + memory.pinned_bytes
    points = []
    for limit in CURVE_LIMITS:
        room = GATE_OPENS_RATIO * limit - used
        # One image may always run alone, up to where the gate closes.
        if work.floor_bytes + work.typical_image_bytes <= GATE_RATIO * limit:
            room = max(room, work.typical_image_bytes)
        points.append(CurvePoint(limit_bytes=limit, images_per_second=rate_with(work, full, room)))
    return tuple(points)


def _default(
    job: Job,
    caps: Caps,
    overrides: Overrides,
    peaks: _Peaks,
    report: ProbeReport | None,
    baseline: Baseline | None,
) -> InsufficientEvidence:
    floor = report.floor_bytes if report is not None else 0
    need = _round_up(max(_UNKNOWN_LIMIT_BYTES, (floor + _UNKNOWN_ROOM_BYTES) / GATE_OPENS_RATIO))
    limit, reasons = _limit(caps, overrides, need, "nothing measured; room for one large camera image")
    missing = "no probe" if report is None else f"the probe measured {report.images_measured} images and no credits"
    if baseline is not None and baseline.healthy_runs:
        missing += f", {baseline.healthy_runs} healthy runs are too few, too old or lack measurements"
    reason = f"{missing}: one image at a time until something is known"
    room = max(1, math.floor(GATE_OPENS_RATIO * limit) - floor)
    ingest = IngestSettings(
        budget_bytes=room,
        micro_batch_images=1,
        downloads_in_flight=1,
        staged_images=1,
        staging_bytes=min(caps.staging_bytes, _UNKNOWN_STAGING_BYTES),
        decode_threads=1,
        lease_images=1,
        one_at_a_time=True,
    ).model_copy(update=overrides.ingest())
    plan = Plan(
        run_id=job.run_id,
        pipeline=job.pipeline,
        model_version=job.model_version,
        limit_bytes=limit,
        cap_bytes=caps.cap_bytes,
        floor_bytes=floor,
        lower_bytes=floor,
        target_bytes=floor,
        upper_bytes=max(floor, math.floor(GATE_RATIO * limit)),
        ingest=ingest,
        grace_seconds=caps.grace_seconds,
        startup_seconds=2 * _PULL_SECONDS,
        images_per_second=0.0,
        images_total=job.images_total,
        usual_peak_bytes=peaks.usual_bytes,
        usual_peak_spread_bytes=peaks.spread_bytes,
        evidence="default",
        reasons=(reason, *reasons),
    )
    return InsufficientEvidence(plan, reason)


def _same_job(job: Job, report: ProbeReport | None, baseline: Baseline | None) -> None:
    """Evidence of another run, pipeline or model would size the wrong thing without a word."""
    claims: list[tuple[str, str, str, str]] = []
    if report is not None:
        claims += [("ProbeReport", name, getattr(report, name), getattr(job, name)) for name in ("run_id",)]
        claims += [("ProbeReport", name, getattr(report, name), getattr(job, name)) for name in _JOB_FIELDS]
    if baseline is not None:
        claims += [("Baseline", f"key.{name}", getattr(baseline.key, name), getattr(job, name)) for name in _JOB_FIELDS]
    for payload, name, found, expected in claims:
        if found != expected:
            raise ContractMismatch(payload, name, f"is {found!r}, the job to plan has {expected!r}")


_JOB_FIELDS: Final = ("pipeline", "model_version")


def _round_up(size: float) -> int:
    return max(1, math.ceil(size / LIMIT_STEP_BYTES)) * LIMIT_STEP_BYTES


def _size(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
