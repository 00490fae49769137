"""Images by URI: roots, links, pipes and buckets."""

from __future__ import annotations

import io
import os
from pathlib import Path

import fsspec
import pytest
from tests.worker.jobs.http_host import Host

from tidegate.core.errors import FixConfig, RejectItem, RetryLater
from tidegate_worker.net.addresses import AddressRules
from tidegate_worker.net.http_fetcher import HttpFetcher
from tidegate_worker.net.uri_fetcher import UriFetcher
from tidegate_worker.net.uris import UriRules


def fetch(uri: str, *roots: str, at_most_bytes: int = 1000) -> bytes:
    into = io.BytesIO()
    fetcher = UriFetcher(UriRules.parse(roots), HttpFetcher(AddressRules.parse(["127.0.0.1"])))
    assert fetcher.fetch(uri, into, at_most_bytes) == len(into.getvalue())
    return into.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.jpg").write_bytes(b"image")
    (tmp_path / "open" / "a b#ü.jpg").write_bytes(b"odd name")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "openly").write_bytes(b"secret")
    (tmp_path / "open" / "inside").symlink_to("a.jpg")
    (tmp_path / "open" / "outside").symlink_to("../secret")
    (tmp_path / "open" / "loop").symlink_to("loop")
    (tmp_path / "open" / "empty").touch()
    os.mkfifo(tmp_path / "open" / "pipe")
    return tmp_path


@pytest.mark.parametrize(("name", "content"), [("a.jpg", b"image"), ("a b#ü.jpg", b"odd name"), ("inside", b"image")])
def test_a_file_below_a_root_is_read(tree: Path, name: str, content: bytes) -> None:
    assert fetch(f"file://{tree}/open/{name}", f"file://{tree}/open") == content
    assert fetch(f"file://localhost{tree}/open/{name}", f"file://localhost{tree}/open/") == content


@pytest.mark.parametrize(
    "path",
    ["secret", "openly", "open/outside", "open/../secret", "open/loop", "open/pipe", "open/empty", "open", "open/none",
     "open/a.jpg/x", "open/%2e%2e/secret", "open/" + "x" * 300, "open/\x00"],
)  # fmt: skip
def test_what_is_no_file_below_a_root_is_rejected(tree: Path, path: str) -> None:
    with pytest.raises(RejectItem):
        fetch(f"file://{tree}/{path}", f"file://{tree}/open")


@pytest.mark.parametrize(
    "uri",
    ["", "a.jpg", "file://other/data/a.jpg", "ftp://h/a", "memory://x::file:///etc/passwd", "s3://bucket/a.jpg",
     "data:image/png;base64,AAAA", "simplecache::http://h/a", "memory://bucket/../../a", "memory://bucketry/a"],
)  # fmt: skip
def test_what_is_not_listed_is_rejected(uri: str) -> None:
    with pytest.raises(RejectItem):
        fetch(uri, "file:///data", "memory://bucket")


def test_too_large_a_file_is_rejected(tree: Path) -> None:
    with pytest.raises(RejectItem, match="fit"):
        fetch(f"file://{tree}/open/a.jpg", f"file://{tree}", at_most_bytes=4)


def test_a_bucket_is_read_below_its_root() -> None:
    files = fsspec.filesystem("memory")
    with files.open("memory://bucket/n/a.jpg", "wb") as file:
        file.write(b"image")
    assert fetch("memory://bucket/n/a.jpg", "memory://bucket/n/") == b"image"
    with pytest.raises(RejectItem, match="not there"):
        fetch("memory://bucket/n/none.jpg", "memory://bucket/n/")
    with pytest.raises(RejectItem, match="fit"):
        fetch("memory://bucket/n/a.jpg", "memory://bucket/n/", at_most_bytes=2)


def test_http_goes_by_the_address_rules(host: Host) -> None:
    assert fetch(host.serve("/a", b"image")) == b"image"
    with pytest.raises((RejectItem, RetryLater)):
        fetch(host.url("/a", host="127.0.0.2"))


def test_a_store_without_its_library_says_which_extra_it_needs() -> None:
    pytest.importorskip("fsspec")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        with pytest.raises(FixConfig, match=r"tidegate-worker\[s3\]"):
            fetch("s3://bucket/a.jpg", "s3://bucket/")
    else:
        pytest.skip("s3fs is installed here")


@pytest.mark.parametrize("root", ["ftp://h/", "http://h/", "a::file:///", "file:///a/../b", "file://host/a", ""])
def test_a_root_that_is_none_says_so(root: str) -> None:
    with pytest.raises(FixConfig):
        UriRules.parse([root])
