"""A real HTTP host on loopback whose every answer a test scripts down to the byte; bad manners included."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Script = Callable[[socket.socket, "Request"], None]


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Host:
    """Answers each path by its script; keeps every request it saw."""

    scripts: dict[str, Script] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def serve(self, path: str, body: bytes, status: str = "200 OK", headers: str = "") -> str:
        self.scripts[path] = lambda peer, _: peer.sendall(response(body, status, headers))
        return self.url(path)

    def count(self, path: str) -> int:
        return sum(request.path == path for request in self.requests)


def response(body: bytes, status: str = "200 OK", headers: str = "", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n".encode() + body


@contextlib.contextmanager
def running_host(tls: ssl.SSLContext | None = None) -> Iterator[Host]:
    host = Host()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host.port = listener.getsockname()[1]
        listener.settimeout(0.2)
        stopping = threading.Event()
        peers: list[socket.socket] = []

        def accept() -> None:
            while not stopping.is_set():
                with contextlib.suppress(OSError):
                    peer, _ = listener.accept()
                    if tls is not None:
                        peer = tls.wrap_socket(peer, server_side=True)
                    peers.append(peer)
                    threading.Thread(target=_talk, args=(host, peer), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield host
        stopping.set()
        thread.join()
        for peer in peers:
            peer.close()


def _talk(host: Host, peer: socket.socket) -> None:
    with contextlib.suppress(OSError), peer, peer.makefile("rb") as reader:
        while line := reader.readline():
            method, path, _ = line.decode().split()
            headers = {}
            while (header := reader.readline().decode().strip()) != "":
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            body = reader.read(int(headers.get("content-length", 0)))
            request = Request(method, path, headers, body)
            host.requests.append(request)
            script = host.scripts.get(path.partition("?")[0])
            if script is None:
                peer.sendall(response(b"nothing here", "404 Not Found"))
            else:
                script(peer, request)
