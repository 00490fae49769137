"""From a probe's report and the baseline to the stored plan and the first state of each slot."""

from __future__ import annotations

from dataclasses import replace

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.run_store import Run, RunStore
from tidegate.control.opening import baseline_key
from tidegate.control.runs import Request
from tidegate.core.contract import GIB, Plan, ProbeReport
from tidegate.core.errors import NeedsHuman
from tidegate.core.sizing import Caps, ImageTooLarge, InsufficientEvidence, Job, Overrides, plan_run
from tidegate.core.slot import SlotState


def plan(
    store: RunStore, run: Run, report: ProbeReport | None, total: int | None, now: float, configuration: Configuration
) -> Plan:
    """Plan the run and save it; a run that was planned before keeps its plan and what its slots have learned."""
    if run.plan is not None and store.slots(run.run_id):
        return run.plan
    request = Request.from_json(run.request)
    if report is not None:
        run = replace(run, model_version=report.model_version)
    baseline = store.baseline(baseline_key(run))
    cap = request.cap_bytes or configuration.cap_bytes
    outcome = plan_run(
        Job(run.run_id, run.pipeline, run.model_version, now, total),
        Caps(cap, configuration.staging_bytes, configuration.lease_seconds, configuration.grace_seconds),
        report,
        baseline,
        Overrides(limit_bytes=request.limit_bytes),
    )
    made = outcome if isinstance(outcome, Plan) else outcome.plan
    if made is None:
        assert isinstance(outcome, ImageTooLarge)
        raise NeedsHuman(outcome.reason)
    if isinstance(outcome, InsufficientEvidence | ImageTooLarge):
        made = made.model_copy(update={"reasons": (outcome.reason, *made.reasons)})
    slots = 0 if request.dry_run else run.slots
    learned = made.limit_bytes if request.limit_bytes else _learned(store, run, made)
    store.save_plan(run.run_id, made, [_first_state(made, slot, learned) for slot in range(slots)])
    return made


def _learned(store: RunStore, run: Run, made: Plan) -> int:
    """The first limit: a resumed run begins with what any slot of the run before it had learned of memory."""
    before = [slot.state.limit_bytes for slot in store.slots(run.resume_of)] if run.resume_of else []
    return min(made.cap_bytes, max(made.limit_bytes, *before, 0))


def _first_state(made: Plan, slot: int, limit_bytes: int) -> SlotState:
    state = SlotState.first(made, slot)
    return SlotState(**(dict(state) | {"limit_bytes": limit_bytes, "last_schedulable_limit_bytes": limit_bytes}))


def in_words(made: Plan) -> str:
    """The plan as Markdown: what a person needs to accept it, change it, or buy memory."""
    ingest = made.ingest
    lines = [
        f"# Plan of {made.run_id}",
        "",
        f"- limit **{_gib(made.limit_bytes)}** (cap {_gib(made.cap_bytes)}), from {made.evidence}",
        f"- expected {_gib(made.lower_bytes)} to {_gib(made.upper_bytes)}, usually {_gib(made.target_bytes)}",
        f"- {made.images_per_second:.2f} images/s a slot"
        + (f", {made.images_total:,} images" if made.images_total is not None else ""),
        f"- byte budget {_gib(ingest.budget_bytes)}, micro-batch {ingest.micro_batch_images},"
        f" {ingest.downloads_in_flight} downloads, {ingest.staged_images} staged, {ingest.lease_images} leases,"
        f" {ingest.decode_threads} decode threads" + (", one image at a time" if ingest.one_at_a_time else ""),
        "",
        "| memory | images/s |",
        "|---|---|",
        *(f"| {_gib(point.limit_bytes)} | {point.images_per_second:.2f} |" for point in made.curve),
        "",
        *(f"- {reason}" for reason in made.reasons),
    ]
    return "\n".join(lines)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
