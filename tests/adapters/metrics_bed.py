"""A real Prometheus that scrapes a text which the test writes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

import requests

SCRAPE_SECONDS = 0.5

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(look: Callable[[], T], holds: Callable[[T], object], patience_seconds: float = 20.0) -> T:
    """What `look` returns once `holds` is true of it."""
    give_up = time.monotonic() + patience_seconds
    while not holds(seen := look()):
        assert time.monotonic() < give_up, f"not so after {patience_seconds:.0f} s: {seen}"
        time.sleep(0.05)
    return seen


@dataclass
class Exporter:
    """Answers a scrape with `text`, or with 503 where that is None."""

    text: str | None = ""
    scrapes: int = 0
    port: int = 0
    _server: ThreadingHTTPServer | None = field(default=None, repr=False)

    def start(self) -> Exporter:
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = exporter.text
                self.send_response(503 if text is None else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write((text or "").encode())
                exporter.scrapes += 1

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


@dataclass
class Prometheus:
    process: subprocess.Popen[bytes]
    url: str

    @classmethod
    def start(
        cls,
        folder: Path,
        *targets: str,
        web_config: str | None = None,
        labelled: Mapping[str, Mapping[str, str]] | None = None,
        scrape_seconds: float = SCRAPE_SECONDS,
    ) -> Prometheus:
        """A server in `folder` that scrapes `targets`; FileNotFoundError where Debian's package is not installed.

        `labelled` are further targets, with the labels that discovery would put on their series.
        """
        program = shutil.which("prometheus")
        if program is None:
            raise FileNotFoundError("Debian's prometheus is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        static: list[dict[str, object]] = [{"targets": targets}]
        static += [{"targets": [target], "labels": dict(labels)} for target, labels in (labelled or {}).items()]
        (folder / "prometheus.yml").write_text(
            f"""
global: {{scrape_interval: {scrape_seconds * 1000:.0f}ms, scrape_timeout: {scrape_seconds * 1000:.0f}ms}}
scrape_configs:
  - job_name: pods
    honor_labels: true
    static_configs: {json.dumps(static)}
"""
        )
        port = free_port()
        command = [
            program,
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
        if web_config is not None:
            (folder / "web.yml").write_text(web_config)
            command.append(f"--web.config.file={folder}/web.yml")
        server = cls(subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL), f"http://127.0.0.1:{port}")
        eventually(server._answers, bool)
        return server

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=2).status_code in (200, 401)
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
