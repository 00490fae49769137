"""The end of a run: proof of completion by the source's own count, the summary, and what the baseline learns of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Final

from tidegate.adapters import prophet_forecast
from tidegate.adapters.run_store import Attempt, Run, RunState, RunStore, StoredTrip
from tidegate.adapters.sources import JobCount, JobStanding
from tidegate.control.opening import baseline_key
from tidegate.core.baseline import FinishedRun
from tidegate.core.contract import GIB, ProbeReport
from tidegate.core.errors import NeedsHuman, RetryLater
from tidegate.core.remedy import RemedyKind
from tidegate.core.slot import Phase, SlotState
from tidegate.core.volume import Judgement, judge_peak

HOUR_SECONDS: Final = 3600.0
#: What the seed's operators gave a worker before anything was measured; costs are compared with it.
STATIC_LIMIT_BYTES: Final = 16 * GIB
VERIFY_DELAY_SECONDS: Final = 30.0
#: Fifteen minutes in all: the upstream saves answers after it has taken them.
VERIFY_RETRIES: Final = 30


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers, as stored and as printed; `images_redone` were in flight when a pod ended without answering."""

    run_id: str
    state: str
    images: int | None
    acked: int
    failed: int
    quarantined: int
    attempts: int
    trips: int
    resizes: int
    relaunches: int
    oom_kills: int
    limit_steps: tuple[int, ...]
    planned_bytes: int
    peak_bytes: int
    images_redone: int
    pause_seconds: float
    wall_seconds: float
    maq: float
    allocated_gib_hours: float
    static_gib_hours: float
    #: The peak held against earlier runs, in words; by the forecast only where Prophet is installed.
    peak_by_weekday: str | None = None
    peak_by_forecast: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What the pods of a run have told by now; the exporter reads it while the run goes on."""

    acked: int
    quarantined: int
    peak_bytes: int
    images_redone: int
    maq: float
    allocated_gib_hours: float


def verify(count: JobCount, states: list[SlotState]) -> str:
    """What proves that the run is complete, in words; raises where it is not, or not yet."""
    stuck = "; ".join(_stuck(state) for state in states if state.phase is not Phase.DONE)
    if count.standing is JobStanding.COMPLETE:
        # The other slots, or an earlier run, may have answered what a locked one could not.
        words = f"{count.words}: {count.done} of {count.total} answered, {count.failed or 0} as failed"
        return f"{words}; {stuck}" if stuck else words
    if stuck:
        raise NeedsHuman(stuck)
    if count.standing is JobStanding.CLOSED:
        raise NeedsHuman(f"{count.words}: {count.done} of {count.total} answered, {count.failed} failed upstream")
    raise RetryLater(
        f"{count.words}: {count.done} of {count.total} answered so far", delay_seconds=VERIFY_DELAY_SECONDS
    )


def _stuck(state: SlotState) -> str:
    """Why the slot will answer nothing more: all its tasks are over when this is asked."""
    if state.phase is Phase.LOCKED_OUT:
        return f"slot {state.slot} is locked out: {state.reason}"
    return f"slot {state.slot} was left in the middle ({state.phase}): its task was marked or failed; Clear the group"


def measure(attempts: list[Attempt], now: float) -> Measured:
    used, allocated = _memory_time(attempts, now)
    return Measured(
        acked=sum(each.report.acked for each in attempts if each.report),
        quarantined=sum(each.report.quarantined for each in attempts if each.report),
        peak_bytes=max((each.report.peak_bytes for each in attempts if each.report), default=0),
        images_redone=sum(_unanswered(each) for each in attempts),
        maq=round(used / allocated, 3) if allocated else 0.0,
        allocated_gib_hours=round(allocated, 3),
    )


def summarise(run: Run, store: RunStore, count: JobCount | None, state: RunState, now: float) -> Summary:
    attempts = store.attempts(run.run_id)
    trips = store.trips(run.run_id)
    measured = measure(attempts, now)
    running = sum((each.ended_at or now) - each.created_at for each in attempts) / HOUR_SECONDS
    return Summary(
        run_id=run.run_id,
        state=state.value,
        images=count.total if count else None,
        acked=_acked(measured, count),
        failed=sum(each.report.failed for each in attempts if each.report),
        quarantined=measured.quarantined,
        attempts=len(attempts),
        trips=len(trips),
        resizes=sum(each.remedy == RemedyKind.RESIZE for each in trips),
        relaunches=max(0, len(attempts) - len({each.slot for each in attempts})),
        oom_kills=sum(each.end == "oom" for each in attempts),
        limit_steps=_limit_steps(attempts),
        planned_bytes=run.plan.limit_bytes if run.plan else 0,
        peak_bytes=measured.peak_bytes,
        images_redone=measured.images_redone,
        pause_seconds=round(_pauses(attempts), 1),
        wall_seconds=round(now - run.created_at, 1),
        maq=measured.maq,
        allocated_gib_hours=measured.allocated_gib_hours,
        static_gib_hours=round(STATIC_LIMIT_BYTES / GIB * running, 3),
    )


def with_judged_peak(summary: Summary, run: Run, store: RunStore) -> Summary:
    """The summary with its peak held against earlier runs; a forecast takes seconds, so this is for ended runs."""
    if not summary.peak_bytes:
        return summary
    baseline = store.baseline(baseline_key(run))
    recent = baseline.recent if baseline else ()
    by_weekday = _told(judge_peak(summary.peak_bytes, run.created_at, recent))
    if not prophet_forecast.is_installed():
        return replace(summary, peak_by_weekday=by_weekday)
    by_forecast = _told(prophet_forecast.judge_peak(summary.peak_bytes, run.created_at, recent))
    return replace(summary, peak_by_weekday=by_weekday, peak_by_forecast=by_forecast)


def _told(judgement: Judgement) -> str:
    return f"{judgement.verdict}: {judgement.reason}"


def close(run: Run, store: RunStore, summary: Summary, report: ProbeReport | None, now: float) -> None:
    """Store the summary; a healthy run teaches its baseline."""
    lesson = (baseline_key(run), _lesson(run, summary, report)) if summary.state == RunState.DONE else None
    store.end_run(run.run_id, RunState(summary.state), now, json.dumps(asdict(summary)), lesson)


def _lesson(run: Run, summary: Summary, report: ProbeReport | None) -> FinishedRun:
    return FinishedRun(
        # Its beginning, as inputs and peaks are judged by: a night's run ends on another weekday.
        at=run.created_at,
        images=summary.images or summary.acked,
        runtime_seconds=summary.wall_seconds,
        oom_kills=summary.oom_kills,
        peak_bytes=summary.peak_bytes or None,
        floor_bytes=report.floor_bytes if report else None,
        image_bytes=int(report.credit_bytes.p90) if report and report.credit_bytes else None,
        largest_image_bytes=int(report.credit_bytes.max) if report and report.credit_bytes else None,
        file_bytes=int(report.file_bytes.p90) if report and report.file_bytes else None,
        growth_bytes_per_image=report.growth_bytes_per_image if report else None,
        budget_bytes=run.plan.ingest.budget_bytes if run.plan else None,
        download_seconds=report.download_seconds if report else None,
        decode_seconds=report.decode_seconds if report else None,
        infer_seconds=report.infer_seconds if report else None,
        post_seconds=report.post_seconds if report else None,
        host_to_device_seconds=report.host_to_device_seconds if report else None,
        model_load_seconds=report.model_load_seconds if report else None,
        cores=report.cores if report else None,
        has_cuda=report.has_cuda if report else None,
    )


def in_words(summary: Summary, trips: list[StoredTrip]) -> str:
    """The summary as Markdown, for the log and for those who are told; the run's page in Airflow shows the same."""
    saved = 1 - summary.allocated_gib_hours / summary.static_gib_hours if summary.static_gib_hours else 0.0
    steps = " -> ".join(f"{step / GIB:.2f}" for step in summary.limit_steps)
    lines = [
        f"# {summary.run_id}: {summary.state.replace('_', ' ')}",
        "",
        f"- images: {summary.images if summary.images is not None else 'unknown'}, answered {summary.acked},"
        f" failed {summary.failed}, quarantined {summary.quarantined}, redone {summary.images_redone}",
        f"- memory: planned {summary.planned_bytes / GIB:.2f} GiB, peak {summary.peak_bytes / GIB:.2f} GiB,"
        f" limits {steps} GiB",
        f"- pods: {summary.attempts} ({summary.relaunches} relaunches, {summary.resizes} resizes in place,"
        f" {summary.oom_kills} OOM kills), paused {summary.pause_seconds:.0f} s of {summary.wall_seconds:.0f} s",
        f"- memory time: {summary.allocated_gib_hours:.2f} GiB-hours allocated, {summary.maq:.0%} used; a static"
        f" {STATIC_LIMIT_BYTES // GIB} GiB would have held {summary.static_gib_hours:.2f} ({saved:.0%} saved)",
    ]
    judges = (("same weekday", summary.peak_by_weekday), ("forecast", summary.peak_by_forecast))
    lines += [f"- peak against the {name}: {words}" for name, words in judges if words is not None]
    for stored in trips:
        lines += [
            "",
            f"## Trip of slot {stored.trip.slot}: {stored.trip.cause}, answered by {stored.remedy}",
            *(f"- {sentence}" for sentence in stored.trip.evidence),
            f"- {stored.remedy_reason}",
        ]
    return "\n".join(lines)


