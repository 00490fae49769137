"""The fetcher against a real host on loopback that does its worst."""

from __future__ import annotations

import gzip
import io
import os
import resource
import shutil
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.worker.jobs.http_host import Host, Request, response, running_host

from tidegate.core.errors import RejectItem, RetryLater
from tidegate_worker.net.addresses import AddressRules
from tidegate_worker.net.http_fetcher import FetchLimits, HttpFetcher

MIB = 1024 * 1024
IMAGE = os.urandom(300_000)


def fetcher(*networks: str, **limits: float) -> HttpFetcher:
    impatient = {"pause_seconds": 0.01, "silence_seconds": 2.0, "connect_seconds": 2.0} | limits
    return HttpFetcher(AddressRules.parse(networks or ["127.0.0.0/8"]), FetchLimits(**impatient))  # type: ignore[arg-type]


def fetch(url: str, at_most_bytes: int = 10 * MIB, by: HttpFetcher | None = None) -> bytes:
    into = io.BytesIO()
    count = (by or fetcher()).fetch(url, into, at_most_bytes)
    assert count == len(into.getvalue())
    return into.getvalue()


def in_turn(*scripts: Callable[[socket.socket, Request], None]) -> Callable[[socket.socket, Request], None]:
    left = list(scripts)
    return lambda peer, request: (left.pop(0) if len(left) > 1 else left[0])(peer, request)


def say(data: bytes, then_close: bool = False) -> Callable[[socket.socket, Request], None]:
    def script(peer: socket.socket, _: Request) -> None:
        peer.sendall(data)
        if then_close:
            peer.shutdown(socket.SHUT_RDWR)

    return script


def test_an_image_arrives_whole(host: Host) -> None:
    assert fetch(host.serve("/a.jpg", IMAGE)) == IMAGE


def test_a_file_that_already_holds_bytes_keeps_them_through_a_retry(host: Host) -> None:
    host.scripts["/a"] = in_turn(say(response(IMAGE[:1000], length=5000), then_close=True), say(response(IMAGE)))
    into = io.BytesIO(b"head")
    into.seek(4)
    assert fetcher().fetch(host.url("/a"), into, MIB) == len(IMAGE)
    assert into.getvalue() == b"head" + IMAGE


def test_connections_are_used_again(host: Host) -> None:
    peers = set()

    def script(peer: socket.socket, _: Request) -> None:
        peers.add(peer.getpeername())
        peer.sendall(response(IMAGE))

    host.scripts["/a"] = script
    one = fetcher()
    for _ in range(5):
        fetch(host.url("/a"), by=one)
    assert len(peers) == 1


