"""The configuration of the stack's Prometheus and Alertmanager, as text; starts nothing.

Both ask for a password even on loopback: other users of the machine share that address. Workers are scraped every 5 s
because the breaker's lead time is counted in scrapes, the rest every 15 s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import bcrypt
import yaml

from tidegate_local.stack.alert_routes import alertmanager
from tidegate_local.stack.cluster import Cluster
from tidegate_local.stack.layout import LOOPBACK, REPOSITORY, Layout

USER: Final = "tidegate"
WORKER_SCRAPE: Final = "5s"
OTHER_SCRAPE: Final = "15s"
RULES: Final = REPOSITORY / "monitoring" / "rules"


def write(layout: Layout, ports: dict[str, int], cluster: Cluster) -> None:
    """Write both configurations with the files they name; safe to repeat."""
    password = layout.secret("metrics-password")
    web = web_config(password)
    _write(layout.prometheus / "web.yaml", web)
    _write(layout.alertmanager / "web.yaml", web)
    _write(layout.prometheus / "prometheus.yaml", prometheus(layout, ports, cluster))
    _write(layout.alertmanager / "alertmanager.yaml", alertmanager(layout.alert_secrets))


def web_config(password: str) -> dict[str, Any]:
    """What makes either server ask for the password."""
    # A low work factor: the password is random, and it is checked on every scrape and query.
    return {"basic_auth_users": {USER: bcrypt.hashpw(password.encode(), bcrypt.gensalt(6)).decode()}}


def prometheus(layout: Layout, ports: dict[str, int], cluster: Cluster) -> dict[str, Any]:
    basic_auth = {"username": USER, "password_file": str(layout.secrets / "metrics-password")}
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
            _workers("tidegate-worker", layout, ports, "/targets"),
            *(_node(layout, ports) if cluster.is_own else [_proxied_workers(layout, ports, cluster)]),
            {
                "job_name": "tidegate-exporter",
                "static_configs": [{"targets": [f"{LOOPBACK}:{ports['exporter']}"]}],
            },
        ],
    }


def _workers(job: str, layout: Layout, ports: dict[str, int], path: str) -> dict[str, Any]:
    return {
        "job_name": job,
        "scrape_interval": WORKER_SCRAPE,
        "scrape_timeout": "4s",
        "http_sd_configs": [
            {
                "url": f"http://{LOOPBACK}:{ports['discovery']}{path}",
                "refresh_interval": WORKER_SCRAPE,
                "authorization": {"type": "Bearer", "credentials_file": str(layout.secrets / "discovery-token")},
            }
        ],
        # The three labels that cAdvisor's series carry too: the breaker asks for both in one query.
        "relabel_configs": [
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
            {"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"},
        ],
    }


def _proxied_workers(layout: Layout, ports: dict[str, int], cluster: Cluster) -> dict[str, Any]:
    """The way through a foreign cluster's API server, with an account that may do nothing else there."""
    job = _workers("tidegate-worker-proxied", layout, ports, "/targets/proxied")
    # All behind one address: what differs is the pod, and rules know one job.
    job["relabel_configs"] += [
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "instance"},
        {"target_label": "job", "replacement": "tidegate-worker"},
    ]
    server = cluster.core.api_client.configuration
    return {
        **job,
        "authorization": {"type": "Bearer", "credentials_file": str(layout.scrape_token)},
        "tls_config": {
            "ca_file": str(layout.cluster_authority),
            "insecure_skip_verify": not server.verify_ssl,
            **({"server_name": server.tls_server_name} if server.tls_server_name else {}),
        },
    }


def _node(layout: Layout, ports: dict[str, int]) -> list[dict[str, Any]]:
    """What the own pod API tells in the place of cAdvisor and kube-state-metrics."""
    return [
        {
            "job_name": job,
            "metrics_path": path,
            "scheme": "https",
            "tls_config": {"ca_file": str(layout.podapi / "ca.crt")},
            "authorization": {"type": "Bearer", "credentials_file": str(layout.podapi / "token")},
            "honor_labels": True,
            "static_configs": [{"targets": [f"{LOOPBACK}:{ports['podapi']}"]}],
        }
        for job, path in (("cadvisor", "/metrics/cadvisor"), ("kube-state-metrics", "/metrics/kube-state"))
    ]


def _write(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(yaml.safe_dump(content, sort_keys=False))
    draft.chmod(0o600)
    draft.replace(path)
