"""The open jobs of an Antenna server, as a scheduler needs them: number and pipeline; nothing is leased."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.adapters.antenna_api import ask
from tidegate.adapters.configuration import Configuration
from tidegate.core.errors import FixConfig


@dataclass(frozen=True, slots=True)
class OpenJob:
    job: str
    pipeline: str


def open_jobs(configuration: Configuration, at_most: int) -> list[OpenJob]:
    """Up to `at_most` unfinished jobs of the pipelines that are served here, oldest first."""
    if not configuration.antenna_url:
        raise FixConfig("no open jobs can be asked for: set TIDEGATE_ANTENNA_URL")
    query = {
        "pipeline__slug__in": ",".join(configuration.pipelines),
        "ids_only": "1",
        "incomplete_only": "1",
        "dispatch_mode": "async_api",
        # Without a limit the server hands out one job, at random.
        "limit": str(at_most),
    }
    answer = ask(configuration.antenna_url, "jobs/", configuration, query)
    found = {
        str(job["id"]): OpenJob(str(job["id"]), job["pipeline_slug"])
        for job in answer["results"]
        if job.get("pipeline_slug") in configuration.pipelines
    }
    return sorted(found.values(), key=lambda each: int(each.job))