def test_no_credentials_leave_for_an_image_host(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login u password p\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    host.serve("/set", IMAGE, headers="Set-Cookie: a=b\r\n")
    one = fetcher()
    fetch(host.url("/set").replace("http://", "http://user:secret@"), by=one)
    fetch(host.url("/set"), by=one)
    for request in host.requests:
        assert not {"authorization", "cookie", "proxy-authorization"} & set(request.headers)
        assert "secret" not in request.path


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
def test_what_is_not_there_is_rejected_at_once(host: Host, status: str) -> None:
    with pytest.raises(RejectItem, match="not there"):
        fetch(host.serve("/a", b"", status))
    assert host.count("/a") == 1


@pytest.mark.parametrize("status", ["401 No", "403 Forbidden", "400 Bad"])
def test_a_refusal_is_the_image_s_own_only_once_its_host_has_served_another(host: Host, status: str) -> None:
    one = fetcher()
    refused = host.serve("/refused", b"<Error/>", status)
    with pytest.raises(RetryLater):
        fetch(refused, by=one)
    fetch(host.serve("/good", IMAGE), by=one)
    with pytest.raises(RejectItem, match="refuses"):
        fetch(refused, by=one)


@pytest.mark.parametrize("status", ["500 Oops", "503 Busy", "429 Slow down", "408 Late"])
def test_a_host_in_trouble_is_asked_again_and_then_left_for_later(host: Host, status: str) -> None:
    with pytest.raises(RetryLater):
        fetch(host.serve("/a", b"", status))
    assert host.count("/a") == 3


def test_a_host_that_recovers_is_forgiven(host: Host) -> None:
    host.scripts["/a"] = in_turn(say(response(b"", "503 Busy")), say(response(IMAGE)))
    assert fetch(host.url("/a")) == IMAGE


def test_retry_after_is_handed_on_where_it_is_longer_than_the_time_left(host: Host) -> None:
    began = time.monotonic()
    with pytest.raises(RetryLater) as caught:
        fetch(host.serve("/a", b"", "503 Busy", "Retry-After: 250\r\n"))
    assert caught.value.delay_seconds == 250
    assert time.monotonic() - began < 5
    assert host.count("/a") == 1


def test_a_body_that_always_ends_at_the_same_byte_is_rejected(host: Host) -> None:
    host.scripts["/a"] = say(response(IMAGE[:1000], length=5000), then_close=True)
    with pytest.raises(RejectItem, match="same byte"):
        fetch(host.url("/a"))
    assert host.count("/a") == 3


def test_a_body_cut_at_different_bytes_may_still_come(host: Host) -> None:
    cuts = [say(response(IMAGE[:n], length=5000), then_close=True) for n in (100, 200, 300)]
    host.scripts["/a"] = in_turn(*cuts)
    with pytest.raises(RetryLater, match="cut short"):
        fetch(host.url("/a"))


def test_a_declared_size_beyond_the_bound_is_refused_before_a_byte_is_read(host: Host) -> None:
    host.scripts["/a"] = say(response(b"", length=10**15))
    with pytest.raises(RejectItem, match="fit"):
        fetch(host.url("/a"), at_most_bytes=1000)


def test_an_endless_body_ends_at_the_bound(host: Host) -> None:
    def endless(peer: socket.socket, _: Request) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            peer.sendall(b"x" * 65536)

    host.scripts["/a"] = endless
    with pytest.raises(RejectItem, match="fit"):
        fetch(host.url("/a"), at_most_bytes=MIB)


def test_a_compressed_bomb_is_stopped_by_its_unpacked_size_in_little_memory(host: Host) -> None:
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(packer.compress(bytes(MIB)) for _ in range(1024)) + packer.flush()
    host.serve("/bomb", packed, headers="Content-Encoding: gzip\r\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RejectItem, match="fit"):
        fetch(host.url("/bomb"), at_most_bytes=8 * MIB)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 100


def test_a_body_compressed_against_our_wish_is_unpacked(host: Host) -> None:
    assert fetch(host.serve("/a", gzip.compress(IMAGE), headers="Content-Encoding: gzip\r\n")) == IMAGE


def test_an_empty_body_is_rejected(host: Host) -> None:
    with pytest.raises(RejectItem, match="empty"):
        fetch(host.serve("/a", b""))


def test_a_page_in_place_of_an_image_is_told_as_such(host: Host) -> None:
    one = fetcher()
    page = host.serve("/page", b"\n <html>log in</html>", headers="Content-Type: text/html; charset=utf-8\r\n")
    with pytest.raises(RetryLater, match="web page"):
        fetch(page, by=one)
    fetch(host.serve("/good", IMAGE), by=one)
    with pytest.raises(RejectItem, match="web page"):
        fetch(page, by=one)


def test_an_image_that_is_mislabelled_as_a_page_is_taken(host: Host) -> None:
    assert fetch(host.serve("/a", IMAGE, headers="Content-Type: text/html\r\n")) == IMAGE


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b", "gopher://a", "", "/etc/passwd", "http://[::1", "http:///a"]
)
def test_only_http_urls_that_can_be_read_are_asked(url: str) -> None:
    with pytest.raises(RejectItem):
        fetch(url)


def test_a_redirect_is_followed(host: Host) -> None:
    host.serve("/a", b"", "302 Found", "Location: /b\r\n")
    host.serve("/b", IMAGE)
    assert fetch(host.url("/a")) == IMAGE


def test_redirects_are_bounded(host: Host) -> None:
    host.serve("/a", b"", "302 Found", "Location: /a\r\n")
    with pytest.raises(RejectItem, match="redirects"):
        fetch(host.url("/a"))
    assert host.count("/a") == 6


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "http://169.254.169.254/latest/meta-data/", "http://[::ffff:169.254.169.254]/",
     "http://0.0.0.0:{port}/b", "http://127.0.0.2:{port}/b", "//10.1.2.3/", "http://2852039166/"],
)  # fmt: skip
def test_a_redirect_to_where_no_image_may_come_from_is_rejected(host: Host, target: str) -> None:
    host.serve("/a", b"", "302 Found", f"Location: {target.format(port=host.port)}\r\n")
    host.serve("/b", IMAGE)
    with pytest.raises(RejectItem):
        fetch(host.url("/a"), by=fetcher("127.0.0.1/32"))
    assert host.count("/b") == 0


def test_an_unlisted_private_host_is_never_spoken_to(host: Host) -> None:
    url = host.serve("/a", IMAGE)
    for name in (url, url.replace("127.0.0.1", "localhost")):
        with pytest.raises(RetryLater, match="list its network"):
            fetch(name, by=fetcher("10.0.0.0/8"))
    assert host.requests == []


def test_an_unlisted_private_host_is_the_image_s_own_fate_once_another_host_has_served(host: Host) -> None:
    one = fetcher("127.0.0.1/32")
    fetch(host.serve("/a", IMAGE), by=one)
    with pytest.raises(RejectItem, match=r"127\.0\.0\.2"):
        fetch(host.url("/a", host="127.0.0.2"), by=one)


def test_a_forbidden_address_is_rejected_at_once() -> None:
    with pytest.raises(RejectItem, match="forbidden"):
        fetch("http://169.254.169.254/latest/meta-data/iam?token=secret")


