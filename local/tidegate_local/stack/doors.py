"""Where a running stack's servers are and what opens them, whoever started it; starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tidegate_local.jobserver.control import JobServer


def _unwatched() -> None:
    """Whoever started the stack watches it."""


@dataclass(frozen=True, slots=True)
class Doors:
    airflow_url: str
    airflow_user: str
    airflow_password: str = field(repr=False)
    prometheus_url: str
    prometheus_user: str
    prometheus_password: str = field(repr=False)
    #: Of the run store, as this machine reaches it.
    store_url: str = field(repr=False)
    jobs: JobServer
    #: The job server as pods reach it.
    jobs_url_of_pods: str
    #: Raises where a server of the stack has ended, with its last words.
    demand_alive: Callable[[], None] = _unwatched

    def as_pods_see(self, url: str) -> str:
        """An address of the job server, such as a manifest's, as it is told to pods."""
        return url.replace(self.jobs.url, self.jobs_url_of_pods, 1)
