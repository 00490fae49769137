"""Reading manifests: formats, places, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.worker.jobs.http_host import Host

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.manifest.rows import Manifest, Row
from tidegate_worker.net.addresses import AddressRules
from tidegate_worker.net.http_fetcher import FetchLimits, HttpFetcher
from tidegate_worker.net.uris import UriRules, absolute

HTTP = HttpFetcher(AddressRules.parse(["127.0.0.0/8"]), FetchLimits(attempts=1))


def manifest(path: Path | str, root: Path | str) -> Manifest:
    uri = f"file://{path}" if isinstance(path, Path) else path
    return Manifest(uri, UriRules.parse([f"file://{root}" if isinstance(root, Path) else root]), HTTP)


def rows(tmp_path: Path, name: str, content: bytes) -> list[Row]:
    path = tmp_path / name
    path.write_bytes(content)
    return list(manifest(path, tmp_path).rows())


def test_csv_is_read_by_its_header(tmp_path: Path) -> None:
    content = 'site,uri,id\nnorth,"https://h/a,b.jpg", A1 \nsouth,s3://b/c.jpg,\n\n'.encode("utf-8-sig")
    assert rows(tmp_path, "m.csv", content) == [Row("https://h/a,b.jpg", "A1"), Row("s3://b/c.jpg", None)]


def test_a_column_image_id_names_images_too(tmp_path: Path) -> None:
    assert rows(tmp_path, "m.csv", b"image_id,uri\n7,https://h/a\n") == [Row("https://h/a", "7")]


def test_ids_may_be_missing_altogether(tmp_path: Path) -> None:
    assert rows(tmp_path, "m.csv", b"uri\nhttps://h/a\nhttps://h/a\n") == [Row("https://h/a", None)] * 2


@pytest.mark.parametrize("name", ["m.jsonl", "m.ndjson"])
def test_json_lines_are_read(tmp_path: Path, name: str) -> None:
    lines = [{"uri": "https://h/a", "id": 5, "more": [1]}, {"uri": "https://h/ü"}]
    content = "\n".join(map(json.dumps, lines)).encode() + b"\n\n"
    assert rows(tmp_path, name, content) == [Row("https://h/a", "5"), Row("https://h/ü", None)]


def test_parquet_is_read(tmp_path: Path) -> None:
    table = pa.table({"uri": ["https://h/a", "https://h/b", None], "id": [1, None, 3], "other": [1.0, 2.0, 3.0]})
    pq.write_table(table, tmp_path / "m.parquet")
    found = list(manifest(tmp_path / "m.parquet", tmp_path).rows())
    assert found == [Row("https://h/a", "1"), Row("https://h/b", None), Row("", "3")]


@pytest.mark.parametrize("name", ["m.csv.gz", "m.jsonl.gz"])
def test_gzipped_manifests_are_read(tmp_path: Path, name: str) -> None:
    content = b"uri\nhttps://h/a\n" if "csv" in name else b'{"uri": "https://h/a"}\n'
    assert rows(tmp_path, name, gzip.compress(content)) == [Row("https://h/a", None)]


def test_bare_paths_lie_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "night").mkdir()
    content = b"uri\nimages/1.jpg\n../2.jpg\n/abs/3.jpg\n"
    assert [row.uri for row in rows(tmp_path, "night/m.csv", content)] == [
        f"file://{tmp_path}/night/images/1.jpg",
        f"file://{tmp_path}/2.jpg",
        "file:///abs/3.jpg",
    ]
    assert absolute("a/1.jpg", "s3://bucket/n/m.csv") == "s3://bucket/n/a/1.jpg"
    assert absolute("/a/1.jpg", "s3://bucket/n/m.csv") == "s3://bucket/a/1.jpg"
    assert absolute("a.jpg", "https://h/n/m.csv?sig=x") == "https://h/n/a.jpg"


def test_a_manifest_over_http_is_read_under_the_address_rules(host: Host) -> None:
    url = host.serve("/m.csv", b"uri\na.jpg\n")
    assert [row.uri for row in Manifest(url + "?sig=1", UriRules(), HTTP).rows()] == [host.url("/a.jpg")]
    with pytest.raises(FixConfig, match="forbidden"):
        list(Manifest("http://169.254.169.254/m.csv", UriRules(), HTTP).rows())
    with pytest.raises(RetryLater):
        list(Manifest(url, UriRules(), HttpFetcher(limits=FetchLimits(attempts=1))).rows())


def test_a_manifest_in_a_bucket_is_read() -> None:
    with fsspec.filesystem("memory").open("memory://bucket/m.csv", "wb") as file:
        file.write(b"uri\nimages/1.jpg\n")
    found = list(manifest("memory://bucket/m.csv", "memory://bucket/").rows())
    assert [row.uri for row in found] == ["memory://bucket/images/1.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", b"path\nx\n", "no column 'uri'"),
        ("m.csv", b"", "no column 'uri'"),
        ("m.csv", b"id,uri\n1,https://h/a\n2\n", "after row 1: line 3 has 1 fields"),
        ("m.csv", b'uri\n"https://h/a\n', "broken"),
        ("m.csv", b"uri\n\xff\xfe\n", "broken"),
        ("m.csv", b"id,uri\n" + b"x" * 600 + b",https://h/a\n", "longer than"),
        ("m.jsonl", b'{"uri": "https://h/a"}\nnot json\n', "after row 1"),
        ("m.jsonl", b'{"url": "https://h/a"}\n', "no object with a text 'uri'"),
        ("m.parquet", b"PAR1 but not really", "broken"),
        ("m.csv.gz", b"not gzip", "broken"),
        ("m.csv.gz", gzip.compress(b"uri\n" + b"https://h/a\n" * 5000)[:-30], "broken"),
    ],
)
def test_a_broken_manifest_is_told_with_the_place(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    with pytest.raises(FixConfig, match=says):
        rows(tmp_path, name, content)


@pytest.mark.parametrize(
    "uri",
    ["file:///etc/passwd.csv", "m.csv", "s3://bucket/m.csv", "memory://x::file:///m.csv", "simplecache::http://h/m.csv",
     "file:///allowed/../etc/m.csv", "ftp://h/m.csv", "/allowed/m.txt", "file:///allowed/m"],
)  # fmt: skip
def test_a_manifest_outside_the_roots_or_of_no_known_kind_is_refused(uri: str) -> None:
    with pytest.raises(FixConfig):
        Manifest(uri, UriRules.parse(["/allowed"]), HTTP)


def test_a_missing_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(FixConfig, match="cannot be read"):
        list(manifest(tmp_path / "none.csv", tmp_path).rows())


def test_the_fingerprint_changes_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"uri\n" + b"https://h/a\n" * 300_000)
    before = manifest(path, tmp_path).fingerprint()
    assert manifest(path, tmp_path).fingerprint() == before
    path.write_bytes(path.read_bytes()[:-2] + b"b\n")
    assert manifest(path, tmp_path).fingerprint() != before


def test_reading_takes_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"uri\n" + b"https://host/some/long/path/to/an/image.jpg\n" * 200_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in manifest(path, tmp_path).rows()) == 200_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
