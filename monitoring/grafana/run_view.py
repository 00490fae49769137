"""The run view: one run's memory against its limit, what the breaker did about it, and where its images are."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from monitoring.grafana.panels import THIRD, Marks, Panel, Query, board, choice, figure, graph, timeline
from monitoring.grafana.promql import PLACE, RUN, WINDOW, of_run, velocity, worker

from tidegate.core.contract import Metric, StoreMetric

UID = "tidegate-run"
SLOT = "slot {{slot}}"


def run_view() -> dashboard.Dashboard:
    view = board(UID, "Tidegate / Run", "One run: memory, breaker, stages.", since="3h")
    view.with_variable(choice("namespace", "Namespace", f"label_values({Metric.RUN_INFO}, namespace)"))
    view.with_variable(choice("job", "Job", f"label_values({StoreMetric.RUN_STATE}, job_id)"))
    runs = f'label_values({StoreMetric.RUN_STATE}{{job_id=~"$job"}}, run_id)'
    view.with_variable(choice("run", "Run", runs, one=True))
    view.annotation(
        Marks("Trips", StoreMetric.BREAKER_TRIP_AT + RUN, "Slot {{slot}} tripped: {{cause}}", "orange")
    ).annotation(Marks("OOM kills", StoreMetric.SLOT_OOM_KILL_AT + RUN, "OOM kill of slot {{slot}}", "red"))
    for title, panels in (
        ("How it stands", _standing()),
        ("Memory", _memory()),
        ("Breaker", _breaker()),
        ("Images", _images()),
        ("Machine", _machine()),
    ):
        view.with_row(dashboard.Row(title))
        for panel in panels:
            view.with_panel(panel)
    return view


def _standing() -> list[Panel]:
    trip = StoreMetric.BREAKER_TRIP_AT + RUN
    return [
        figure("State", "Of the run, in the run store.", Query(StoreMetric.RUN_STATE + RUN, "{{state}}"), "string"),
        figure(
            "Answered",
            "Images that the pods have answered, of all that the job has.",
            Query(f"sum({StoreMetric.RUN_ACKED}{RUN}) / sum({StoreMetric.RUN_IMAGES}{RUN})", "answered"),
            "percentunit",
        ),
        figure(
            "Trips",
            "Of the breaker, in the time shown.",
            # Each pod and cause is a series of its own, which moves if it trips again.
            Query(f"(count(last_over_time({trip}[$__range])) + sum(changes({trip}[$__range]))) or vector(0)", "trips"),
        ),
        figure(
            "OOM kills",
            "Pods that their own memory ended.",
            Query(f"sum({StoreMetric.SLOT_OOM_KILLS}{RUN}) or vector(0)", "kills"),
        ),
        figure(
            "Peak",
            "Highest memory of a pod that has ended.",
            Query(f"max({StoreMetric.RUN_PEAK}{RUN})", "peak"),
            "bytes",
        ),
        figure(
            "Memory used of allocated",
            "Memory allocation quality: byte-seconds used over byte-seconds allocated; told when the run has ended.",
            Query(f"max({StoreMetric.RUN_MAQ}{RUN})", "used"),
            "percentunit",
        ),
    ]


def _memory() -> list[Panel]:
    used, limit = Metric.MEMORY_NONRECLAIMABLE + PLACE, Metric.MEMORY_LIMIT + PLACE
    return [
        graph(
            "Memory against limit",
            "What cannot be given back. A step of the limit is a resize or a new pod; marks are trips and kills.",
            Query(worker(Metric.MEMORY_NONRECLAIMABLE), f"{SLOT} used"),
            Query(worker(Metric.MEMORY_LIMIT), f"{SLOT} limit"),
            Query(worker(Metric.MEMORY_PLAN_UPPER), f"{SLOT} plan's upper bound"),
            unit="bytes",
        ),
        graph(
            "Limits and cap",
            "What the run store has each slot at, and what it may never go above.",
            Query(f"max by (slot) ({StoreMetric.SLOT_LIMIT}{RUN})", f"{SLOT} limit"),
            Query(f"max by (slot) ({StoreMetric.SLOT_CAP}{RUN})", f"{SLOT} cap"),
            unit="bytes",
        ),
        graph(
            "Memory of its limit",
            "The inlet gate shuts at 80 % and opens at 70 %.",
            Query(of_run(f"{used} / {limit}"), SLOT),
            unit="percentunit",
            span=THIRD,
        ),
        graph(
            "Velocity",
            f"Growth of memory over {WINDOW}, and three times what healthy runs show; 0 where none has told.",
            Query(of_run(velocity()), SLOT),
            Query(f"3 * max({StoreMetric.BASELINE_VELOCITY}{RUN}) or vector(0)", "3 times the baseline's"),
            unit="binBps",
            span=THIRD,
        ),
        graph(
            "Time to limit",
            "At this velocity; a day where memory does not grow.",
            Query(of_run(f"clamp_max(({limit} - {used}) / clamp_min({velocity()}, 1), 86400)"), SLOT),
            unit="s",
            span=THIRD,
        ),
        graph(
            "Gate",
            "Share of the time that the inlet was shut: images wait on disk meanwhile.",
            Query(of_run(f"rate({Metric.GATE_CLOSED_SECONDS}{PLACE}[{WINDOW}])"), f"{SLOT} shut"),
            Query(worker(Metric.GATE_CLOSED), f"{SLOT} shut now"),
            unit="percentunit",
            span=THIRD,
        ),
        graph(
            "Budget",
            "Byte credits that may be in flight, and that are; wanted is what a parked image needs.",
            Query(worker(Metric.MEMORY_BUDGET), f"{SLOT} budget"),
            Query(worker(Metric.MEMORY_IN_FLIGHT), f"{SLOT} in flight"),
            Query(worker(Metric.MEMORY_WANTED), f"{SLOT} wanted"),
            unit="bytes",
            span=THIRD,
        ),
        graph(
            "GPU memory",
            "Of the device, by whomever; nothing where pods have no GPU.",
            Query(worker(Metric.GPU_MEMORY), SLOT),
            unit="bytes",
            span=THIRD,
        ),
    ]


def _breaker() -> list[Panel]:
    return [
        timeline(
            "Breaker",
            "Which state of the breaker held when.",
            Query(f"max by (slot, state) ({StoreMetric.BREAKER_STATE}{RUN}) == 1", f"{SLOT}: {{{{state}}}}"),
        ),
        graph(
            "Paused",
            "How long a slot has been without a running pod.",
            Query(f"max by (slot) ({StoreMetric.SLOT_PAUSED_SECONDS}{RUN})", SLOT),
            unit="s",
            span=THIRD,
        ),
        graph(
            "Troubles",
            "What the breaker has told of and what still stands.",
            Query(f"sum by (slot, trouble) ({StoreMetric.SLOT_TROUBLE}{RUN}) or vector(0)", f"{SLOT} {{{{trouble}}}}"),
            span=THIRD,
        ),
        graph(
            "Last seen",
            "How long ago the breaker had fresh samples: it is blind where this climbs.",
            Query(f"time() - max by (slot) ({StoreMetric.BREAKER_SEEN_AT}{RUN})", SLOT),
            unit="s",
            span=THIRD,
        ),
    ]


def _images() -> list[Panel]:
    def rate(name: str) -> str:
        return of_run(f"rate({name}{PLACE}[{WINDOW}])")

    quantile = f"histogram_quantile(0.9, sum by (stage, le) ({rate(Metric.STAGE_SECONDS + '_bucket')}))"
    return [
        graph(
            "Acks",
            "Images a second that the job's owner has accepted for good.",
            Query(rate(Metric.IMAGES_ACKED), SLOT),
            unit="cps",
            span=THIRD,
        ),
        graph(
            "Not as meant",
            "Images answered as failed, set aside, or handed out again, since each pod's start.",
            Query(worker(Metric.IMAGES_FAILED), f"{SLOT} failed"),
            Query(worker(Metric.IMAGES_QUARANTINED), f"{SLOT} quarantined"),
            Query(worker(Metric.IMAGES_REDELIVERED), f"{SLOT} redelivered"),
            span=THIRD,
        ),
        graph(
            "Leases",
            "Images leased and not yet acked, and the age of the oldest.",
            Query(worker(Metric.IMAGES_LEASED), f"{SLOT} leased"),
            Query(worker(Metric.LEASE_OLDEST_SECONDS), f"{SLOT} oldest, s"),
            span=THIRD,
        ),
        graph(
            "Stages",
            "Images that wait before each stage: the slow one is where they pile up.",
            Query(f"sum by (stage) ({worker(Metric.STAGE_OCCUPANCY)})", "{{stage}}"),
        ),
        graph(
            "Seconds in a stage",
            "Nine of ten images take no longer.",
            Query(quantile, "{{stage}}"),
            unit="s",
        ),
    ]


def _machine() -> list[Panel]:
    return [
        graph(
            "Staged files",
            "Image files on disk, and what they may take.",
            Query(worker(Metric.STAGING_BYTES), f"{SLOT} staged"),
            Query(worker(Metric.STAGING_BUDGET), f"{SLOT} budget"),
            unit="bytes",
        ),
        graph(
            "Open files",
            "Of the worker's process, and its limit.",
            Query(worker(Metric.OPEN_FDS), f"{SLOT} open"),
            Query(worker(Metric.MAX_FDS), f"{SLOT} limit"),
        ),
    ]
