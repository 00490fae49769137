"""What one job server is started with; the defaults are those of a running Antenna, but for the reaction times.

Antenna saves about 16 results a second and takes minutes to notice things; a demo waits for neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: The job stream redelivers an unanswered task once (`max_deliver` 2); the second expiry loses it without a word.
MAX_DELIVER = 2
MAX_ACK_PENDING = 1000
#: A presigned URL is good for seven days from the moment its job was queued.
URL_VALID_SECONDS = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """One server; lease time and counts can be set per job, the rest holds for all of them."""

    workdir: Path
    host: str = "127.0.0.1"
    port: int = 0
    #: A second address that serves images alone, as an object store beside the API would.
    image_host: str | None = None
    token_file: Path | None = None
    lease_seconds: float = 300.0
    #: Between a job's STARTED and its first deliverable task: /tasks/ answers `[]` meanwhile.
    collect_seconds: float = 0.2
    #: How long a result waits in the task queue before it is saved and acked.
    save_delay_seconds: float = 0.05
    #: How long /tasks/ looks for work on an existing stream before it answers `[]`.
    empty_poll_seconds: float = 0.5
    reaper_period_seconds: float = 900.0
    silent_job_seconds: float = 600.0

    @property
    def database_path(self) -> Path:
        return self.workdir / "jobserver.sqlite"

    @property
    def image_dir(self) -> Path:
        return self.workdir / "images"

    @property
    def admin_token_path(self) -> Path:
        return self.token_file or self.workdir / "token"

    @property
    def address_path(self) -> Path:
        """Where a started server says its URL and process id."""
        return self.workdir / "server.json"
