"""What the owner of a job says of it: how many images it has, how many are answered, whether it is over.

The only word that counts for completion. Antenna is asked over its API, a manifest over the ledger of its workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import requests

from tidegate.adapters.configuration import Configuration, read_secret
from tidegate.core.contract import Source, SourceKind
from tidegate.core.errors import FixConfig, RetryLater

REQUEST_SECONDS: Final = 15.0


class JobStanding(StrEnum):
    OPEN = "open"
    COMPLETE = "complete"
    #: Over at its owner's, but not because all was answered: cancelled, failed, revoked.
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class JobCount:
    standing: JobStanding
    done: int | None
    total: int | None
    failed: int | None
    words: str


def count(source: Source, configuration: Configuration) -> JobCount:
    """Ask the owner of `source`. RetryLater where it does not answer."""
    if source.kind is SourceKind.ANTENNA:
        return _antenna(source, configuration)
    from tidegate.adapters.manifest_ledger import count as count_manifest

    return count_manifest(source, configuration)


def _antenna(source: Source, configuration: Configuration) -> JobCount:
    url = f"{source.uri or configuration.antenna_url}/jobs/{source.job}/"
    headers = {}
    if configuration.antenna_token_file is not None:
        token = read_secret(configuration.antenna_token_file, "TIDEGATE_ANTENNA_TOKEN_FILE")
        headers["Authorization"] = f"Token {token}"
    try:
        answer = requests.get(url, headers=headers, timeout=REQUEST_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise RetryLater(f"Antenna does not answer: {type(error).__name__}", delay_seconds=30.0) from None
    if answer.status_code in (401, 403, 404):
        raise FixConfig(f"Antenna answers {answer.status_code} for job {source.job}: check the job's number, the token")
    if not answer.ok:
        raise RetryLater(f"Antenna answers {answer.status_code}", delay_seconds=30.0)
    return antenna_count(answer.json())


def antenna_count(job: dict[str, Any]) -> JobCount:
    """The count out of Antenna's job object."""
    status = str(job.get("status", "UNKNOWN"))
    stages = {stage.get("key"): stage for stage in (job.get("progress") or {}).get("stages", [])}
    process = {param.get("key"): param.get("value") for param in stages.get("process", {}).get("params", [])}
    standing = JobStanding.COMPLETE if status == "SUCCESS" else JobStanding.OPEN
    if status in ("FAILURE", "REVOKED"):
        standing = JobStanding.CLOSED
    return JobCount(
        standing=standing,
        done=_whole(process.get("processed")),
        total=_sum(process.get("processed"), process.get("remaining")),
        failed=_whole(process.get("failed")),
        words=f"Antenna says {status}",
    )


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _sum(*values: Any) -> int | None:
    whole = [_whole(value) for value in values]
    return sum(each for each in whole if each is not None) if all(each is not None for each in whole) else None