def _acked(measured: Measured, count: JobCount | None) -> int:
    """The source's own count, which knows of the probe's images too; the pods' where the source is silent."""
    if count is not None and count.done is not None:
        return count.done - (count.failed or 0)
    return measured.acked


def _memory_time(attempts: list[Attempt], now: float) -> tuple[float, float]:
    """GiB-hours used (at each pod's peak) and allocated (at its limit)."""
    used = allocated = 0.0
    for each in attempts:
        hours = ((each.ended_at or now) - each.created_at) / HOUR_SECONDS
        limit = max(each.limit_bytes, each.report.limit_bytes if each.report else 0)
        used += (min(each.report.peak_bytes, limit) if each.report else 0) / GIB * hours
        allocated += limit / GIB * hours
    return used, allocated


def _limit_steps(attempts: list[Attempt]) -> tuple[int, ...]:
    """Every limit that a pod of the run has had, in order of time."""
    timed = [(each.created_at, each.limit_bytes) for each in attempts]
    timed += [(each.ended_at, each.report.limit_bytes) for each in attempts if each.report and each.ended_at]
    steps: list[int] = []
    for _, limit in sorted(timed):
        if limit and (not steps or steps[-1] != limit):
            steps.append(limit)
    return tuple(steps)


def _unanswered(attempt: Attempt) -> int:
    if attempt.report is None or attempt.end == "finished":
        return 0
    return len(attempt.report.in_flight) + attempt.report.in_flight_omitted


def _pauses(attempts: list[Attempt]) -> float:
    """Time between the end of one pod of a slot and the creation of the next."""
    total = 0.0
    last_end: dict[int, float] = {}
    for each in attempts:
        if each.slot in last_end:
            total += max(0.0, each.created_at - last_end[each.slot])
        if each.ended_at is not None:
            last_end[each.slot] = each.ended_at
    return total
