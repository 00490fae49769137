"""The count of an Antenna job over real HTTP: what counts as complete, and what each refusal asks of a person."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tidegate.adapters.antenna_jobs import OpenJob, open_jobs
from tidegate.adapters.configuration import Configuration
from tidegate.adapters.sources import JobStanding, antenna_count, count
from tidegate.core.contract import Source, SourceKind
from tidegate.core.errors import FixConfig, RetryLater


class Antenna:
    """Answers every request with `status` and `body`, and keeps what was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.location = 200, b"{}", ""
        self.asked: list[tuple[str, str | None]] = []
        antenna = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                antenna.asked.append((self.path, self.headers.get("Authorization")))
                self.send_response(antenna.status)
                if antenna.location:
                    self.send_header("Location", antenna.location)
                self.end_headers()
                self.wfile.write(antenna.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/api/v2"

    @property
    def source(self) -> Source:
        return Source(kind=SourceKind.ANTENNA, uri=self.url, job="7")


@pytest.fixture
def antenna() -> Iterator[Antenna]:
    made = Antenna()
    yield made
    made.server.shutdown()
    made.server.server_close()


def settings(**values: Any) -> Configuration:
    return Configuration.model_validate(values)


def job(status: str, **process: Any) -> dict[str, Any]:
    params = [{"name": name, "key": name, "value": value} for name, value in process.items()]
    stages = [{"key": "collect", "params": []}, {"key": "process", "params": params}]
    return {"id": 7, "status": status, "progress": {"summary": {}, "stages": stages}}


def test_the_jobs_own_count_is_read_with_the_token(antenna: Antenna, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    antenna.body = json.dumps(job("STARTED", processed=12, remaining=8, failed=2)).encode()
    found = count(antenna.source, settings(antenna_token_file=tmp_path / "token"))
    assert (found.standing, found.done, found.total, found.failed) == (JobStanding.OPEN, 12, 20, 2)
    assert antenna.asked == [("/api/v2/jobs/7/", "Token abc")]


@pytest.mark.parametrize(
    ("status", "standing"),
    [
        ("SUCCESS", JobStanding.COMPLETE),
        ("FAILURE", JobStanding.CLOSED),
        ("REVOKED", JobStanding.CLOSED),
        ("STARTED", JobStanding.OPEN),
        ("CANCELING", JobStanding.OPEN),
        ("something new", JobStanding.OPEN),
    ],
)
def test_only_the_owners_success_is_complete(status: str, standing: JobStanding) -> None:
    assert antenna_count(job(status, processed=20, remaining=0)).standing is standing


@pytest.mark.parametrize("told", [{}, {"progress": None}, {"progress": {"stages": []}}, {"status": None}])
def test_a_job_that_tells_no_count_is_open_without_one(told: dict[str, Any]) -> None:
    found = antenna_count({"status": "CREATED", **told})
    assert (found.standing, found.done, found.total) == (JobStanding.OPEN, None, None)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_a_person_must_mend_is_named(antenna: Antenna, status: int) -> None:
    antenna.status = status
    with pytest.raises(FixConfig, match="TIDEGATE_ANTENNA_TOKEN_FILE"):
        count(antenna.source, settings())


@pytest.mark.parametrize(("status", "body"), [(500, b"{}"), (503, b""), (200, b"<html>")])
def test_a_server_in_trouble_is_asked_again_later(antenna: Antenna, status: int, body: bytes) -> None:
    antenna.status, antenna.body = status, body
    with pytest.raises(RetryLater, match=str(status)):
        count(antenna.source, settings())


def test_a_server_that_is_away_is_asked_again_later() -> None:
    source = Source(kind=SourceKind.ANTENNA, uri="http://127.0.0.1:1/api/v2", job="7")
    with pytest.raises(RetryLater, match="does not answer"):
        count(source, settings())


def test_the_token_follows_no_redirect(antenna: Antenna, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc")
    elsewhere = Antenna()
    antenna.status, antenna.location = 302, f"{elsewhere.url}/jobs/7/"
    with pytest.raises(FixConfig, match="redirects"):
        count(antenna.source, settings(antenna_token_file=tmp_path / "token"))
    elsewhere.server.shutdown()
    elsewhere.server.server_close()
    assert elsewhere.asked == []


def test_open_jobs_are_those_of_the_pipelines_served_here_oldest_first(antenna: Antenna) -> None:
    listed = [
        {"id": 12, "pipeline_slug": "moths"},
        {"id": 9, "pipeline_slug": "moths"},
        {"id": 3, "pipeline_slug": "x"},
    ]
    antenna.body = json.dumps({"results": listed}).encode()
    found = open_jobs(settings(antenna_url=antenna.url, pipelines=("moths",)), at_most=5)
    assert found == [OpenJob("9", "moths"), OpenJob("12", "moths")]
    assert "limit=5" in antenna.asked[0][0]