def trickle(peer: socket.socket, first: bytes) -> None:
    peer.sendall(first)
    while True:
        time.sleep(0.05)
        peer.sendall(b"x")


@pytest.mark.parametrize(
    "first",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n"],
    ids=["body", "headers", "body without a length"],
)
def test_a_trickle_ends_with_the_attempt(host: Host, first: bytes) -> None:
    host.scripts["/a"] = lambda peer, _: trickle(peer, first)
    began = time.monotonic()
    with pytest.raises(RetryLater):
        fetch(host.url("/a"), by=fetcher(attempt_seconds=0.5, total_seconds=1.2))
    assert time.monotonic() - began < 4


def test_a_pace_too_slow_is_noticed_long_before_the_attempt_ends(host: Host) -> None:
    host.scripts["/a"] = lambda peer, _: trickle(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    began = time.monotonic()
    with pytest.raises(RetryLater, match="trickles"):
        fetch(host.url("/a"), by=fetcher(attempts=1, pace_seconds=0.3))
    assert time.monotonic() - began < 3


def test_a_silent_host_is_left_for_later(host: Host) -> None:
    host.scripts["/a"] = lambda peer, _: time.sleep(5)
    began = time.monotonic()
    with pytest.raises(RetryLater):
        fetch(host.url("/a"), by=fetcher(attempts=1, silence_seconds=0.3))
    assert time.monotonic() - began < 3


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a host named localhost, key and certificate in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("making a certificate needs openssl")
    path = tmp_path_factory.mktemp("tls") / "host.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        "-",
        "-out",
        "-",
        *names,
    ]
    path.write_bytes(subprocess.run(made, check=True, capture_output=True, timeout=60).stdout)
    return path


@pytest.fixture
def tls_host(certificate: Path) -> Iterator[Host]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with running_host(context) as running:
        yield running


def test_https_checks_the_name_though_the_connection_is_made_by_address(tls_host: Host, certificate: Path) -> None:
    tls_host.serve("/a", IMAGE)
    rules = AddressRules.parse(["127.0.0.0/8", "::1"])
    trusting = HttpFetcher(rules, FetchLimits(attempts=1), ca_certs=str(certificate))
    into = io.BytesIO()
    assert trusting.fetch(f"https://localhost:{tls_host.port}/a", into, MIB) == len(IMAGE)
    assert into.getvalue() == IMAGE
    with pytest.raises(RetryLater, match=r"(?i)certificate"):
        trusting.fetch(f"https://127.0.0.1:{tls_host.port}/a", io.BytesIO(), MIB)
    with pytest.raises(RetryLater, match=r"(?i)certificate"):
        HttpFetcher(rules, FetchLimits(attempts=1)).fetch(f"https://localhost:{tls_host.port}/a", io.BytesIO(), MIB)


def test_a_trickle_over_tls_ends_with_the_attempt(tls_host: Host, certificate: Path) -> None:
    tls_host.scripts["/a"] = lambda peer, _: trickle(peer, b"HTTP/1.1 200 OK\r\nX-Slow: ")
    limits = FetchLimits(attempts=1, attempt_seconds=0.6)
    trusting = HttpFetcher(AddressRules.parse(["127.0.0.0/8", "::1"]), limits, ca_certs=str(certificate))
    began = time.monotonic()
    with pytest.raises(RetryLater, match="not done"):
        trusting.fetch(f"https://localhost:{tls_host.port}/a", io.BytesIO(), MIB)
    assert time.monotonic() - began < 4


def test_nothing_that_is_raised_shows_a_query(host: Host) -> None:
    one = fetcher(attempts=1)
    fetch(host.serve("/good", IMAGE), by=one)
    urls = [host.serve("/refused", b"", "403 No"), host.url("/missing"), "http://127.0.0.1:1/closed"]
    urls += ["http://169.254.169.254/x", "http://no-such-host.invalid/x", "ftp://x/y"]
    for url in urls:
        with pytest.raises((RejectItem, RetryLater)) as caught:
            fetch(f"{url}?X-Amz-Signature=secret", by=one)
        assert "secret" not in str(caught.value)


def test_a_full_disk_is_not_blamed_on_the_host(host: Host) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
        fetcher().fetch(host.serve("/a", IMAGE), full, MIB)


def test_large_images_arrive_faster_than_a_night_needs_them(host: Host, tmp_path: Path) -> None:
    body = response(os.urandom(22 * MIB))
    host.scripts["/big"] = say(body)
    one = fetcher()

    def one_image(number: int) -> int:
        with (tmp_path / str(number % 4)).open("wb") as into:
            return one.fetch(host.url("/big"), into, 100 * MIB)

    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(one_image, range(40)))
    assert sizes == [22 * MIB] * 40
    # 40 images a second is the aim on two idle cores; the bound is for cores that other work shares.
    assert 40 / (time.monotonic() - began) > 8
