"""A metrics server behind TLS that lets in whom the test says, and keeps what it was shown."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import trustme

from tidegate.core.contract import Metric

NAMESPACE, PREFIX = "jobs", "tidegate-abc-"


@dataclass(frozen=True)
class Shown:
    """One request as it came in."""

    path: str
    headers: Mapping[str, str]
    #: Serial number of the client's certificate.
    serial: str | None

    @property
    def query(self) -> str:
        return dict(parse_qsl(urlsplit(self.path).query))["query"]


@dataclass
class Guarded:
    """Answers with one pod's memory where `admits` the request, else with 401; `redirects_to` sends all elsewhere."""

    admits: Callable[[Shown], bool] = lambda _: True
    redirects_to: str | None = None
    shown: list[Shown] = field(default_factory=list)
    url: str = ""
    ca_file: Path = Path()

    @property
    def newest(self) -> Shown:
        return self.shown[-1]


def _answer(query: str) -> bytes:
    place = {"namespace": NAMESPACE, "pod": f"{PREFIX}run-0", "container": "base"}
    names = [name for name in (Metric.MEMORY_NONRECLAIMABLE, Metric.MEMORY_LIMIT) if name in query]
    result = [{"metric": {"__name__": name, **place}, "values": [[time.time(), "100"]]} for name in names]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


@contextmanager
def guarded(authority: trustme.CA, folder: Path, *, asks_for_certificate: bool = False) -> Iterator[Guarded]:
    server = Guarded(ca_file=folder / "ca.pem")
    authority.cert_pem.write_to_path(server.ca_file)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            certificate = self.connection.getpeercert() if asks_for_certificate else None  # type: ignore[attr-defined]
            shown = Shown(self.path, dict(self.headers), certificate["serialNumber"] if certificate else None)
            server.shown.append(shown)
            if server.redirects_to is not None:
                self._reply(307, b"", Location=server.redirects_to + self.path)
            elif server.admits(shown):
                self._reply(200, _answer(shown.query))
            else:
                self._reply(401, b"who are you?")

        def _reply(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if asks_for_certificate:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
        threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
        server.url = f"https://127.0.0.1:{listener.server_address[1]}"
        yield server
        listener.shutdown()


def is_signed_by(shown: Shown, secret: str, region: str, service: str) -> bool:
    """Whether Amazon would take the signature: worked out anew from what came over the wire, by AWS's own text."""
    kind, _, rest = shown.headers["Authorization"].partition(" ")
    parts = dict(part.strip().split("=", 1) for part in rest.split(","))
    _, date, *scope = parts["Credential"].split("/")
    names = parts["SignedHeaders"].split(";")
    values = {name.lower(): value for name, value in shown.headers.items()}
    url = urlsplit(shown.path)
    # A plus is a plus to Amazon: whoever means a space must write %20.
    pairs = sorted(
        tuple(quote(unquote(side), safe="-_.~") for side in pair.split("=", 1)) for pair in url.query.split("&")
    )
    canonical = "\n".join(
        [
            "GET",
            quote(url.path, safe="/-_.~"),
            "&".join("=".join(pair) for pair in pairs),
            *(f"{name}:{values[name].strip()}" for name in names),
            "",
            parts["SignedHeaders"],
            hashlib.sha256(b"").hexdigest(),
        ]
    )
    to_sign = "\n".join(
        [kind, values["x-amz-date"], "/".join([date, *scope]), hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    expected = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return kind == "AWS4-HMAC-SHA256" and hmac.compare_digest(expected, parts["Signature"])
