"""What the stack makes in its cluster, and takes away again: accounts, secrets, claims; nothing else.

| object                              | on the own pod API         | on a foreign cluster                           |
|-------------------------------------|----------------------------|------------------------------------------------|
| namespace                           | is there                   | made, and deleted with all that is in it       |
| account and role of Airflow         | the API's only token       | what the breaker and the operators do, no more |
| account and role of Prometheus      | none: it reaches every pod | pods/proxy, get                                |
| secrets, claims                     | made                       | made; claims where volumes come by themselves  |
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import certifi
import kubernetes
import yaml
from kubernetes.client.exceptions import ApiException

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_local.stack.airflow_config import (
    LEDGER_SECRET,
    RESULTS_CLAIM,
    STAGING_CLAIM,
    TOKEN_SECRET,
)
from tidegate_local.stack.cluster import Cluster
from tidegate_local.stack.layout import Layout

AIRFLOW_ACCOUNT: Final = "airflow"
PROMETHEUS_ACCOUNT: Final = "prometheus"
#: All that Airflow's operators and the breaker do in the namespace of the pods.
AIRFLOW_RULES: Final[list[dict[str, Any]]] = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "list", "watch", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["pods/resize"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
]
PROMETHEUS_RULES: Final[list[dict[str, Any]]] = [
    {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]},
]
#: Longer than any suite; the API server may shorten it.
_TOKEN_SECONDS: Final = 24 * 3600
#: Deleting a namespace waits for its pods, each with its grace.
_GONE_SECONDS: Final = 180.0
_LABELS: Final = {"app.kubernetes.io/part-of": "tidegate"}


def write_authority(layout: Layout, cluster: Cluster) -> None:
    """Who signed the certificate of a foreign cluster's API server: Prometheus wants the file when it starts."""
    ca = cluster.core.api_client.configuration.ssl_ca_cert
    if ca is None:
        # Signed by an authority that the world trusts.
        ca = certifi.where()
    layout.cluster_authority.write_bytes(Path(ca).read_bytes())


def provision(layout: Layout, cluster: Cluster) -> None:
    """Create or renew all of it; safe to repeat."""
    api = cluster.core
    if not cluster.is_own:
        _made(lambda: api.create_namespace({"metadata": {"name": cluster.namespace, "labels": _LABELS}}))
    if cluster.has_roles:
        airflow = _account(cluster, AIRFLOW_ACCOUNT, AIRFLOW_RULES)
        _write(layout.airflow_kubeconfig, _kubeconfig_of(layout, cluster, airflow))
        _write(layout.scrape_token, _account(cluster, PROMETHEUS_ACCOUNT, PROMETHEUS_RULES))
    elif not cluster.is_own:
        _write(layout.scrape_token, _token_of(cluster))
    _secret(cluster, TOKEN_SECRET, {"token": (layout.jobserver / "token").read_text().strip()})
    if cluster.ledger_url is not None:
        _secret(cluster, LEDGER_SECRET, {"url": cluster.ledger_url})
    # A volume of one node at a time is what every storage class offers.
    for claim, mode in (
        *(((RESULTS_CLAIM, "ReadWriteMany"), (STAGING_CLAIM, "ReadWriteMany")) if cluster.is_own else ()),
        *(((RESULTS_CLAIM, "ReadWriteOnce"),) if cluster.has_volumes and not cluster.is_own else ()),
    ):
        _claim(cluster, claim, mode)


def withdraw(cluster: Cluster) -> None:
    """Delete a foreign cluster's namespace with all that is in it, and wait until it is gone."""
    api = cluster.core
    with contextlib.suppress(ApiException):
        api.delete_namespace(cluster.namespace)
    deadline = time.monotonic() + _GONE_SECONDS
    while True:
        try:
            api.read_namespace(cluster.namespace)
        except ApiException as error:
            if error.status == 404:
                return
        if time.monotonic() > deadline:
            raise RetryLater(
                f"namespace {cluster.namespace} is still there after {_GONE_SECONDS:.0f} s:"
                f" kubectl delete namespace {cluster.namespace}"
            )
        time.sleep(1.0)


def _account(cluster: Cluster, name: str, rules: list[dict[str, Any]]) -> str:
    """The token of a service account that may do what the rules say, in the stack's namespace alone."""
    api, namespace = cluster.core, cluster.namespace
    roles = kubernetes.client.RbacAuthorizationV1Api(api.api_client)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    metadata = {"name": name}
    _made(lambda: api.create_namespaced_service_account(namespace, {"metadata": metadata}))
    _made(lambda: roles.create_namespaced_role(namespace, {"metadata": metadata, "rules": rules}))
    binding = {"metadata": metadata, "subjects": [subject], "roleRef": reference}
    _made(lambda: roles.create_namespaced_role_binding(namespace, binding))
    request = {"spec": {"expirationSeconds": _TOKEN_SECONDS}}
    return str(api.create_namespaced_service_account_token(name, namespace, request).status.token)


def _kubeconfig_of(layout: Layout, cluster: Cluster, token: str) -> str:
    configuration = cluster.core.api_client.configuration
    server: dict[str, Any] = {"server": configuration.host}
    if configuration.verify_ssl:
        server["certificate-authority-data"] = base64.b64encode(layout.cluster_authority.read_bytes()).decode()
    else:
        server["insecure-skip-tls-verify"] = True
    if configuration.tls_server_name:
        server["tls-server-name"] = configuration.tls_server_name
    name = "tidegate"
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": server}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": cluster.namespace}}],
            "current-context": name,
        }
    )


def _token_of(cluster: Cluster) -> str:
    """The kubeconfig's own bearer token; empty where it has a certificate, which Prometheus is not given."""
    bearer = cluster.core.api_client.configuration.auth_settings().get("BearerToken", {})
    return str(bearer.get("value") or "").removeprefix("Bearer ")


def _secret(cluster: Cluster, name: str, data: dict[str, str]) -> None:
    api = cluster.core
    body = {"metadata": {"name": name}, "stringData": data}
    if not _made(lambda: api.create_namespaced_secret(cluster.namespace, body)):
        api.patch_namespaced_secret(name, cluster.namespace, {"stringData": data})


def _claim(cluster: Cluster, name: str, mode: str) -> None:
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": "10Gi" if cluster.is_own else "1Gi"}}}
    body = {"metadata": {"name": name}, "spec": spec}
    _made(lambda: cluster.core.create_namespaced_persistent_volume_claim(cluster.namespace, body))


def _made(create: Callable[[], Any]) -> bool:
    """Whether it was made now; it may have been there. A refusal says what the kubeconfig's user lacks."""
    try:
        create()
    except ApiException as error:
        if error.status == 409:
            return False
        if error.status == 403:
            raise FixConfig(f"the user of this kubeconfig may not make what the stack needs: {error.body}") from None
        raise
    return True


def _write(path: Path, content: str) -> None:
    draft = path.with_suffix(".draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
    draft.replace(path)
