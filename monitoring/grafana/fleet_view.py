"""The fleet view: all runs of the time shown, what their memory cost and what was lost."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from monitoring.grafana import run_view
from monitoring.grafana.panels import HALF, THIRD, Panel, Query, bars, board, choice, figure, graph, rows
from monitoring.grafana.promql import PIPELINE, PLACE, WINDOW, grown, of_jobs

from tidegate.core.contract import Metric, StoreMetric

UID = "tidegate-fleet"
GB_HOURS = "1e9 / 3600"
RUN_LINK = f"/d/{run_view.UID}?var-datasource=${{datasource}}&var-run=${{__value.raw}}&${{__url_time_range}}"


def fleet_view() -> dashboard.Dashboard:
    view = board(UID, "Tidegate / Fleet", "All runs: memory bought and used, trips, kills, lost work.", since="24h")
    view.with_variable(choice("namespace", "Namespace", f"label_values({StoreMetric.SLOT_INFO}, worker_namespace)"))
    view.with_variable(choice("job", "Job", f"label_values({StoreMetric.SLOT_INFO}, job_id)"))
    view.with_variable(choice("pipeline", "Pipeline", f"label_values({StoreMetric.RUNS}, pipeline)"))
    for title, panels in (
        ("In the time shown, by pipeline", _figures()),
        ("Runs of the last day", _runs()),
        ("Memory", _memory()),
        ("Trips, kills, lost work", _losses()),
    ):
        view.with_row(dashboard.Row(title))
        for panel in panels:
            view.with_panel(panel)
    return view


def _figures() -> list[Panel]:
    used, allocated = grown(StoreMetric.MEMORY_USED), grown(StoreMetric.MEMORY_ALLOCATED)
    return [
        figure("Trips", "Of all breakers.", Query(grown(StoreMetric.TRIPS), "trips")),
        figure("OOM kills", "Pods that their own memory ended.", Query(grown(StoreMetric.OOM_KILLS_RECORDED), "kills")),
        figure("Lost work", "Images computed twice.", Query(grown(StoreMetric.IMAGES_REDONE), "images")),
        figure("Paused", "Time that slots were without a pod.", Query(grown(StoreMetric.PAUSE_SECONDS), "paused"), "s"),
        figure("GB-hours", "Memory allocated to pods.", Query(f"({allocated}) / {GB_HOURS}", "GB-hours")),
        figure(
            "MAQ",
            "Memory allocation quality: what was used of what was allocated.",
            Query(f"({used}) / clamp_min({allocated}, 1)", "MAQ"),
            "percentunit",
        ),
    ]


def _runs() -> list[Panel]:
    facts = "run_id, job_id, pipeline, model_version, state"
    state = f'max by ({facts}) ({StoreMetric.RUN_STATE}{{job_id=~"$job", pipeline=~"$pipeline"}})'

    def column(name: str, title: str, unit: str = "short") -> tuple[Query, str]:
        return Query(of_jobs(f"max by (run_id) ({name})"), title), unit

    return [
        rows(
            "Runs",
            "Running or ended within a day; the id opens the run.",
            Query(state, "run_id"),
            [
                column(StoreMetric.RUN_IMAGES, "images"),
                column(StoreMetric.RUN_ACKED, "answered"),
                column(StoreMetric.RUN_QUARANTINED, "quarantined"),
                column(StoreMetric.RUN_REDONE, "redone"),
                column(StoreMetric.RUN_PEAK, "peak", "bytes"),
                column(StoreMetric.RUN_MAQ, "MAQ", "percentunit"),
            ],
            link=RUN_LINK,
        )
    ]


def _memory() -> list[Panel]:
    allocated, used = StoreMetric.MEMORY_ALLOCATED + PIPELINE, StoreMetric.MEMORY_USED + PIPELINE
    return [
        graph(
            "Memory of all pods",
            "Used, and allowed by their limits.",
            Query(f"sum by (namespace) ({Metric.MEMORY_NONRECLAIMABLE}{PLACE})", "{{namespace}} used"),
            Query(f"sum by (namespace) ({Metric.MEMORY_LIMIT}{PLACE})", "{{namespace}} limit"),
            unit="bytes",
            span=THIRD,
        ),
        graph(
            "GB-hours by pipeline",
            "By pipeline, since the store began.",
            Query(f"sum by (pipeline) ({allocated}) / {GB_HOURS}", "{{pipeline}}"),
            span=THIRD,
        ),
        graph(
            "MAQ by pipeline",
            "By pipeline, since the store began.",
            Query(
                f"sum by (pipeline) ({used}) / clamp_min(sum by (pipeline) ({allocated}), 1)",
                "{{pipeline}}",
            ),
            unit="percentunit",
            span=THIRD,
        ),
        graph(
            "Images a second",
            "Accepted for good, by namespace.",
            Query(f"sum by (namespace) (rate({Metric.IMAGES_ACKED}{PLACE}[{WINDOW}]))", "{{namespace}}"),
            unit="cps",
            span=HALF,
        ),
        bars(
            "Runs by state",
            "Since the store began.",
            Query(f"sum by (state) ({StoreMetric.RUNS}{PIPELINE})", "{{state}}"),
            span=HALF,
        ),
    ]


def _losses() -> list[Panel]:
    return [
        graph(
            "Trips by cause",
            "By pipeline and cause, since the store began.",
            Query(f"sum by (pipeline, cause) ({StoreMetric.TRIPS}{PIPELINE})", "{{pipeline}}: {{cause}}"),
            span=THIRD,
        ),
        graph(
            "Lead time",
            "How far the limit still was when a breaker tripped: the time that a remedy has.",
            Query(of_jobs(f"max by (run_id, slot) ({StoreMetric.BREAKER_LEAD_SECONDS})"), "{{run_id}} slot {{slot}}"),
            unit="s",
            span=THIRD,
        ),
        graph(
            "OOM kills and lost work",
            "By pipeline, since the store began.",
            Query(f"sum by (pipeline) ({StoreMetric.OOM_KILLS_RECORDED}{PIPELINE})", "{{pipeline}} kills"),
            Query(f"sum by (pipeline) ({StoreMetric.IMAGES_REDONE}{PIPELINE})", "{{pipeline}} images redone"),
            span=THIRD,
        ),
    ]
