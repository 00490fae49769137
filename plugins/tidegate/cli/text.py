"""The answers of the commands as plain, aligned text."""

from __future__ import annotations

import calendar
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tidegate.control.wording import duration, moment, size
from tidegate.core.contract import MIB


def runs(listed: Sequence[Mapping[str, Any]]) -> str:
    if not listed:
        return "no runs"
    return table(
        ("RUN", "STATE", "PIPELINE", "JOB", "SLOTS", "LIMIT", "BEGAN", "TOOK"),
        [
            (
                run["run_id"],
                run["state"],
                run["pipeline"],
                f"{run['source']['kind']} {run['source']['job']}",
                run["slots"],
                size(run["limit_bytes"]),
                moment(run["created_at"]),
                duration(run["created_at"], run["ended_at"]),
            )
            for run in listed
        ],
    )


def show(answer: Mapping[str, Any]) -> str:
    run, plan = answer["run"], answer["plan"]
    parts = [
        table(
            (),
            [
                ("run", run["run_id"]),
                ("state", run["state"]),
                ("job", f"{run['source']['kind']} {run['source']['job']}, {run['source'].get('uri', '')}"),
                ("pipeline", f"{run['pipeline']} (model {run['model_version']})"),
                ("began", moment(run["created_at"])),
                ("ended", moment(run["ended_at"])),
                ("resume of", run["resume_of"]),
            ],
        )
    ]
    if plan is not None:
        reasons = "\n".join(f"  {reason}" for reason in plan.get("reasons", ()))
        ingest = plan["ingest"]
        parts.append(
            f"PLAN: limit {size(plan['limit_bytes'])} of at most {size(plan['cap_bytes'])}, from {plan['evidence']};"
            f" budget {size(ingest['budget_bytes'])}, micro-batch {ingest['micro_batch_images']},"
            f" {plan['images_per_second']:.2f} images/s a slot\n{reasons}".rstrip()
        )
    parts.append(slots(answer["slots"]))
    parts.append(
        table(
            ("SLOT", "GEN", "POD", "LIMIT", "PEAK", "ACKED", "BEGAN", "TOOK", "END", "CODE", "WHY"),
            [
                (
                    each["slot"],
                    each["generation"],
                    each["pod"],
                    size(each["limit_bytes"]),
                    size(each["peak_bytes"]),
                    each["acked"],
                    moment(each["created_at"]),
                    duration(each["created_at"], each["ended_at"]),
                    each["end"],
                    each["exit_code"],
                    each["reason"],
                )
                for each in answer["attempts"]
            ],
        )
    )
    for trip in answer["trips"]:
        told = "\n".join(f"  {sentence}" for sentence in (*trip["evidence"], trip["remedy_reason"]))
        parts.append(
            f"TRIP of slot {trip['slot']} at {moment(trip['at'])}: {trip['cause']} ({trip['character']}),"
            f" answered by {trip['remedy']}\n{told}"
        )
    if answer["summary"] is not None:
        parts.append("SUMMARY\n" + table((), [(f"  {name}", value) for name, value in answer["summary"].items()]))
    return "\n\n".join(part for part in parts if part)


def slots(listed: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("SLOT", "PHASE", "GEN", "LIMIT", "CEILING", "ALONE", "ACKED", "KILLS", "WHY"),
        [
            (
                slot["slot"],
                slot["phase"],
                slot["generation"],
                size(slot["limit_bytes"]),
                size(slot["ceiling_bytes"]),
                "yes" if slot["one_at_a_time"] else "no",
                slot["acked"],
                slot["memory_ends"],
                slot["alert"] or slot["reason"],
            )
            for slot in listed
        ],
    )


def history(answer: Mapping[str, Any]) -> str:
    parts = []
    for each in answer["baselines"]:
        standing = "stands in for a probe" if each["settled"] else "does not stand in for a probe"
        parts.append(
            f"{answer['pipeline']} (model {each['model_version']}, {each['job_kind']} jobs): {each['healthy_runs']}"
            f" healthy runs, {each['unhealthy_runs']} others, the last healthy one {moment(each['last_healthy'])};"
            f" {standing}"
        )
        parts.append(
            table(
                ("QUANTITY", "P50", "P90", "P99"),
                [
                    (name, *(_quantity(name, value) for value in shares.values()))
                    for name, shares in each["quantities"].items()
                ],
            )
        )
        parts.append(
            table(
                ("PEAKS", "RUNS", "MEDIAN", "MAX", "LAST"),
                [
                    (calendar.day_abbr[int(day)], of["runs"], size(of["median"]), size(of["max"]), size(of["last"]))
                    for day, of in each["peaks_by_weekday"].items()
                ],
            )
        )
    return "\n\n".join(part for part in parts if part)


def reset(answer: Mapping[str, Any]) -> str:
    dag, _, dag_run = answer["run"]["run_id"].partition("/")
    return (
        f"{slots(answer['slots'])}\n\nNow clear the task group `inference` of DAG run {dag_run} ({dag}) in Airflow,"
        " with its downstream tasks: the pods start again, and images that were answered are not repeated."
    )


def upgraded(answer: Mapping[str, Any]) -> str:
    return f"{answer['address']} has schema {answer['schema']}"


RENDERINGS: Final[Mapping[str, Callable[[Any], str]]] = {
    "runs": runs,
    "show": show,
    "history": history,
    "reset": reset,
    "db": upgraded,
}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their widest cell; empty where there are no rows."""
    if not rows:
        return ""
    cells = [[*head]] if head else []
    cells += [["-" if cell in (None, "") else _one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _one_line(words: str) -> str:
    # What came from a pod or a person may hold escapes that a terminal would obey.
    return " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())


def _quantity(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}s" if name.endswith("_seconds") else size(value) if value >= MIB else f"{value:.0f}"
