"""HTTP to an Antenna server: credentials, time-outs and what each kind of refusal means; nothing of jobs or results.

| the server's answer                                | raised                                                      |
|----------------------------------------------------|-------------------------------------------------------------|
| 400, 413, 422                                      | RequestRefused: the caller knows which part of it is wrong  |
| 401, 403, 404, 405, 410, 415 in Antenna's own words | FixConfig                                                  |
| a redirect                                         | FixConfig: a token is never carried to another address      |
| 408, 425, 429, 5xx, a proxy's page, no answer      | RetryLater                                                  |

Nothing is retried here: only the caller knows what may be sent twice.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import certifi
from urllib3 import PoolManager, ProxyManager, Timeout
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from tidegate.core.errors import FixConfig, RetryLater, TidegateError
from tidegate_worker import __version__
from tidegate_worker.redact import redact, redact_url

#: Who asks; the server keeps it with what is leased and answered, and takes an object only.
CLIENT_INFO: Final = {"name": "tidegate-worker", "version": __version__}

_ANSWER_BYTES: Final = 64 * 1024 * 1024
_TOLD_CHARACTERS: Final = 300
_REFUSED: Final = frozenset({400, 413, 422})
#: What a proxy's page may mean, or the pages of a server at another path.
_NOT_THE_API: Final = "is this a proxy's page, or a base URL that does not end in /api/v2?"
_FOR_A_PERSON: Final = frozenset({401, 403, 404, 405, 410, 415})


@dataclass(frozen=True, slots=True, kw_only=True)
class AntennaAccess:
    """Where an Antenna server is and who asks. Nothing is read from the environment or from netrc."""

    #: Up to and with `/api/v2`.
    base_url: str
    token: str = field(repr=False)
    ca_certs: str | None = None
    proxy_url: str | None = field(default=None, repr=False)
    connect_seconds: float = 10.0
    answer_seconds: float = 60.0
    connections: int = 4


class RequestRefused(TidegateError):
    """The server understood the request and will not have it; the same bytes will be refused again."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(f"HTTP {status}: {told}")
        self.status = status
        self.told = told


@dataclass(frozen=True, slots=True)
class Body:
    """A request body that can be sent more than once: its size, and its bytes anew for each attempt."""

    size_bytes: int
    chunks: Iterable[bytes]


class AntennaApi:
    """Calls with one token. Safe to use from any thread."""

    def __init__(self, access: AntennaAccess) -> None:
        parts = urlsplit(access.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise FixConfig(f"the Antenna API's base URL is not an http(s) URL: {redact_url(access.base_url)!r}")
        if not access.token.strip() or not access.token.isprintable():
            raise FixConfig(
                "the Antenna API's token is empty or not printable: give the 40 characters of a user's token"
            )
        self._base = access.base_url.rstrip("/")
        self._access = access
        self._headers = {
            "Authorization": f"Token {access.token.strip()}",
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "tidegate-worker",
        }
        # A larger block than the default 16 KiB: results of large category maps are tens of megabytes.
        options: dict[str, Any] = {
            "maxsize": access.connections,
            "retries": False,
            "blocksize": 256 * 1024,
            "cert_reqs": "CERT_REQUIRED",
            "ca_certs": access.ca_certs or certifi.where(),
        }
        self._pool = ProxyManager(access.proxy_url, **options) if access.proxy_url else PoolManager(**options)

    @property
    def base_url(self) -> str:
        return self._base

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> Any:
        """The JSON at `path`; `path` starts and ends with a slash, for the server redirects what does not."""
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path, None, self._access.answer_seconds)

    def post(self, path: str, payload: Mapping[str, object], seconds: float | None = None) -> Any:
        encoded = json.dumps(payload, separators=(",", ":"), allow_nan=False).encode()
        return self.post_body(path, Body(len(encoded), [encoded]), seconds)

    def post_body(self, path: str, body: Body, seconds: float | None = None) -> Any:
        """Send `body` with its Content-Length: the server reads a chunked request as an empty one."""
        return self._call("POST", path, body, seconds or self._access.answer_seconds)

    def pages(self, path: str, query: Mapping[str, str | int], limit: int = 100) -> Iterator[Any]:
        """Every item of a paged list. Pages are asked for by offset: `next` may name another host than ours."""
        offset = 0
        while True:
            page = self.get(path, {**query, "limit": limit, "offset": offset})
            items = page.get("results") if isinstance(page, dict) else None
            if not isinstance(items, list):
                raise RetryLater(f"{self._base}{path} answered no page of results")
            yield from items
            offset += len(items)
            if not items or not page.get("next"):
                return

    def close(self) -> None:
        self._pool.clear()

    def _call(self, method: str, path: str, body: Body | None, seconds: float) -> Any:
        shown = f"{method} {redact_url(self._base + path)}"
        headers = self._headers if body is None else {**self._headers, "Content-Length": str(body.size_bytes)}
        give_up_at = time.monotonic() + seconds
        try:
            response = self._pool.request(
                method,
                self._base + path,
                headers=headers,
                body=None if body is None else iter(body.chunks),
                redirect=False,
                preload_content=False,
                timeout=Timeout(connect=self._access.connect_seconds, read=seconds),
            )
            try:
                text = _read(response, give_up_at)
            except BaseException:
                response.close()
                raise
            response.release_conn()
        except (HTTPError, http.client.HTTPException, OSError) as error:
            raise RetryLater(f"{shown}: {redact(f'{type(error).__name__}: {error}')}") from None
        return self._judged(response, text, shown)

    def _judged(self, response: BaseHTTPResponse, text: bytes, shown: str) -> Any:
        status = response.status
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        told = redact(text.decode(errors="replace"))[:_TOLD_CHARACTERS]
        if 200 <= status < 300:
            if answer is None:
                raise RetryLater(f"{shown}: HTTP {status}, but no JSON ({_NOT_THE_API}): {told}")
            return answer
        if 300 <= status < 400:
            where = redact_url(response.headers.get("Location", ""))
            raise FixConfig(f"{shown}: redirects to {where}: set the Antenna API's base URL to where it really is")
        if status in _REFUSED and (answer is not None or status == 413):
            raise RequestRefused(status, told)
        if status in _FOR_A_PERSON and answer is not None:
            raise FixConfig(f"{shown}: HTTP {status}: {told}: {_advice(status)}")
        hint = f" ({_NOT_THE_API})" if status == 404 else ""
        raise RetryLater(f"{shown}: HTTP {status}{hint}: {told}", _retry_after(response))


def _read(response: BaseHTTPResponse, give_up_at: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(256 * 1024):
        parts.append(chunk)
        size += len(chunk)
        if size > _ANSWER_BYTES or time.monotonic() > give_up_at:
            raise OSError(f"an answer of more than {size} bytes, or too slow")
    return b"".join(parts)


def _advice(status: int) -> str:
    if status in (401, 403):
        return "give the token of an active superuser, for Antenna lets no one else pull tasks and post results"
    if status == 404:
        return "the job or project does not exist, or this token may not see it"
    return "this is not the API of Antenna v2: check the base URL"


def _retry_after(response: BaseHTTPResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return min(300.0, float(text)) if text.isascii() and text.isdigit() else None
