"""The configuration of the stack's Prometheus and Alertmanager, as text; starts nothing.

Both ask for a password even on loopback: other users of the machine share that address. Workers are scraped every 5 s
because the breaker's lead time is counted in scrapes, the rest every 15 s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import bcrypt
import yaml

from tidegate_local.stack.layout import LOOPBACK, REPOSITORY, Layout

USER: Final = "tidegate"
WORKER_SCRAPE: Final = "5s"
OTHER_SCRAPE: Final = "15s"
RULES: Final = REPOSITORY / "monitoring" / "rules"


def write(layout: Layout, ports: dict[str, int]) -> None:
    """Write both configurations with the files they name; safe to repeat."""
    password = layout.secret("metrics-password")
    # A low work factor: the password is random, and it is checked on every scrape and query.
    web = {"basic_auth_users": {USER: bcrypt.hashpw(password.encode(), bcrypt.gensalt(6)).decode()}}
    _write(layout.prometheus / "web.yaml", web)
    _write(layout.alertmanager / "web.yaml", web)
    _write(layout.prometheus / "prometheus.yaml", prometheus(layout, ports))
    _write(layout.alertmanager / "alertmanager.yaml", ALERTMANAGER)


def prometheus(layout: Layout, ports: dict[str, int]) -> dict[str, Any]:
    basic_auth = {"username": USER, "password_file": str(layout.secrets / "metrics-password")}
    node_authorization = {"type": "Bearer", "credentials_file": str(layout.podapi / "token")}
    discovery_authorization = {"type": "Bearer", "credentials_file": str(layout.secrets / "discovery-token")}
    node_tls = {"ca_file": str(layout.podapi / "ca.crt")}
    node = [{"targets": [f"{LOOPBACK}:{ports['podapi']}"]}]
    return {
        "global": {"scrape_interval": OTHER_SCRAPE, "evaluation_interval": WORKER_SCRAPE},
        "rule_files": [str(RULES / "*.yaml")],
        "alerting": {
            "alertmanagers": [
                {
                    "basic_auth": basic_auth,
                    "static_configs": [{"targets": [f"{LOOPBACK}:{ports['alertmanager']}"]}],
                }
            ]
        },
        "scrape_configs": [
            {
                "job_name": "tidegate-worker",
                "scrape_interval": WORKER_SCRAPE,
                "scrape_timeout": "4s",
                "http_sd_configs": [
                    {
                        "url": f"http://{LOOPBACK}:{ports['discovery']}/targets",
                        "refresh_interval": WORKER_SCRAPE,
                        "authorization": discovery_authorization,
                    }
                ],
                # The three labels that cAdvisor's series carry too: the breaker asks for both in one query.
                "relabel_configs": [
                    {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
                    {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
                    {"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"},
                ],
            },
            {
                "job_name": "cadvisor",
                "metrics_path": "/metrics/cadvisor",
                "scheme": "https",
                "tls_config": node_tls,
                "authorization": node_authorization,
                "honor_labels": True,
                "static_configs": node,
            },
            {
                "job_name": "kube-state-metrics",
                "metrics_path": "/metrics/kube-state",
                "scheme": "https",
                "tls_config": node_tls,
                "authorization": node_authorization,
                "honor_labels": True,
                "static_configs": node,
            },
        ],
    }


#: Alerts are kept and shown; a person adds receivers.
ALERTMANAGER: Final[dict[str, Any]] = {
    "route": {"receiver": "shown", "group_by": ["run_id", "alertname"]},
    "receivers": [{"name": "shown"}],
}


def _write(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(yaml.safe_dump(content, sort_keys=False))
    draft.chmod(0o600)
    draft.replace(path)
