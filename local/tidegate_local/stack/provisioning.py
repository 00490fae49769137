"""What the DAGs' pods name in the cluster: a secret for the token, claims for results and staging; nothing else."""

from __future__ import annotations

from typing import Any, Final

import kubernetes
from kubernetes.client.exceptions import ApiException

from tidegate_local.stack.airflow_config import RESULTS_CLAIM, STAGING_CLAIM, TOKEN_SECRET
from tidegate_local.stack.layout import Layout

NAMESPACE: Final = "default"


def provision(layout: Layout) -> None:
    """Create or renew them through the API of this stack; safe to repeat."""
    config = kubernetes.config.new_client_from_config(str(layout.podapi / "kubeconfig"))
    api = kubernetes.client.CoreV1Api(config)
    token = (layout.jobserver / "token").read_text().strip()
    secret = kubernetes.client.V1Secret(
        metadata=kubernetes.client.V1ObjectMeta(name=TOKEN_SECRET), string_data={"token": token}
    )
    try:
        api.create_namespaced_secret(NAMESPACE, secret)
    except ApiException as error:
        _if_exists(error)
        api.patch_namespaced_secret(TOKEN_SECRET, NAMESPACE, {"stringData": secret.string_data})
    for claim in (RESULTS_CLAIM, STAGING_CLAIM):
        try:
            api.create_namespaced_persistent_volume_claim(NAMESPACE, _claim(claim))
        except ApiException as error:
            _if_exists(error)


def _claim(name: str) -> Any:
    return kubernetes.client.V1PersistentVolumeClaim(
        metadata=kubernetes.client.V1ObjectMeta(name=name),
        spec=kubernetes.client.V1PersistentVolumeClaimSpec(
            access_modes=["ReadWriteMany"],
            resources=kubernetes.client.V1VolumeResourceRequirements(requests={"storage": "10Gi"}),
        ),
    )


def _if_exists(error: ApiException) -> Any:
    if error.status != 409:
        raise error
