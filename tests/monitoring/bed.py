"""A real Prometheus and a real Alertmanager on the files of monitoring/, and the four services that alerts are sent to.

Only intervals are shortened; rules, routes, inhibitions and templates are the shipped ones.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import yaml
from tests.adapters.metrics_bed import eventually, free_port
from tests.monitoring.files import RULES

from tidegate_local.stack.alert_routes import alertmanager

#: Under load both servers take a while to come up and to come round.
PATIENCE_SECONDS = 120.0
SECRETS = {
    "slack-url": "{base}/slack",
    "pagerduty-routing-key": "0123456789abcdef0123456789abcdef",
    "opsgenie-api-key": "opsgenie-key",
    "webhook-url": "{base}/webhook",
}


@dataclass
class Services:
    """Slack, PagerDuty, Opsgenie, a webhook and a Grafana, as far as they are spoken to: each notes what it is sent."""

    told: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    keys: set[str] = field(default_factory=set)

    def start(self) -> Services:
        services = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                services.told[self.path.split("/")[1].partition("?")[0]].append(json.loads(body))
                services.keys.add(self.headers.get("Authorization", ""))
                self._answer(202 if "pagerduty" in self.path or "opsgenie" in self.path else 200)

            def do_GET(self) -> None:
                self._answer(200 if urlsplit(self.path).path == "/d/tidegate-run/tidegate-run" else 404)

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def put_secrets(folder: Path, base: str, *but: str) -> Path:
    """A folder with the secret of every channel, without those named."""
    folder.mkdir()
    for name, text in SECRETS.items():
        if name not in but:
            (folder / name).write_text(text.format(base=base))
    return folder


@contextmanager
def running(command: list[str], url: str, log: Path) -> Iterator[str]:
    """The server of `command` until the block ends; its address once it is ready."""

    def ready() -> bool:
        assert process.poll() is None, f"it ended: {log.read_text()[-2000:]}"
        try:
            return requests.get(f"{url}/-/ready", timeout=2).ok
        except requests.RequestException:
            return False

    with log.open("w") as words:
        process = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT, cwd=log.parent)
        try:
            eventually(ready, bool, PATIENCE_SECONDS)
            yield url
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def alertmanager_at(folder: Path, secrets: Path, services: Services) -> Iterator[str]:
    """The shipped configuration with the channels whose secrets are there, pointed at `services` and in a hurry."""
    config = alertmanager(secrets)
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": "1s", "group_interval": "1s"}
    for receiver in config["receivers"]:
        for channel in receiver.get("pagerduty_configs", ()):
            channel["url"] = f"{services.base}/pagerduty"
        for channel in receiver.get("opsgenie_configs", ()):
            channel["api_url"] = f"{services.base}/opsgenie/"
    file, port = folder / "alertmanager.yaml", free_port()
    file.write_text(yaml.safe_dump(config))
    command = ["prometheus-alertmanager", f"--config.file={file}", f"--storage.path={folder / 'alerts'}",
               f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]  # fmt: skip
    with running(command, f"http://127.0.0.1:{port}", folder / "alertmanager.log") as url:
        yield url


@contextmanager
def prometheus_at(folder: Path, target: str, alertmanager_url: str) -> Iterator[str]:
    """The shipped rules over one exporter, scraped as an operator would: its own job, namespace and pod on top."""
    labels = {"namespace": "airflow", "pod": "tidegate-exporter-1", "container": "exporter"}
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(path) for path in RULES],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [urlsplit(alertmanager_url).netloc]}]}]},
        "scrape_configs": [
            {"job_name": "airflow/tidegate-exporter", "static_configs": [{"targets": [target], "labels": labels}]}
        ],
    }
    file, port = folder / "prometheus.yaml", free_port()
    file.write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'samples'}",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with running(command, f"http://127.0.0.1:{port}", folder / "prometheus.log") as url:
        yield url
