"""Connections that obey the address rules and a deadline, as a urllib3 pool; HTTP itself and retries are not here.

A name is resolved here, each address judged, and the connection made to the judged address itself: nothing can be
resolved anew in between, and a refused peer never sees a packet. urllib3 is used bare because what must not happen
(credentials from netrc, cookies, proxies from the environment, redirects on its own) is not in it to be switched off.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import ClassVar, Final, Self

import certifi
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.response import BaseHTTPResponse
from urllib3.util.connection import create_connection

from tidegate_worker.net.addresses import AddressRules, Verdict

#: A name may resolve to any number of addresses; each costs a connect time-out.
_ADDRESSES_TRIED: Final = 4


class RefusedPeer(Exception):
    """Every address of the host is against the rules."""

    def __init__(self, host: str, address: str, verdict: Verdict) -> None:
        super().__init__(f"{host} is at {address}, a {verdict} address")
        self.host = host
        self.address = address
        self.verdict = verdict


class Deadline:
    """A hard end for the exchange of this thread: the socket is shut down under it when the time is up.

    Time-outs of a socket bound one silence; a peer that sends a byte now and then outlives any number of them, in the
    headers as in the body.
    """

    _active: ClassVar[threading.local] = threading.local()

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(max(0.0, seconds), self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._active.deadline = self
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._active.deadline = None
        with self._lock:
            self._socket = None

    @classmethod
    def watch(cls, connection: socket.socket | None) -> None:
        """Put the socket that this thread is about to wait on under its deadline, if it has one."""
        deadline: Deadline | None = getattr(cls._active, "deadline", None)
        if deadline is None or connection is None:
            return
        with deadline._lock:
            deadline._socket = connection
            if deadline.expired:
                _shut(connection)

    def _expire(self) -> None:
        with self._lock:
            self.expired = True
            if self._socket is not None:
                _shut(self._socket)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # The plain shutdown, also where TLS runs on top: it must wake the reader, not talk to the peer.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Guarded(HTTPConnection):
    rules: ClassVar[AddressRules]

    def _new_conn(self) -> socket.socket:
        host, port = self._dns_host, self.port or self.default_port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(host, self, error) from error
        except UnicodeError as error:
            raise NewConnectionError(self, f"not a host name: {error}") from error
        refused: RefusedPeer | None = None
        failed: Exception | None = None
        timeout = self.timeout if isinstance(self.timeout, int | float) else None
        for address in list(dict.fromkeys(str(entry[4][0]) for entry in found))[:_ADDRESSES_TRIED]:
            verdict = self.rules.verdict(address)
            if verdict is not Verdict.ALLOWED:
                if refused is None or verdict is Verdict.FORBIDDEN:
                    refused = RefusedPeer(host, address, verdict)
                continue
            try:
                connected = create_connection((address, port), timeout, socket_options=self.socket_options)
            except TimeoutError:
                failed = ConnectTimeoutError(self, f"connection to {host} timed out after {timeout} s")
            except OSError as error:
                failed = NewConnectionError(self, f"connection to {host} failed: {error}")
            else:
                Deadline.watch(connected)
                return connected
        raise failed or refused or NewConnectionError(self, f"{host} has no address")

    def getresponse(self) -> BaseHTTPResponse:  # type: ignore[override]
        Deadline.watch(self.sock)
        return super().getresponse()


def guarded_pool(
    rules: AddressRules, connections: int, ca_certs: str | None = None, block_bytes: int = 16384
) -> PoolManager:
    """A pool that keeps up to `connections` open to a host and connects only where `rules` allow."""

    class Http(_Guarded):
        pass

    class Https(_Guarded, HTTPSConnection):
        pass

    Http.rules = Https.rules = rules

    class HttpPool(HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(HTTPSConnectionPool):
        ConnectionCls = Https

    pool = PoolManager(
        num_pools=32,
        maxsize=connections,
        block=False,
        retries=False,
        blocksize=block_bytes,
        cert_reqs="CERT_REQUIRED",
        ca_certs=ca_certs or certifi.where(),
    )
    pool.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}
    return pool
