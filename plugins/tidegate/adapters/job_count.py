"""The count of a job by its owner, whoever that is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
