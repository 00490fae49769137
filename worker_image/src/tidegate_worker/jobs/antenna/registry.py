"""Tell Antenna which pipelines this service runs, and ask it which of their jobs are open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.antenna.api import AntennaApi, RequestRefused
from tidegate_worker.jobs.antenna.pipeline import AntennaPipeline


@dataclass(frozen=True, slots=True)
class OpenJob:
    job_id: str
    pipeline: str


def open_jobs(api: AntennaApi, pipelines: Iterable[str], limit: int = 200) -> list[OpenJob]:
    """Jobs of these pipelines that are not finished, in the server's random order.

    A job that is listed may have nothing to lease, and one that still serves tasks may be missing: being listed is a
    hint to look, never proof of anything. Asking is also the heartbeat that keeps the service shown as alive.
    """
    query: dict[str, str | int] = {
        "pipeline__slug__in": ",".join(sorted(pipelines)),
        "dispatch_mode": "async_api",
        "ids_only": 1,
        "incomplete_only": 1,
    }
    # Each page is a draw of its own, so a job may come twice, and another not at all until the next call.
    found: dict[str, OpenJob] = {}
    for item in api.pages("/jobs/", query, limit=limit):
        if isinstance(item, dict) and item.get("id") is not None and isinstance(item.get("pipeline_slug"), str):
            found.setdefault(str(item["id"]), OpenJob(str(item["id"]), item["pipeline_slug"]))
    return list(found.values())


def register(
    api: AntennaApi,
    service_name: str,
    pipelines: Sequence[AntennaPipeline],
    project_ids: Sequence[int] = (),
) -> list[int]:
    """Register `pipelines` with the given projects, or with every project that the token sees; which they were.

    Registering again changes nothing. The server says 201 also where it kept an older pipeline of the same name and
    version under another slug, so its own list is read back.
    """
    if not service_name.strip():
        raise FixConfig("the service needs a name under which Antenna shows it")
    projects = list(project_ids) or [int(project["id"]) for project in api.pages("/projects/", {}, limit=40)]
    if not projects:
        raise FixConfig("this token sees no project of Antenna to register with")
    payload = {
        "processing_service_name": service_name.strip(),
        "pipelines": [pipeline.payload() for pipeline in pipelines],
    }
    for project in projects:
        path = f"/projects/{project}/pipelines/"
        try:
            answer = api.post(path, payload, seconds=300.0)
        except RequestRefused as refused:
            raise FixConfig(f"project {project} refuses the registration: {refused}") from None
        if not isinstance(answer, dict) or answer.get("success") is False:
            raise RetryLater(f"project {project} did not take the registration: {str(answer)[:300]}")
        listed = {str(item.get("slug")) for item in api.pages(path, {}) if isinstance(item, dict)}
        missing = sorted({pipeline.slug for pipeline in pipelines} - listed)
        if missing:
            raise FixConfig(
                f"project {project} has no pipeline {missing}: another slug holds the same name and version there; "
                "use that slug, or raise the version"
            )
    return projects
