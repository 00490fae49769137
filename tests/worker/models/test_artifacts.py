"""The cache against a real HTTP host, with hosts that break off, lie and change; and against other processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.models.artifacts import ArtifactCache, sha256_of
from tidegate_worker.models.catalogue import Artifact

BODY = bytes(range(256)) * 4096
HASH = hashlib.sha256(BODY).hexdigest()


@dataclass
class Shop:
    """A host of one file; `cuts` breaks off so many answers half-way."""

    url: str = ""
    body: bytes = BODY
    cuts: int = 0
    status: int = 200
    ranges: list[str] = field(default_factory=list)


@contextmanager
def shop() -> Iterator[Shop]:
    state = Shop()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            state.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if state.status != 200:
                self.send_error(state.status)
                return
            if start >= len(state.body):
                self.send_error(416)
                return
            rest = state.body[start:]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if state.cuts:
                state.cuts -= 1
                rest = rest[: len(rest) // 2]
            self.wfile.write(rest)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/m.pt"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def host() -> Iterator[Shop]:
    with shop() as running:
        yield running


def artifact(uri: str, sha256: str | None = HASH) -> Artifact:
    return Artifact(location="m.pt", uri=uri, sha256=sha256)


def cache(folder: Path) -> ArtifactCache:
    return ArtifactCache(folder, sleep=lambda _: None)


def test_a_file_is_fetched_once_and_then_taken_from_the_folder(host: Shop, tmp_path: Path) -> None:
    first = cache(tmp_path).path(artifact(host.url))
    second = cache(tmp_path).path(artifact(host.url))
    assert first.read_bytes() == BODY
    assert second == first
    assert len(host.ranges) == 1


def test_a_download_that_broke_off_is_resumed_where_it_ended(host: Shop, tmp_path: Path) -> None:
    host.cuts = 2
    assert cache(tmp_path).path(artifact(host.url)).read_bytes() == BODY
    half = len(BODY) // 2
    assert host.ranges == ["", f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_process_killed_while_downloading_leaves_what_the_next_resumes(host: Shop, tmp_path: Path) -> None:
    host.cuts = 99
    with pytest.raises(RetryLater):
        cache(tmp_path).path(artifact(host.url))
    host.cuts, host.ranges = 0, []
    assert cache(tmp_path).path(artifact(host.url)).read_bytes() == BODY
    assert host.ranges[0].startswith("bytes=")


def test_a_file_that_changed_between_two_halves_is_fetched_anew(host: Shop, tmp_path: Path) -> None:
    host.body, host.cuts = b"old" * 100_000, 99
    with pytest.raises(RetryLater):
        cache(tmp_path).path(artifact(host.url))
    host.body, host.cuts = BODY, 0
    assert cache(tmp_path).path(artifact(host.url)).read_bytes() == BODY


def test_a_file_with_another_hash_is_refused_with_both(host: Shop, tmp_path: Path) -> None:
    wanted = "a" * 64
    with pytest.raises(FixConfig, match=f"{HASH}.*{wanted}"):
        cache(tmp_path).path(artifact(host.url, wanted))


def test_a_cached_file_that_rotted_is_fetched_again(host: Shop, tmp_path: Path) -> None:
    kept = cache(tmp_path).path(artifact(host.url))
    kept.write_bytes(b"rot")
    assert cache(tmp_path).path(artifact(host.url)).read_bytes() == BODY


def test_without_a_hash_nothing_is_loaded_and_the_line_to_add_is_told(host: Shop, tmp_path: Path) -> None:
    with pytest.raises(FixConfig, match=f"sha256:\n  m.pt: {HASH}"):
        cache(tmp_path).path(artifact(host.url, None))
    # Once it is pinned, what was fetched to be hashed need not be fetched again.
    assert cache(tmp_path).path(artifact(host.url)).read_bytes() == BODY
    assert len(host.ranges) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_location_that_is_wrong_is_for_a_person(host: Shop, tmp_path: Path, status: int) -> None:
    host.status = status
    with pytest.raises(FixConfig, match=str(status)):
        cache(tmp_path).path(artifact(host.url))
    assert len(host.ranges) == 1


def test_a_host_that_is_unwell_is_asked_again_and_then_left_for_later(host: Shop, tmp_path: Path) -> None:
    host.status = 503
    with pytest.raises(RetryLater, match="503"):
        cache(tmp_path).path(artifact(host.url))
    assert len(host.ranges) > 1


def test_the_query_of_a_presigned_address_is_not_told(host: Shop, tmp_path: Path) -> None:
    host.status = 404
    with pytest.raises(FixConfig) as refusal:
        cache(tmp_path).path(artifact(f"{host.url}?signature=secret"))
    assert "secret" not in str(refusal.value)


def test_files_of_this_machine_are_taken_by_uri(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(BODY)
    kept = cache(tmp_path / "cache").path(artifact(f"file://{tmp_path}/m.pt"))
    assert kept.read_bytes() == BODY
    with pytest.raises(FixConfig, match="does not exist"):
        cache(tmp_path / "cache").path(artifact(f"file://{tmp_path}/n.pt", "b" * 64))


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FixConfig, match="not by ftp"):
        cache(tmp_path).path(artifact("ftp://host/m.pt"))


def _fetch(folder: Path, url: str) -> None:
    assert sha256_of(ArtifactCache(folder).path(artifact(url))) == HASH


def test_pods_that_share_the_folder_fetch_a_file_once(host: Shop, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    pods = [spawn.Process(target=_fetch, args=(tmp_path, host.url)) for _ in range(3)]
    for pod in pods:
        pod.start()
    for pod in pods:
        pod.join(60)
    assert [pod.exitcode for pod in pods] == [0, 0, 0]
    assert len(host.ranges) == 1
