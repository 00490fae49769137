"""The open jobs of an Antenna server, as a scheduler needs them: number and pipeline; nothing is leased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import requests

from tidegate.adapters.configuration import Configuration, read_secret
from tidegate.core.errors import FixConfig, RetryLater

REQUEST_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class OpenJob:
    job: str
    pipeline: str


def open_jobs(configuration: Configuration, at_most: int) -> list[OpenJob]:
    """Up to `at_most` unfinished jobs of the pipelines that are served here, oldest first."""
    headers = {}
    if configuration.antenna_token_file is not None:
        token = read_secret(configuration.antenna_token_file, "TIDEGATE_ANTENNA_TOKEN_FILE")
        headers["Authorization"] = f"Token {token}"
    query = {
        "pipeline__slug__in": ",".join(configuration.pipelines),
        "ids_only": "1",
        "incomplete_only": "1",
        "dispatch_mode": "async_api",
        # Without a limit the server hands out one job, at random.
        "limit": str(at_most),
    }
    try:
        answer = requests.get(
            f"{configuration.antenna_url}/jobs/",
            params=query,
            headers=headers,
            timeout=REQUEST_SECONDS,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        raise RetryLater(f"Antenna does not answer: {type(error).__name__}", delay_seconds=60.0) from None
    if answer.status_code in (401, 403):
        raise FixConfig(f"Antenna answers {answer.status_code} to the list of jobs: check TIDEGATE_ANTENNA_TOKEN_FILE")
    if not answer.ok:
        raise RetryLater(f"Antenna answers {answer.status_code} to the list of jobs", delay_seconds=60.0)
    found = {
        str(job["id"]): OpenJob(str(job["id"]), job["pipeline_slug"])
        for job in answer.json()["results"]
        if job.get("pipeline_slug") in configuration.pipelines
    }
    return sorted(found.values(), key=lambda each: int(each.job))
