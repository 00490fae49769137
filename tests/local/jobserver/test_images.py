"""The image server and the manifests: sizes, distinct bytes, signed addresses, what the request log tells."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tidegate_local.jobserver.database import Database
from tidegate_local.jobserver.image_urls import ImageUrls
from tidegate_local.jobserver.images import with_size

from .conftest import Worker


def fetch(url: str, headers: dict[str, str] | None = None) -> requests.Response:
    return requests.get(url, timeout=10, headers=headers)


@pytest.mark.parametrize(
    ("kind", "size", "file_bytes"),
    [
        ("large", (4096, 3072), 22.5e6),
        ("typical", (1024, 768), 1.41e6),
        ("trap4k", (4096, 2160), 1.85e6),
        ("tiny", (320, 240), 10e3),
    ],
)
def test_images_of_a_kind_have_its_pixels_and_about_its_bytes(
    worker: Worker, kind: str, size: tuple[int, int], file_bytes: float
) -> None:
    (task,) = worker.reserve(worker.start_job(images=1, kind=kind))
    answer = fetch(task["image_url"])
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert int(answer.headers["Content-Length"]) == len(answer.content) == pytest.approx(file_bytes, rel=0.05)
    image = Image.open(io.BytesIO(answer.content))
    assert (image.size, image.mode) == (size, "RGB")


def test_a_detector_finds_dark_insects_on_a_light_sheet(worker: Worker) -> None:
    (task,) = worker.reserve(worker.start_job(images=1))
    grey = Image.open(io.BytesIO(fetch(task["image_url"]).content)).convert("L")
    dark = sum(grey.histogram()[:90]) / (grey.width * grey.height)
    assert 0.0005 < dark < 0.2


def test_every_image_has_its_own_address_and_its_own_bytes(worker: Worker) -> None:
    tasks = worker.reserve(worker.start_job(images=12))
    contents = [fetch(task["image_url"]).content for task in tasks]
    assert len({task["image_url"] for task in tasks}) == 12
    assert len({hashlib.sha256(content).digest() for content in contents}) == 12
    for content in contents:
        Image.open(io.BytesIO(content)).load()


def test_a_mixed_job_holds_several_kinds(worker: Worker) -> None:
    tasks = worker.reserve(worker.start_job(images=5, kind="mixed"))
    sizes = {int(requests.head(task["image_url"], timeout=10).headers["Content-Length"]) // 10**5 for task in tasks}
    assert len(sizes) == 3


def test_an_image_needs_its_own_query_and_no_header(worker: Worker) -> None:
    first, second = worker.reserve(worker.start_job(images=2))
    assert fetch(first["image_url"]).status_code == 200
    bare = first["image_url"].partition("?")[0]
    stolen = f"{bare}?{second['image_url'].partition('?')[2]}"
    for url in (bare, stolen, first["image_url"][:-4] + "0000", f"{bare}?X-Amz-Signature=%C3%A9&X-Amz-Date=now"):
        assert fetch(url, headers=worker.headers).status_code == 403


def test_images_come_from_another_address_than_the_api(worker: Worker) -> None:
    (task,) = worker.reserve(worker.start_job(images=1))
    assert task["image_url"].startswith("http://127.0.0.2:")
    host = task["image_url"].split("/")[2]
    assert fetch(f"http://{host}/api/v2/jobs/").status_code == 404


def test_the_request_log_shows_a_token_that_was_sent_to_the_image_server(worker: Worker) -> None:
    well, badly = worker.reserve(worker.start_job(images=2))
    fetch(well["image_url"], headers={"User-Agent": "careful"})
    fetch(badly["image_url"], headers=worker.headers)
    *_, first, second = worker.server.requests("image")
    assert (first["carries_authorization"], first["headers"]["User-Agent"]) == (False, "careful")
    assert second["carries_authorization"]
    assert worker.server.token not in json.dumps(worker.server.requests())
    assert "X-Amz-Signature" in first["query_names"]
    assert well["image_url"].rpartition("=")[2] not in json.dumps(worker.server.requests())


def test_the_truth_counts_downloads(worker: Worker) -> None:
    job = worker.start_job(images=2)
    task = worker.reserve(job)[0]
    for _ in range(3):
        fetch(task["image_url"])
    assert {image.image_id: image.downloads for image in worker.server.truth(job).images}[task["id"]] == 3


def test_a_manifest_lists_addresses_of_images_as_csv_and_as_json_lines(worker: Worker) -> None:
    manifest = worker.server.create_manifest("night-1", images=4)
    rows = list(csv.DictReader(io.StringIO(fetch(manifest["csv"]).text)))
    lines = [json.loads(line) for line in fetch(manifest["jsonl"]).text.splitlines()]
    assert rows == lines
    assert [row["image_id"] for row in rows] == manifest["image_ids"]
    assert all(fetch(row["uri"]).status_code == 200 for row in rows)


def test_a_manifests_name_is_taken_once_and_cannot_be_a_path(worker: Worker) -> None:
    worker.server.create_manifest("night-2", images=1)
    for name in ("night-2", "../night", ""):
        with pytest.raises(ValueError, match="answered 400"):
            worker.server.create_manifest(name, images=1)
    assert fetch(f"{worker.server.url}/manifests/unknown.csv").status_code == 404


def test_an_address_is_good_for_seven_days_from_its_minting(tmp_path: Path) -> None:
    urls = ImageUrls(Database(tmp_path / "db.sqlite"))
    for age_days, admitted in ((0.0, True), (6.9, True), (7.1, False)):
        url = urls.signed(1, time.time() - age_days * 86400, "host")
        path, _, query = url.removeprefix("http://host").partition("?")
        assert urls.admits(path, dict(parse_qsl(query))) is admitted


@given(width=st.integers(1, 65535), height=st.integers(1, 65535))
def test_a_changed_header_shows_the_new_size_and_changes_nothing_else(width: int, height: int) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    changed = with_size(out.getvalue(), width, height)
    assert len(changed) == len(out.getvalue())
    assert sum(a != b for a, b in zip(changed, out.getvalue(), strict=True)) <= 4
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        assert Image.open(io.BytesIO(changed)).size == (width, height)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
