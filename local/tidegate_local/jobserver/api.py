"""The part of Antenna's API that a worker uses: login, jobs, tasks, results, projects and registration.

Routes and bodies only; what they set in motion lies in `lifecycle`, `leases`, `results` and `registry`.
"""

from __future__ import annotations

import asyncio
import datetime
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web
from pydantic.v1 import ValidationError

from tidegate_local.jobserver.accounts import Accounts
from tidegate_local.jobserver.database import Row
from tidegate_local.jobserver.image_urls import ImageUrls
from tidegate_local.jobserver.joblist import job_page
from tidegate_local.jobserver.leases import Lease
from tidegate_local.jobserver.lifecycle import SERVING, stages
from tidegate_local.jobserver.payloads import Pipelines, TaskResult, TaskResults, error_list
from tidegate_local.jobserver.state import State
from tidegate_local.jobserver.wire import (
    API_PREFIX,
    Authenticator,
    Refusal,
    found,
    integer,
    json_object,
    json_response,
    page,
    path_id,
)

REQUIRED = "This field is required."
NOT_NULL = "This field may not be null."
_INTEGER_TEXT = re.compile(r"\s*-?\d+\s*")
_PROJECTS_PAGE = 40


class Api:
    """Handlers of `/api/v2/`."""

    def __init__(self, state: State, accounts: Accounts, authenticator: Authenticator, urls: ImageUrls) -> None:
        self._state = state
        self._accounts = accounts
        self._authenticator = authenticator
        self._urls = urls

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(f"{API_PREFIX}/auth/token/login/", self.login, name="login"),
            web.get(f"{API_PREFIX}/jobs/", self.list_jobs, name="jobs"),
            web.get(f"{API_PREFIX}/jobs/{{id}}/", self.show_job, name="job"),
            web.post(f"{API_PREFIX}/jobs/{{id}}/tasks/", self.reserve_tasks, name="tasks"),
            web.post(f"{API_PREFIX}/jobs/{{id}}/result/", self.post_results, name="result"),
            web.post(f"{API_PREFIX}/jobs/{{id}}/run/", self.run_job),
            web.post(f"{API_PREFIX}/jobs/{{id}}/retry/", self.run_job),
            web.post(f"{API_PREFIX}/jobs/{{id}}/cancel/", self.cancel_job),
            web.get(f"{API_PREFIX}/projects/", self.list_projects),
            web.get(f"{API_PREFIX}/projects/{{id}}/pipelines/", self.list_pipelines),
            web.post(f"{API_PREFIX}/projects/{{id}}/pipelines/", self.register, name="register"),
        ]

    async def login(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        missing = {field: [REQUIRED] for field in ("password", "email") if body.get(field) is None}
        if missing:
            raise Refusal(400, missing)
        token = self._accounts.token(str(body["email"]), str(body["password"]))
        if token is None:
            raise Refusal(400, {"non_field_errors": ["Unable to log in with provided credentials."]})
        return json_response({"auth_token": token})

    async def list_jobs(self, request: web.Request) -> web.Response:
        self._authenticator.user(request)
        return json_response(job_page(self._state, request))

    async def show_job(self, request: web.Request) -> web.Response:
        self._authenticator.user(request)
        return json_response(job_details(self._state, self._job(request)))

    async def reserve_tasks(self, request: web.Request) -> web.Response:
        body = await self._posted(request)
        batch_size = _batch_size(body)
        _check_client_info(body)
        job = self._job(request)
        self._authenticator.superuser(request)
        if job["dispatch_mode"] != "async_api":
            raise Refusal(400, ["Only async_api jobs have fetchable tasks"])
        if job["status"] not in SERVING:
            return json_response({"tasks": []})
        if job["pipeline_id"] is None:
            raise Refusal(400, ["This job does not have a pipeline configured"])
        self._heartbeat(job)
        leases = self._reserve(job, batch_size)
        if not leases and job["stream_next_seq"] is not None:
            await asyncio.sleep(self._state.settings.empty_poll_seconds)
            leases = self._reserve(job, batch_size)
        return json_response(
            {
                "tasks": [
                    {
                        "id": str(lease.image_id),
                        "image_id": str(lease.image_id),
                        "image_url": self._urls.signed(lease.image_id, lease.published_at, request.host),
                        "reply_subject": lease.reply_subject,
                    }
                    for lease in leases
                ]
            }
        )

    def _reserve(self, job: Row, batch_size: int) -> list[Lease]:
        with self._state.db.transaction():
            return self._state.leases.reserve(job, batch_size)

    async def post_results(self, request: web.Request) -> web.Response:
        body = await self._posted(request)
        if "results" not in body:
            raise Refusal(400, {"results": [REQUIRED]})
        if body["results"] is None:
            raise Refusal(400, {"results": [NOT_NULL]})
        results = await _valid_results(body["results"], request.content_length or 0)
        _check_client_info(body)
        job = self._job(request)
        self._authenticator.superuser(request)
        self._heartbeat(job)
        with self._state.db.transaction():
            tasks = self._state.results.queue(job, results)
        return json_response({"status": "accepted", "job_id": job["id"], "results_queued": len(tasks), "tasks": tasks})

    async def run_job(self, request: web.Request) -> web.Response:
        """Run or run again: on a running job the stream is not purged, so every image is queued twice."""
        return self._command(request, self._state.lifecycle.enqueue)

    async def cancel_job(self, request: web.Request) -> web.Response:
        return self._command(request, self._state.lifecycle.cancel)

    def _command(self, request: web.Request, change: Callable[[int], None]) -> web.Response:
        job = self._job(request)
        self._authenticator.superuser(request)
        with self._state.db.transaction():
            change(job["id"])
        return json_response(job_details(self._state, self._job(request)))

    async def list_projects(self, request: web.Request) -> web.Response:
        self._authenticator.user(request)
        rows = [{"id": row["id"], "name": row["name"]} for row in self._state.db.all("SELECT * FROM projects")]
        limit = integer(request, "limit", _PROJECTS_PAGE, minimum=1)
        offset = integer(request, "offset", 0, minimum=0)
        return json_response(page(request, rows[offset : offset + limit], len(rows), limit, offset))

    async def list_pipelines(self, request: web.Request) -> web.Response:
        self._authenticator.user(request)
        rows = self._state.registry.pipelines(self._project(request)["id"])
        limit = integer(request, "limit", _PROJECTS_PAGE, minimum=1)
        offset = integer(request, "offset", 0, minimum=0)
        return json_response(page(request, rows[offset : offset + limit], len(rows), limit, offset))

    async def register(self, request: web.Request) -> web.Response:
        body = await self._posted(request)
        project = self._project(request)
        self._authenticator.superuser(request)
        problems: dict[str, list[Any]] = {}
        name = body.get("processing_service_name")
        if name is None:
            problems["processing_service_name"] = [NOT_NULL if "processing_service_name" in body else REQUIRED]
        elif not str(name).strip():
            problems["processing_service_name"] = ["This field may not be blank."]
        pipelines = Pipelines(__root__=[])
        if "pipelines" not in body:
            problems["pipelines"] = [REQUIRED]
        else:
            try:
                pipelines = Pipelines.parse_obj(body["pipelines"])
            except ValidationError as error:
                problems["pipelines"] = error_list(error)
        if problems:
            raise Refusal(400, problems)
        with self._state.db.transaction():
            answer = self._state.registry.register(project["id"], str(name).strip(), pipelines.__root__)
        return json_response(answer, 201)

    async def _posted(self, request: web.Request) -> dict[str, Any]:
        """The body of a POST; a wrong token is refused before it is looked at, a missing one only after."""
        self._authenticator.user(request)
        return await json_object(request)

    def _job(self, request: web.Request) -> Row:
        return found(self._state.db.one("SELECT * FROM jobs WHERE id = ?", path_id(request)))

    def _project(self, request: web.Request) -> Row:
        return found(self._state.db.one("SELECT * FROM projects WHERE id = ?", path_id(request)))

    def _heartbeat(self, job: Row) -> None:
        slug = self._state.db.scalar("SELECT slug FROM pipelines WHERE id = ?", job["pipeline_id"])
        if slug is not None:
            self._state.registry.saw_services([slug], job["project_id"])


def job_details(state: State, job: Row) -> dict[str, Any]:
    """A job as `GET /jobs/{id}/` shows it to observers."""
    pipeline = state.db.one("SELECT id, name, slug FROM pipelines WHERE id = ?", job["pipeline_id"])
    logs = state.db.all("SELECT * FROM job_logs WHERE job_id = ? ORDER BY id DESC LIMIT 100", job["id"])
    shown = stages(job)
    lines = [f"[{_local(row['at'])}] {row['level']} {row['message']}" for row in logs]
    return {
        "id": job["id"],
        "name": job["name"],
        "project": {"id": job["project_id"]},
        "pipeline": None if pipeline is None else dict(pipeline),
        "job_type_key": "ml",
        "dispatch_mode": job["dispatch_mode"],
        "status": job["status"],
        "shuffle": bool(job["shuffle"]),
        "progress": {
            "summary": {
                "status": job["status"],
                "progress": sum(stage["progress"] for stage in shown) / len(shown),
            },
            "stages": shown,
        },
        "created_at": _local(job["created_at"]),
        "updated_at": _local(job["updated_at"]),
        "started_at": _local(job["started_at"]),
        "finished_at": _local(job["finished_at"]),
        "logs": {"stdout": lines, "stderr": [line for line in lines if " ERROR " in line]},
        "user_permissions": [],
    }


def _local(at: float | None) -> str | None:
    """Antenna's times are naive and local."""
    return None if at is None else datetime.datetime.fromtimestamp(at).isoformat()  # noqa: DTZ006


def _batch_size(body: dict[str, Any]) -> int:
    if "batch_size" not in body:
        raise Refusal(400, {"batch_size": [REQUIRED]})
    value = body["batch_size"]
    if value is None:
        raise Refusal(400, {"batch_size": [NOT_NULL]})
    if isinstance(value, bool) or not (
        isinstance(value, int)
        or (isinstance(value, float) and value.is_integer())
        or (isinstance(value, str) and _INTEGER_TEXT.fullmatch(value))
    ):
        raise Refusal(400, {"batch_size": ["A valid integer is required."]})
    if int(value) < 1:
        raise Refusal(400, {"batch_size": ["Ensure this value is greater than or equal to 1."]})
    return int(value)


def _check_client_info(body: dict[str, Any]) -> None:
    if "client_info" not in body or isinstance(body["client_info"], dict):
        return
    if body["client_info"] is None:
        raise Refusal(400, {"client_info": [NOT_NULL]})
    raise Refusal(400, {"client_info": ["Invalid data. Expected a dictionary."]})


async def _valid_results(posted: Any, size_bytes: int) -> list[TaskResult]:
    def validate() -> list[TaskResult]:
        return TaskResults.parse_obj(posted).__root__

    try:
        return validate() if size_bytes < 1_000_000 else await asyncio.to_thread(validate)
    except ValidationError as error:
        raise Refusal(400, {"results": error_list(error)}) from None
