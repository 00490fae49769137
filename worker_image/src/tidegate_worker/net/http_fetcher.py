"""Images over HTTP from hosts that are not trusted: bounded in bytes, time and pace, whatever the other side does.

| what the host does                                   | what the caller gets                                      |
|------------------------------------------------------|-----------------------------------------------------------|
| 404, 410, empty body, too many bytes, bad URL        | RejectItem                                                |
| forbidden address, or any redirect to a refused one  | RejectItem                                                |
| 400, 401, 403, a web page, an unlisted private address | RejectItem once this host (for addresses: any host) has served another image, else RetryLater: one image may be beyond reach, but a wrong clock, policy or setting must not fail a whole job |
| 408, 425, 429, 5xx, resets, time-outs, trickle       | RetryLater, with the host's Retry-After                   |
| a body cut short                                     | RetryLater; RejectItem if every attempt ends at the same byte |

No credentials, cookies or proxies; the bytes are not looked at, but for a page that says it is one.
"""  # noqa: E501

from __future__ import annotations

import email.utils
import http.client
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import BinaryIO, Final
from urllib.parse import urljoin, urlsplit

from urllib3 import Timeout
from urllib3.exceptions import HTTPError, LocationValueError
from urllib3.response import BaseHTTPResponse

from tidegate.core.errors import RejectItem, RetryLater
from tidegate_worker.net.addresses import AddressRules, Verdict
from tidegate_worker.net.guarded_pool import Deadline, RefusedPeer, guarded_pool
from tidegate_worker.redact import redact, redact_url

log = logging.getLogger(__name__)

