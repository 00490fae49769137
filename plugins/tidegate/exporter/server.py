"""`tidegate exporter` at work: serves /metrics until it is told to end."""

from __future__ import annotations

import signal
import threading

from prometheus_client import CollectorRegistry, start_http_server

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.run_store import RunStore
from tidegate.core.errors import FixConfig
from tidegate.exporter.reading import Reader
from tidegate.exporter.series import StoreCollector


def serve(store: RunStore, configuration: Configuration, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. A store that is away fails the scrape, which is an alert of its own."""
    ending = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: ending.set())
    registry = CollectorRegistry()
    registry.register(StoreCollector(Reader(store), configuration))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise FixConfig(f"series cannot be served on {host}:{port} ({error.strerror}): name another") from None
    ending.wait()
    server.shutdown()
    server.server_close()
    thread.join()
