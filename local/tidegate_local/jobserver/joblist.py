"""The job list and its filters: the call by which workers look for work.

With `ids_only` it is a claim-next call in disguise: random order, one job unless a limit is named, and a heartbeat for
the services of the pipelines asked for. Being listed does not mean that a job has work, and being absent not that it is
complete.
"""

from __future__ import annotations

import random
from typing import Any

from aiohttp import web

from tidegate_local.jobserver.database import Row
from tidegate_local.jobserver.lifecycle import DISPATCH_MODES, FINAL, STATUSES, stages
from tidegate_local.jobserver.state import State
from tidegate_local.jobserver.wire import DEFAULT_PAGE, Refusal, flag, integer, page

_ORDERINGS = frozenset({"id", "name", "created_at", "updated_at", "status", "started_at", "finished_at"})


def job_page(state: State, request: web.Request) -> dict[str, Any]:
    """The page of jobs that the query asks for."""
    condition, values = _condition(request)
    rows = state.db.all(
        "SELECT jobs.*, pipelines.slug AS pipeline_slug, pipelines.name AS pipeline_name FROM jobs "  # noqa: S608
        f"LEFT JOIN pipelines ON pipelines.id = jobs.pipeline_id WHERE {condition} ORDER BY {_order(request)}",
        *values,
    )
    ids_only = flag(request, "ids_only")
    if ids_only:
        random.shuffle(rows)
        state.registry.saw_services(_slugs(request))
    default = 1 if ids_only and "page_size" not in request.query else DEFAULT_PAGE
    limit = integer(request, "limit", integer(request, "page_size", default, minimum=1), minimum=1)
    offset = integer(request, "offset", 0, minimum=0)
    shown = [_short(row) if ids_only else _long(row) for row in rows[offset : offset + limit]]
    return page(request, shown, len(rows), limit, offset)


def _slugs(request: web.Request) -> list[str]:
    return [slug for slug in request.query.get("pipeline__slug__in", "").split(",") if slug]


def _condition(request: web.Request) -> tuple[str, list[Any]]:
    """The WHERE clause; texts of the query only ever travel as values."""
    clauses, values = ["1"], []
    query = request.query
    if slugs := _slugs(request):
        clauses.append(f"pipelines.slug IN ({','.join('?' * len(slugs))})")
        values += slugs
    if query.get("pipeline__slug"):
        clauses.append("pipelines.slug = ?")
        values.append(query["pipeline__slug"])
    for field, choices in (("status", STATUSES), ("dispatch_mode", DISPATCH_MODES)):
        if value := query.get(field):
            if value not in choices:
                message = f"Select a valid choice. {value} is not one of the available choices."
                raise Refusal(400, {field: [message]})
            clauses.append(f"jobs.{field} = ?")
            values.append(value)
    if "cutoff_hours" in query:
        _check_cutoff(query["cutoff_hours"])
    if project := query.get("project_id"):
        # The number of a project that does not exist is ignored, and everything returned.
        clauses.append("(jobs.project_id = ? OR NOT EXISTS (SELECT 1 FROM projects WHERE id = ?))")
        values += [project, project]
    if search := query.get("search"):
        clauses.append("(instr(lower(jobs.name), lower(?)) OR instr(lower(pipelines.name), lower(?)))")
        values += [search, search]
    if flag(request, "incomplete_only"):
        marks = ",".join("?" * len(FINAL))
        clauses.append(f"jobs.status NOT IN ({marks}) AND jobs.results_status NOT IN ({marks})")
        values += [*FINAL, *FINAL]
    return " AND ".join(clauses), values


def _check_cutoff(value: str) -> None:
    if not value.strip().lstrip("-").isdigit():
        raise Refusal(400, {"cutoff_hours": ["A valid integer is required."]})
    if int(value) < 0:
        raise Refusal(400, {"cutoff_hours": ["Ensure this value is greater than or equal to 0."]})


def _order(request: web.Request) -> str:
    asked = request.query.get("ordering", "")
    field = asked.removeprefix("-")
    if field not in _ORDERINGS:
        return "jobs.id DESC"
    return f"jobs.{field} {'DESC' if asked.startswith('-') else 'ASC'}, jobs.id DESC"


def _short(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "pipeline_slug": row["pipeline_slug"], "user_permissions": []}


def _long(row: Row) -> dict[str, Any]:
    pipeline = None
    if row["pipeline_id"] is not None:
        pipeline = {"id": row["pipeline_id"], "name": row["pipeline_name"], "slug": row["pipeline_slug"]}
    return {
        "id": row["id"],
        "name": row["name"],
        "status": row["status"],
        "dispatch_mode": row["dispatch_mode"],
        "project": {"id": row["project_id"]},
        "pipeline": pipeline,
        "progress": {"stages": stages(row)},
        "user_permissions": [],
    }
