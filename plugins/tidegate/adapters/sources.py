"""What the owner of a job says of it: how many images it has, how many are answered, whether it is over.

The only word that counts for completion. Antenna is asked over its API, a manifest over the ledger of its workers.
"""

from __future__ import annotations

from typing import Any

from tidegate.adapters import manifest_ledger
from tidegate.adapters.antenna_api import ask
from tidegate.adapters.configuration import Configuration
from tidegate.adapters.job_count import JobCount, JobStanding
from tidegate.core.contract import Source, SourceKind
from tidegate.core.errors import FixConfig

__all__ = ["JobCount", "JobStanding", "antenna_count", "count"]


def count(source: Source, configuration: Configuration) -> JobCount:
    """Ask the owner of `source`. RetryLater where it does not answer."""
    if source.kind is SourceKind.MANIFEST:
        return manifest_ledger.count(source, configuration)
    base_url = source.uri or configuration.antenna_url
    if not base_url:
        raise FixConfig(f"nobody can be asked about Antenna job {source.job}: set TIDEGATE_ANTENNA_URL")
    return antenna_count(ask(base_url, f"jobs/{source.job}/", configuration))


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
