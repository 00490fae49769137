"""The control plane's settings, read from the environment in one place; the worker has its own.

Secrets are named here, never held: what a pod needs comes to it by secretKeyRef, what Airflow needs lies in files.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidegate.core.contract import GIB
from tidegate.core.errors import FixConfig

PREFIX: Final = "TIDEGATE_"


class Configuration(BaseSettings):
    """Each field is the environment variable TIDEGATE_<NAME>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    run_store_url: str = Field("", description="database of runs; by default a SQLite file beside Airflow's own")
    prometheus_conn_id: str | None = Field(
        None, description="Airflow connection of the metrics server; where it is named, nothing below is read"
    )
    prometheus_url: str = Field("http://127.0.0.1:9090", description="any server that speaks the query API")
    prometheus_user: str | None = Field(None, description="user of basic authentication")
    prometheus_password_file: Path | None = Field(None, description="file with the password of basic authentication")
    prometheus_token_file: Path | None = Field(None, description="file with a bearer token, read anew as it changes")
    prometheus_ca_file: Path | None = Field(None, description="certificate authority of the server")
    prometheus_cert_file: Path | None = Field(None, description="our own certificate, for servers that ask for one")
    prometheus_key_file: Path | None = Field(None, description="its key, without a passphrase")
    prometheus_headers: dict[str, SecretStr] = Field(
        default_factory=dict, description='further headers, as JSON: {"X-Scope-OrgID": "tenant"}'
    )
    prometheus_header_files: dict[str, Path] = Field(
        default_factory=dict, description='further headers whose values lie in files, as JSON: {"NAME": "/path"}'
    )
    prometheus_sigv4_region: str | None = Field(
        None, description="AWS region: requests are signed with the keys that AWS's own tools would use"
    )
    prometheus_sigv4_service: str = Field("aps", description="AWS service that the signature is for")
    prometheus_exact_names: bool = Field(
        False, description="one query a series, for servers that take no pattern for its name (Google, Azure)"
    )

    kubernetes_conn_id: str = Field("kubernetes_default", description="Airflow connection of the cluster")
    namespace: str = Field("default", description="namespace of the pods")
    worker_image: str = Field("tidegate-worker:latest", description="image of the worker")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str | None = Field(None, description="service account of the pods; its token is never mounted")
    priority_class: str | None = None
    cpu_request: str = Field("1", description="CPU request of a pod; it has no CPU limit, which would only throttle it")
    gpu_resource: str = Field("nvidia.com/gpu", description="resource name of a GPU")
    gpus: Annotated[int, Field(ge=0, le=1)] = Field(0, description="GPUs a pod: more GPUs are more slots")
    uid: Annotated[int, Field(ge=1)] = 65532
    staging_claim: str | None = Field(None, description="claim of a volume for staged files; by default an emptyDir")
    staging_bytes: Annotated[int, Field(gt=0)] = 10 * GIB
    results_claim: str | None = Field(None, description="claim of the volume that manifest results are written to")
    weights_claim: str | None = Field(None, description="claim of a volume that keeps model weights between pods")
    pod_env: dict[str, str] = Field(default_factory=dict, description="plain environment of every pod, as JSON")
    pipeline_env: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description='more of it for the pods of one pipeline, as JSON: {"PIPELINE": {"NAME": "value"}}',
    )
    pod_secrets: dict[str, str] = Field(
        default_factory=dict, description='environment from secrets, as JSON: {"NAME": "secret/key"}'
    )

    antenna_url: str | None = Field(None, description="base URL of the Antenna API, ending in /api/v2")
    antenna_token_file: Path | None = Field(None, description="file with the token that reads job progress")
    ledger_url: SecretStr | None = Field(
        None, description="database URL of the manifest jobs' ledger, as Airflow reaches it; the workers have their own"
    )
    ledger_url_file: Path | None = Field(None, description="a file with that URL, for one that holds a password")
    pipelines: tuple[str, ...] = Field(
        (
            "panama_moths_2023",
            "panama_moths_2024",
            "quebec_vermont_moths_2023",
            "uk_denmark_moths_2023",
            "costa_rica_moths_turing_2024",
            "anguilla_moths_turing_2024",
            "kenya-uganda_moths_turing_2024",
            "global_moths_2024",
            "moth_binary",
            "insect_orders_2025",
            "tidegate_demo",
        ),
        description="pipelines that the form offers, as JSON; each must be in the worker's catalogue",
    )
    cap_bytes: Annotated[int, Field(gt=0)] = Field(16 * GIB, description="no run may ask for a larger memory cap")
    lease_seconds: Annotated[float, Field(gt=0)] = Field(300.0, description="how long the source keeps a lease")
    grace_seconds: Annotated[float, Field(ge=30)] = Field(120.0, description="longest grace period of a pod")
    resize: bool = Field(True, description="whether the cluster resizes pods in place (Kubernetes 1.33 and later)")
    scrape_seconds: Annotated[float, Field(gt=0)] = Field(5.0, description="how often Prometheus scrapes workers")
    nightly_schedule: str = Field("0 20 * * *", description="cron line of the nightly DAG")
    nightly_timezone: str = Field("UTC", description="its time zone, such as America/Montreal")
    nightly_runs: Annotated[int, Field(ge=1)] = Field(
        16, description="runs side by side; a job without room would be failed upstream after ten silent minutes"
    )
    nightly_manifests: tuple[str, ...] = Field(
        (), description='manifests of each night, as JSON: ["PIPELINE=s3://bucket/{{ ds }}.csv"]'
    )
    slack_conn_id: str | None = Field(None, description="Airflow connection that tells of ends and lock-outs in Slack")
    slack_channel: str = Field("#tidegate", description="where in Slack")
    pagerduty_conn_id: str | None = Field(None, description="Airflow connection that pages on a lock-out")
    opsgenie_conn_id: str | None = Field(None, description="Airflow connection that alerts on a lock-out")
    dashboards_url: str = Field("http://localhost:3000", description="Grafana with the dashboards of monitoring/")
    docs_url: str = Field("https://github.com/tidegate/tidegate/blob/main/docs", description="where runbooks are read")

    def ledger(self) -> str:
        """The URL of the manifest jobs' ledger."""
        if self.ledger_url_file is not None:
            return read_secret(self.ledger_url_file, "TIDEGATE_LEDGER_URL_FILE")
        if self.ledger_url is None:
            raise FixConfig(
                "only the ledger of a manifest's workers proves that all of it is answered: set TIDEGATE_LEDGER_URL,"
                " for example to postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            )
        return self.ledger_url.get_secret_value()

    def store_url(self, airflow_home: str) -> str:
        return self.run_store_url or f"sqlite:///{Path(airflow_home) / 'tidegate.sqlite'}"


@cache
def configuration() -> Configuration:
    """The settings of this process; a wrong one is named with what it takes."""
    try:
        return Configuration()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        raise FixConfig(f"{name}: {first['msg']}") from None


def read_secret(path: Path, setting: str) -> str:
    """The secret in the file that `setting` names."""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise FixConfig(f"{setting}: {path} cannot be read ({error.strerror})") from None


def described() -> list[tuple[str, Any, str]]:
    """Name, default and meaning of every setting, for the documentation."""
    return [
        (PREFIX + name.upper(), field.get_default(call_default_factory=True), field.description or "")
        for name, field in Configuration.model_fields.items()
    ]
