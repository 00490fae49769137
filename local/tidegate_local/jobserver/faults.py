"""The switches for the faults that a worker must survive: which there are, which are on, and when one fires.

A fault holds for one job, one image, one endpoint or for all, a number of times or for ever, always or by chance; it is
kept in the database, so that a restarted server goes on failing as it was told. What a fault does is with whom it hits:
request faults in `interference`, image faults in `image_host`, the rest in `lifecycle` and `results`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, get_args

from tidegate_local.jobserver.database import Database

Endpoint = Literal["login", "jobs", "job", "tasks", "result", "register"]
ENDPOINTS: Final[frozenset[str]] = frozenset(get_args(Endpoint))


class Kind(StrEnum):
    """Every fault, by whom it hits."""

    # requests
    UNAVAILABLE = "unavailable"
    SERVER_ERROR = "server_error"
    SLOW = "slow"
    TRICKLE = "trickle"
    TIMEOUT = "timeout"
    LOST_RESPONSE = "lost_response"
    # jobs and results
    HANG = "hang"
    SAVE_FAILURE = "save_failure"
    # images
    IMAGE_STATUS = "image_status"
    IMAGE_HTML = "image_html"
    IMAGE_TRUNCATED = "image_truncated"
    IMAGE_CORRUPT = "image_corrupt"
    IMAGE_BOMB = "image_bomb"
    IMAGE_TRICKLE = "image_trickle"
    IMAGE_STALL = "image_stall"
    IMAGE_REDIRECT = "image_redirect"


REQUEST_KINDS: Final = (
    Kind.SLOW,
    Kind.TIMEOUT,
    Kind.UNAVAILABLE,
    Kind.SERVER_ERROR,
    Kind.TRICKLE,
    Kind.LOST_RESPONSE,
)
IMAGE_KINDS: Final = tuple(kind for kind in Kind if kind.startswith("image_"))

#: What can be told to each fault beside its reach, with the default.
OPTIONS: Final[dict[Kind, dict[str, Any]]] = {
    Kind.UNAVAILABLE: {"delay_seconds": 0.0},
    Kind.SERVER_ERROR: {},
    Kind.SLOW: {"delay_seconds": 1.0},
    Kind.TRICKLE: {"bytes_per_second": 200},
    Kind.TIMEOUT: {"delay_seconds": 120.0},
    Kind.LOST_RESPONSE: {},
    Kind.HANG: {},
    Kind.SAVE_FAILURE: {},
    Kind.IMAGE_STATUS: {"status": 404},
    Kind.IMAGE_HTML: {},
    Kind.IMAGE_TRUNCATED: {"keep_ratio": 0.5, "honest_length": False},
    Kind.IMAGE_CORRUPT: {},
    Kind.IMAGE_BOMB: {"width": 65_000, "height": 65_000},
    Kind.IMAGE_TRICKLE: {"bytes_per_second": 2_000},
    Kind.IMAGE_STALL: {"delay_seconds": 120.0},
    Kind.IMAGE_REDIRECT: {"location": "http://169.254.169.254/latest/meta-data/"},
}


class UnknownFault(ValueError):
    """A fault that cannot be set; the message says what can."""


@dataclass(slots=True)
class Fault:
    """One switch that is on; a bound of None reaches everything."""

    id: int
    kind: Kind
    endpoint: str | None
    job_id: int | None
    image_id: int | None
    times_left: int | None
    ratio: float
    options: dict[str, Any]

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind.value,
            "endpoint": self.endpoint,
            "job": self.job_id,
            "image": self.image_id,
            "times_left": self.times_left,
            "ratio": self.ratio,
            "options": self.options,
        }


class Faults:
    """All faults that are on, in memory for every request to ask, in the database to stay."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._faults = [
            Fault(
                row["id"], Kind(row["kind"]), row["endpoint"], row["job_id"], row["image_id"], row["times_left"],
                row["ratio"], json.loads(row["options"]),
            )
            for row in db.all("SELECT * FROM faults ORDER BY id")
        ]  # fmt: skip

    def add(
        self,
        kind: str,
        *,
        endpoint: str | None = None,
        job_id: int | None = None,
        image_id: int | None = None,
        times: int | None = None,
        ratio: float = 1.0,
        options: dict[str, Any] | None = None,
    ) -> Fault:
        """Switch a fault on, `times` times (None: until it is switched off), each time with probability `ratio`."""
        try:
            known = Kind(kind)
        except ValueError:
            raise UnknownFault(f"no fault {kind!r}; there are: {', '.join(Kind)}") from None
        if endpoint is not None and endpoint not in ENDPOINTS:
            raise UnknownFault(f"no endpoint {endpoint!r}; there are: {', '.join(sorted(ENDPOINTS))}")
        if foreign := set(options or {}) - set(OPTIONS[known]):
            raise UnknownFault(f"{kind} has no option {sorted(foreign)}; it has: {sorted(OPTIONS[known]) or 'none'}")
        if (times is not None and times < 1) or not 0 < ratio <= 1:
            raise UnknownFault("times must be at least 1 and ratio within (0, 1]")
        merged = OPTIONS[known] | (options or {})
        fault_id = self._db.insert(
            "INSERT INTO faults (kind, endpoint, job_id, image_id, times_left, ratio, options) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            known.value, endpoint, job_id, image_id, times, ratio, json.dumps(merged),
        )  # fmt: skip
        fault = Fault(fault_id, known, endpoint, job_id, image_id, times, ratio, merged)
        self._faults.append(fault)
        return fault

    def remove(self, fault_id: int) -> None:
        self._db.execute("DELETE FROM faults WHERE id = ?", fault_id)
        self._faults = [fault for fault in self._faults if fault.id != fault_id]

    def clear(self) -> None:
        self._db.execute("DELETE FROM faults")
        self._faults = []

    def any_on(self, *kinds: Kind) -> bool:
        return any(fault.kind in kinds for fault in self._faults)

    def shown(self) -> list[dict[str, Any]]:
        return [fault.shown() for fault in self._faults]

    def fire(
        self,
        *kinds: Kind,
        endpoint: str | None = None,
        job_ids: Collection[int] = (),
        image_id: int | None = None,
    ) -> Fault | None:
        """The first fault of these kinds that reaches this place, counted as fired; None where all goes well."""
        for fault in self._faults:
            if (
                fault.kind in kinds
                and fault.endpoint in (None, endpoint)
                and (fault.job_id is None or fault.job_id in job_ids)
                and fault.image_id in (None, image_id)
                and random.random() < fault.ratio
            ):
                self._count_down(fault)
                return fault
        return None

    def _count_down(self, fault: Fault) -> None:
        if fault.times_left is None:
            return
        fault.times_left -= 1
        if fault.times_left:
            self._db.execute("UPDATE faults SET times_left = ? WHERE id = ?", fault.times_left, fault.id)
        else:
            self.remove(fault.id)