_URL_BYTES: Final = 16 * 1024
#: One recv per call, into a buffer large enough that Python costs a few per cent of what the kernel does.
_READ_BYTES: Final = 256 * 1024
_HOSTS_REMEMBERED: Final = 1000
_RETRY_AFTER_SECONDS: Final = 300.0
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_GONE: Final = frozenset({404, 410})
_TRY_AGAIN: Final = frozenset({408, 425, 429})
_HEADERS: Final = {
    "Accept": "image/*,*/*;q=0.5",
    "Accept-Encoding": "identity",
    "User-Agent": "tidegate-worker",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Bounds of one `fetch`; all of them together stay inside a lease."""

    #: As many as there are downloading threads.
    connections: int = 16
    attempts: int = 3
    redirects: int = 5
    connect_seconds: float = 10.0
    #: Longest silence of a host.
    silence_seconds: float = 20.0
    #: For one attempt, redirects included.
    attempt_seconds: float = 120.0
    #: For all attempts and the pauses between them.
    total_seconds: float = 180.0
    #: Least pace, measured over each `pace_seconds` of a body.
    pace_bytes_per_second: float = 16 * 1024
    pace_seconds: float = 10.0
    pause_seconds: float = 0.5


class _CutShort(RetryLater):
    def __init__(self, message: str, received_bytes: int) -> None:
        super().__init__(message)
        self.received_bytes = received_bytes


class HttpFetcher:
    """The Fetcher of images that a job names by http and https URLs. Safe to call from any thread."""

    def __init__(
        self, rules: AddressRules | None = None, limits: FetchLimits | None = None, ca_certs: str | None = None
    ) -> None:
        self._limits = limits or FetchLimits()
        self._pool = guarded_pool(rules or AddressRules(), self._limits.connections, ca_certs)
        self._lock = threading.Lock()
        #: Hosts that have served an image, latest last.
        self._served: OrderedDict[str, None] = OrderedDict()
        self._closed = threading.Event()

    def fetch(self, url: str, into: BinaryIO, at_most_bytes: int) -> int:
        """Stream the body of `url` into `into`; see the table of this module for what is raised."""
        began = time.monotonic()
        start = into.tell()
        cuts: list[int] = []
        for attempt in range(1, self._limits.attempts + 1):
            seconds = min(self._limits.attempt_seconds, began + self._limits.total_seconds - time.monotonic())
            with Deadline(seconds) as deadline:
                outcome = self._outcome(url, into, at_most_bytes)
            if deadline.expired:
                # A body without a length ends well when its socket is shut down: only the clock knows better.
                outcome = RetryLater(f"{redact_url(url)}: not done after {seconds:.0f} s")
            if isinstance(outcome, int):
                return outcome
            if isinstance(outcome, RejectItem):
                raise outcome
            if isinstance(outcome, _CutShort):
                cuts.append(outcome.received_bytes)
                if len(cuts) == self._limits.attempts and len(set(cuts)) == 1:
                    raise RejectItem(redact_url(url), f"{outcome}, {len(cuts)} times at the same byte")
            pause = outcome.delay_seconds or self._limits.pause_seconds * 2 ** (attempt - 1)
            left = began + self._limits.total_seconds - time.monotonic() - pause
            if attempt == self._limits.attempts or left <= 0 or self._closed.wait(pause):
                raise outcome
            into.seek(start)
            into.truncate()
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Wake waiting retries and close idle connections."""
        self._closed.set()
        self._pool.clear()

    def _outcome(self, url: str, into: BinaryIO, at_most_bytes: int) -> int | RejectItem | RetryLater:
        try:
            return self._attempt(url, into, at_most_bytes)
        except (RejectItem, RetryLater) as error:
            return error

    def _attempt(self, url: str, into: BinaryIO, at_most_bytes: int) -> int:
        here = url
        for hop in range(self._limits.redirects + 1):
            response = self._open(here, item=url, redirected=hop > 0)
            try:
                if response.status not in _REDIRECTS:
                    received = self._body(response, here, url, into, at_most_bytes)
                    self._remember(here)
                    return received
                location = response.headers.get("Location")
            except BaseException:
                response.close()
                raise
            # The body of a redirect may be endless: the connection goes with it.
            response.close()
            if not location:
                raise RejectItem(redact_url(url), f"HTTP {response.status} without a Location")
            here = urljoin(here, location)
        raise RejectItem(redact_url(url), f"more than {self._limits.redirects} redirects")

    def _open(self, here: str, item: str, redirected: bool) -> BaseHTTPResponse:
        shown = redact_url(item)
        if len(here) > _URL_BYTES:
            raise RejectItem(shown, f"its URL is longer than {_URL_BYTES} characters")
        try:
            scheme = urlsplit(here).scheme.lower()
        except ValueError:
            raise RejectItem(shown, "its URL cannot be read") from None
        if scheme not in ("http", "https"):
            what = f"the scheme {scheme!r}" if scheme else "no scheme"
            raise RejectItem(
                shown, f"{'a redirect leads to' if redirected else 'its URL has'} {what}, not http or https"
            )
        try:
            return self._pool.request(
                "GET",
                here,
                headers=_HEADERS,
                redirect=False,
                preload_content=False,
                decode_content=False,
                timeout=Timeout(connect=self._limits.connect_seconds, read=self._limits.silence_seconds),
            )
        except RefusedPeer as refused:
            if refused.verdict is Verdict.FORBIDDEN or redirected:
                raise RejectItem(shown, f"{'redirected: ' if redirected else ''}{refused}") from None
            reason = f"{refused}; list its network among those from which images may come if that is meant"
            raise self._fate(shown, reason, own_fate=bool(self._served)) from None
        except (LocationValueError, UnicodeError) as error:
            raise RejectItem(shown, f"its URL cannot be read: {redact(str(error))}") from None
        except (HTTPError, http.client.HTTPException, OSError) as error:
            raise RetryLater(f"{shown}: {_told(error)}") from None

    def _body(self, response: BaseHTTPResponse, here: str, item: str, into: BinaryIO, at_most_bytes: int) -> int:
        shown = redact_url(item)
        self._check_status(response, here, shown)
        encoded = response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")
        declared = None if encoded else _declared_bytes(response)
        if declared is not None and declared > at_most_bytes:
            raise RejectItem(shown, f"{declared} bytes are more than the {at_most_bytes} that fit here")
        received = 0
        lap_began, lap_bytes = time.monotonic(), 0
        while chunk := _next_chunk(response, encoded, shown, received):
            if not received and chunk.lstrip()[:1] == b"<" and _is_page(response):
                raise self._fate(shown, "the host sent a web page, not an image", self._has_served(here))
            received += len(chunk)
            if received > at_most_bytes:
                raise RejectItem(shown, f"more than the {at_most_bytes} bytes that fit here")
            into.write(chunk)
            lap = time.monotonic() - lap_began
            if lap >= self._limits.pace_seconds:
                if received - lap_bytes < self._limits.pace_bytes_per_second * lap:
                    raise RetryLater(f"{shown}: trickles, {received - lap_bytes} bytes in {lap:.0f} s")
                lap_began, lap_bytes = time.monotonic(), received
        if declared is not None and received < declared:
            raise _CutShort(f"{shown}: cut short after {received} of {declared} bytes", received)
        if not received:
            raise RejectItem(shown, "an empty body")
        response.release_conn()
        return received

    def _check_status(self, response: BaseHTTPResponse, here: str, shown: str) -> None:
        status = response.status
        if status == 200:
            return
        if status in _GONE:
            raise RejectItem(shown, f"HTTP {status}: it is not there")
        if status in _TRY_AGAIN or not 400 <= status < 500:
            raise RetryLater(f"{shown}: HTTP {status}", _retry_after(response))
        raise self._fate(shown, f"HTTP {status}: the host refuses it", self._has_served(here))

    def _fate(self, shown: str, reason: str, own_fate: bool) -> RejectItem | RetryLater:
        return RejectItem(shown, reason) if own_fate else RetryLater(f"{shown}: {reason}")

    def _has_served(self, url: str) -> bool:
        with self._lock:
            return urlsplit(url).netloc in self._served

    def _remember(self, url: str) -> None:
        host = urlsplit(url).netloc
        with self._lock:
            self._served[host] = None
            self._served.move_to_end(host)
            while len(self._served) > _HOSTS_REMEMBERED:
                self._served.popitem(last=False)


def _next_chunk(response: BaseHTTPResponse, encoded: bool, shown: str, received: int) -> bytes:
    """What one recv brings; the caller's own trouble with its file is none of the host's."""
    try:
        return response.read1(_READ_BYTES, decode_content=encoded)
    except (HTTPError, http.client.HTTPException, OSError) as error:
        raise _CutShort(f"{shown}: cut short after {received} bytes: {_told(error)}", received) from None


def _declared_bytes(response: BaseHTTPResponse) -> int | None:
    """The Content-Length, where the body is not chunked and the header is one number."""
    text = response.headers.get("Content-Length", "")
    if "Transfer-Encoding" in response.headers or not text.isascii() or not text.isdigit():
        return None
    return int(text)


def _is_page(response: BaseHTTPResponse) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower()


def _retry_after(response: BaseHTTPResponse) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(_RETRY_AFTER_SECONDS, float(text))
    try:
        at = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(_RETRY_AFTER_SECONDS, max(0.0, at - time.time()))


def _told(error: Exception) -> str:
    return redact(f"{type(error).__name__}: {error}")
