"""The baseline view: what healthy runs have needed by weekday, and how far each run lies from that."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model
from monitoring.grafana.panels import Panel, Query, bars, board, choice, graph
from monitoring.grafana.promql import PIPELINE, of_jobs

from tidegate.core.contract import StoreMetric
from tidegate.core.volume import UNUSUAL_Z, WEEKDAYS

UID = "tidegate-baseline"
KIND = "{{pipeline}} {{model_version}} {{job_kind}}"


def baseline_view() -> dashboard.Dashboard:
    view = board(UID, "Tidegate / Baseline", "Peaks and inputs against those of the same weekday.", since="7d")
    view.with_variable(choice("namespace", "Namespace", f"label_values({StoreMetric.SLOT_INFO}, worker_namespace)"))
    view.with_variable(choice("job", "Job", f"label_values({StoreMetric.SLOT_INFO}, job_id)"))
    view.with_variable(choice("pipeline", "Pipeline", f"label_values({StoreMetric.RUNS}, pipeline)"))
    for title, panels in (("What is known", _known()), ("Runs against it", _runs())):
        view.with_row(dashboard.Row(title))
        for panel in panels:
            view.with_panel(panel)
    return view


def _known() -> list[Panel]:
    by_weekday = bars(
        "Peak by weekday",
        "Median peak of the healthy runs that began on that day (UTC).",
        Query(StoreMetric.WEEKDAY_PEAK + PIPELINE, f"{{{{weekday}}}} {KIND}"),
        unit="bytes",
    )
    for number, name in enumerate(WEEKDAYS):
        renamed = {"regex": f"^{number} (.*)", "renamePattern": f"{name}: $1"}
        by_weekday.with_transformation(model.DataTransformerConfig(id_val="renameByRegex", options=renamed))
    return [
        by_weekday,
        bars(
            "Healthy runs",
            "Five spare the next run its probe.",
            Query(StoreMetric.HEALTHY_RUNS + PIPELINE, KIND),
        ),
    ]


def _runs() -> list[Panel]:
    peak, usual, spread = (
        f"max by (run_id) ({name})"
        for name in (StoreMetric.RUN_PEAK, StoreMetric.BASELINE_PEAK, StoreMetric.BASELINE_PEAK_SPREAD)
    )
    return [
        graph(
            "Peaks",
            "Of each run, and the median of its weekday.",
            Query(of_jobs(peak), "{{run_id}}"),
            Query(of_jobs(usual), "{{run_id}} median of the weekday"),
            unit="bytes",
        ),
        graph(
            "Peak, z-score",
            f"Robust standard deviations from the weekday's median; beyond {UNUSUAL_Z} either way is unusual.",
            Query(of_jobs(f"(ln({peak}) - ln({usual})) / {spread}"), "{{run_id}}"),
        ),
        graph(
            "Input, z-score",
            f"Images of the job against those of its weekday; beyond {UNUSUAL_Z} either way is unusual.",
            Query(of_jobs(f"max by (run_id) ({StoreMetric.VOLUME_Z})"), "{{run_id}}"),
        ),
        graph(
            "Input, times the usual",
            "Images of the job over the median of its weekday.",
            Query(of_jobs(f"max by (run_id) ({StoreMetric.VOLUME_RATIO})"), "{{run_id}}"),
        ),
    ]
