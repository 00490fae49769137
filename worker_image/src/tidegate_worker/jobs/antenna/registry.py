"""Tell Antenna which pipelines this service runs, and ask it which of their jobs are open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.antenna.api import CLIENT_INFO, AntennaApi, RequestRefused
from tidegate_worker.jobs.antenna.pipeline import AntennaPipeline

#: In which no task is served; a retry may make a job start again.
_FINAL: Final = ("SUCCESS", "FAILURE", "REVOKED")


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


def prove_token(api: AntennaApi) -> bool:
    """Raise FixConfig where the token may not lease; False where there is no finished job to try it on.

    Lists answer any token, and a job that does not exist any user's. Of a finished job nothing can be leased, but who
    asks is judged before that.
    """
    for status in _FINAL:
        query = {"ids_only": 1, "limit": 1, "status": status, "dispatch_mode": "async_api"}
        page = api.get("/jobs/", query)
        found = page.get("results") if isinstance(page, dict) else None
        if isinstance(found, list) and found and isinstance(found[0], dict):
            # Refused in another way: it has no pipeline, which is looked at last.
            with contextlib.suppress(RequestRefused):
                api.post(f"/jobs/{found[0].get('id')}/tasks/", {"batch_size": 1, "client_info": CLIENT_INFO})
            return True
    return False


def register(
    api: AntennaApi,
    service_name: str,
    pipelines: Sequence[AntennaPipeline],
    project_ids: Sequence[int] = (),
) -> list[int]:
    """Register `pipelines` with the given projects, or with every project that the token sees; which they were.

    Registering again changes nothing. The server says 201 also where it kept an older pipeline of the same name and
    version under another slug, or an older category map, so its own list is read back.
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
        except RetryLater as error:
            # A broken rule of uniqueness is a server error to Antenna.
            if broken := _conflicts(pipelines, _listed(api, path)):
                raise FixConfig(f"project {project} cannot take the registration: {'; '.join(broken)}") from None
            raise RetryLater(
                f"{error}; if it stays so, an algorithm's key or name is taken by another version in another project:"
                " give what changed a new name"
            ) from None
        if not isinstance(answer, dict) or answer.get("success") is False:
            raise RetryLater(f"project {project} did not take the registration: {str(answer)[:300]}")
        if differing := _differences(pipelines, _listed(api, path)):
            raise FixConfig(f"project {project}: {'; '.join(differing)}")
    return projects


def _listed(api: AntennaApi, path: str) -> list[dict[str, Any]]:
    return [item for item in api.pages(path, {}) if isinstance(item, dict)]


def _algorithms(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for item in items for each in item.get("algorithms") or () if isinstance(each, dict)]


def _conflicts(pipelines: Sequence[AntennaPipeline], listed: Sequence[dict[str, Any]]) -> list[str]:
    """Algorithms of ours that Antenna cannot add beside its own: a key and a (name, version) are unique for good."""
    found = set()
    for ours in (algorithm for pipeline in pipelines for algorithm in pipeline.algorithms):
        for theirs in _algorithms(listed):
            key, name, version = theirs.get("key"), theirs.get("name"), theirs.get("version")
            if key == ours.key and version not in (None, ours.version):
                found.add(f"algorithm {key!r} is there in version {version}: give version {ours.version} another name")
            elif key != ours.key and (name, version) == (ours.name, ours.version):
                found.add(f"algorithm {name!r}, version {version}, is there under the key {key!r}: choose another name")
    return sorted(found)


def _differences(pipelines: Sequence[AntennaPipeline], listed: Sequence[dict[str, Any]]) -> list[str]:
    """What Antenna did not take over though it answered 201."""
    by_slug = {str(item.get("slug")): item for item in listed}
    missing = sorted({pipeline.slug for pipeline in pipelines} - set(by_slug))
    told = [
        f"there is no pipeline {slug}: another slug holds its name and version; use that slug, or raise the version"
        for slug in missing
    ]
    for pipeline in pipelines:
        theirs = {each.get("key"): each for each in _algorithms([by_slug.get(pipeline.slug, {})])}
        for ours in pipeline.algorithms if theirs else ():
            if ours.key not in theirs:
                told.append(f"pipeline {pipeline.slug} lacks the algorithm {ours.key!r}")
                continue
            count = theirs[ours.key].get("category_count")
            if ours.labels and isinstance(count, int) and count != len(ours.labels):
                told.append(
                    f"algorithm {ours.key!r} has {count} categories there and {len(ours.labels)} here, and Antenna"
                    " keeps the first map: give the new one another name"
                )
    return told
