"""docker-compose.yaml held against its schema, the files it mounts, the settings it names and the stack it mirrors.

Nothing is started: no test here needs an engine.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.adapters.configuration import described
from tidegate.core.contract import METRICS_PORT, WORKER_LABELS
from tidegate_local.stack.airflow_config import DEMO_PIPELINES, RESULTS_CLAIM, STAGING_CLAIM
from tidegate_local.stack.cluster import Cluster
from tidegate_local.stack.compose import doors
from tidegate_local.stack.layout import PORT_NAMES, Layout
from tidegate_local.stack.metrics_config import WORKER_SCRAPE, prometheus
from tidegate_local.stack.provisioning import AIRFLOW_RULES

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")


def interpolated(text: str, values: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if values.get(name):
            return values[name]
        assert kind != ":?", f"{name} is missing: {rest}"
        return rest or ""

    return VARIABLE.sub(value, text)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """What `make compose-env` makes where there is nothing yet."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "compose-env", tmp_path / "scripts")
    subprocess.run([tmp_path / "scripts" / "compose-env"], check=True, capture_output=True)
    return tmp_path / ".env"


def values_of(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


@pytest.fixture
def resolved(env_file: Path) -> dict[str, dict[str, Any]]:
    """The services as compose sees them."""
    services: dict[str, dict[str, Any]] = yaml.safe_load(interpolated(FILE.read_text(), values_of(env_file)))[
        "services"
    ]
    return services


def binds(service: dict[str, Any]) -> list[tuple[str, str]]:
    """(source, target) of the mounts that name a path of the host."""
    pairs = [volume.split(":")[:2] for volume in service.get("volumes", ())]
    return [(source, target) for source, target in pairs if source.startswith((".", "/", "$"))]


def test_the_file_keeps_to_the_schema_of_the_compose_specification() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(FILE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_that_is_mounted_or_built_from_is_there(resolved: dict[str, dict[str, Any]]) -> None:
    sources = {source for service in resolved.values() for source, _ in binds(service)} - {"/var/run/docker.sock"}
    # Made by a person, or empty by the engine.
    sources -= {"./.run/alert-secrets"}
    assert [source for source in sources if not (ROOT / source).exists()] == []
    builds = [service["build"] for service in SERVICES.values() if "build" in service]
    assert [build for build in builds if not (ROOT / build["context"] / build["dockerfile"]).is_file()] == []


def test_a_script_that_is_mounted_runs_in_a_shell_of_its_image() -> None:
    for script in (*(ROOT / "compose" / "k3s").glob("*-*"), ROOT / "compose" / "airflow" / "prepare"):
        shell = "bash" if script.read_text().startswith("#!/usr/bin/env bash") else "sh"
        assert subprocess.run([shell, "-n", script], check=False).returncode == 0, script


def test_every_image_is_pinned_to_a_version() -> None:
    images = {service["image"] for service in SERVICES.values()}
    assert [image for image in images if not re.search(r":v?\d+\.\d+[\w.-]*$", image)] == []


def test_everything_published_is_on_loopback_and_no_two_share_a_port(resolved: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in resolved.values() for port in service.get("ports", ())]
    assert len(ports) >= 8
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert [port for port, count in Counter(port.split(":")[1] for port in ports).items() if count > 1] == []


def test_no_address_of_the_network_is_given_twice(resolved: dict[str, dict[str, Any]]) -> None:
    networks = [service.get("networks") for service in resolved.values()]
    given = [each["tidegate"]["ipv4_address"] for each in networks if isinstance(each, dict)]
    assert len(given) == len(set(given)) >= 3


def test_every_service_waits_for_services_of_its_own_profile() -> None:
    for name, service in SERVICES.items():
        for other in service.get("depends_on", ()):
            assert set(service["profiles"]) <= set(SERVICES[other]["profiles"]), (name, other)
        shared = service.get("network_mode", "").removeprefix("service:")
        assert shared in ("", "none") or set(service["profiles"]) <= set(SERVICES[shared]["profiles"])
    assert {profile for service in SERVICES.values() for profile in service["profiles"]} == {"core", "gpu"}


def test_a_service_that_stays_says_whether_it_is_well() -> None:
    staying = [name for name, service in SERVICES.items() if service.get("restart") == "unless-stopped"]
    assert [name for name in staying if "healthcheck" not in SERVICES[name]] == ["worker-gpu"]


def test_one_service_alone_is_privileged_and_one_alone_is_given_the_engines_socket() -> None:
    assert [name for name, service in SERVICES.items() if service.get("privileged")] == ["k3s"]
    with_socket = [
        name for name, each in SERVICES.items() if any("docker.sock" in str(v) for v in each.get("volumes", ()))
    ]
    assert with_socket == ["worker-image"]
    assert SERVICES["worker-image"]["network_mode"] == "none"


def test_named_volumes_and_secrets_are_declared_and_used() -> None:
    named = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if not volume.startswith((".", "/", "$"))
    }
    assert named == set(COMPOSE["volumes"])
    secrets = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert secrets == set(COMPOSE["secrets"])


def test_no_secret_stands_in_the_file() -> None:
    secret = re.compile(r"(PASSWORD|SECRET|TOKEN|FERNET_KEY)$")
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if secret.search(name):
                assert re.fullmatch(r"\$\{STACK_\w+:\?[^}]+\}", value), name
    assert [entry for entry in COMPOSE["secrets"].values() if set(entry) != {"environment"}] == []


def test_every_variable_is_explained_in_the_example_and_made_or_defaulted(env_file: Path) -> None:
    used = {match[1]: match[2] for match in VARIABLE.finditer(FILE.read_text())}
    from_secrets = {entry["environment"] for entry in COMPOSE["secrets"].values()}
    explained = set(re.findall(r"^#((?:STACK|COMPOSE)_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert explained - {"COMPOSE_PROFILES"} == used.keys() | from_secrets
    made = values_of(env_file)
    assert {name for name, kind in used.items() if kind != ":-"} | from_secrets <= made.keys()
    assert env_file.stat().st_mode & 0o077 == 0


def test_what_is_in_the_env_file_stays_and_only_what_is_missing_is_added(env_file: Path) -> None:
    env_file.write_text("TIDEGATE_ANTENNA_URL=https://antenna.example/api/v2\nSTACK_SUBNET=10.9.8\nSTACK_JWT_SECRET=")
    subprocess.run([env_file.parent / "scripts" / "compose-env"], check=True, capture_output=True)
    first = env_file.read_text()
    values = values_of(env_file)
    assert values["STACK_SUBNET"] == "10.9.8"
    assert values["TIDEGATE_ANTENNA_URL"] == "https://antenna.example/api/v2"
    assert len(values["STACK_JWT_SECRET"]) >= 32
    subprocess.run([env_file.parent / "scripts" / "compose-env"], check=True, capture_output=True)
    assert env_file.read_text() == first


def test_every_setting_of_the_control_plane_is_known(resolved: dict[str, dict[str, Any]]) -> None:
    known = {name for name, _, _ in described()}
    named = {name for name in resolved["airflow-scheduler"]["environment"] if name.startswith("TIDEGATE_")}
    assert named <= known


def test_every_setting_of_the_workers_is_known(resolved: dict[str, dict[str, Any]]) -> None:
    known = set(re.findall(r"`((?:TIDEGATE|AMI)_\w+)`", (ROOT / "docs" / "settings.md").read_text()))
    environment = resolved["airflow-scheduler"]["environment"]
    named = {
        *json.loads(environment["TIDEGATE_POD_ENV"]),
        *json.loads(environment["TIDEGATE_POD_SECRETS"]),
        *(name for values in json.loads(environment["TIDEGATE_PIPELINE_ENV"]).values() for name in values),
        *resolved["worker-gpu"]["environment"],
    }
    assert named <= known


def test_every_setting_of_airflow_is_known(resolved: dict[str, dict[str, Any]]) -> None:
    spec = find_spec("airflow")
    assert spec is not None
    assert spec.origin is not None
    description = yaml.safe_load((Path(spec.origin).parent / "config_templates" / "config.yml").read_text())
    named = [name.split("__", 2)[1:] for name in resolved["airflow-scheduler"]["environment"] if "AIRFLOW__" in name]
    unknown = [
        (section, option)
        for section, option in named
        if option.lower() not in description.get(section.lower(), {}).get("options", {})
    ]
    assert len(named) > 10
    assert unknown == []


def test_the_demo_finds_the_pipelines_and_volumes_that_it_has_on_one_machine(
    resolved: dict[str, dict[str, Any]],
) -> None:
    environment = resolved["airflow-scheduler"]["environment"]
    assert json.loads(environment["TIDEGATE_PIPELINE_ENV"]) == DEMO_PIPELINES
    assert json.loads(environment["TIDEGATE_PIPELINES"]) == ["tidegate_demo", *DEMO_PIPELINES]
    assert environment["TIDEGATE_RESULTS_CLAIM"] == RESULTS_CLAIM
    assert environment["TIDEGATE_STAGING_CLAIM"] == STAGING_CLAIM


def of_k3s(kind: str) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all((ROOT / "compose" / "k3s" / "tidegate.yaml").read_text())
    return [each for each in documents if each["kind"] == kind]


def test_the_accounts_in_k3s_may_do_what_they_do_elsewhere_and_no_more(resolved: dict[str, dict[str, Any]]) -> None:
    roles = {role["metadata"]["name"]: role["rules"] for role in of_k3s("Role")}
    assert roles["airflow"] == AIRFLOW_RULES
    assert {verb for rule in roles["prometheus"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    namespace = resolved["airflow-scheduler"]["environment"]["TIDEGATE_NAMESPACE"]
    assert [each["metadata"]["name"] for each in of_k3s("Namespace")] == [namespace]
    claims = {each["metadata"]["name"] for each in of_k3s("PersistentVolumeClaim")}
    assert claims == {RESULTS_CLAIM, STAGING_CLAIM}


def test_prometheus_has_the_jobs_that_it_has_on_one_machine_but_for_what_k3s_does_not_serve(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    there = prometheus(layout, dict.fromkeys(PORT_NAMES, 1), Cluster.own(layout))["scrape_configs"]
    here = yaml.safe_load((ROOT / "compose" / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    missing = {each["job_name"] for each in there} - {each["job_name"] for each in here}
    assert missing == {"kube-state-metrics"}


def test_prometheus_scrapes_workers_as_on_one_machine() -> None:
    config = yaml.safe_load((ROOT / "compose" / "prometheus" / "prometheus.yaml").read_text())
    workers = config["scrape_configs"][0]
    assert workers["scrape_interval"] == WORKER_SCRAPE
    (selector,) = workers["kubernetes_sd_configs"][0]["selectors"]
    assert dict(pair.split("=") for pair in selector["label"].split(",")) == WORKER_LABELS
    set_labels = {each.get("target_label") for each in workers["relabel_configs"]}
    assert set_labels >= {"namespace", "pod", "container"}
    mounted = dict(reversed(pair) for pair in binds(SERVICES["prometheus"]))
    assert config["rule_files"] == ["/etc/prometheus/rules/*.yaml"]
    assert mounted["/etc/prometheus/rules"] == "./monitoring/rules"


def test_the_gpu_workers_metrics_are_published_where_it_serves_them(resolved: dict[str, dict[str, Any]]) -> None:
    (port,) = resolved["worker-gpu"]["ports"]
    assert port == f"127.0.0.1:{METRICS_PORT}:{METRICS_PORT}"


def test_the_demo_says_how_to_start_a_stack_that_does_not_serve(env_file: Path) -> None:
    from tidegate.core.errors import FixConfig

    env_file.write_text(re.sub(r"AIRFLOW_PORT=\d+", "AIRFLOW_PORT=9", env_file.read_text()))
    with pytest.raises(FixConfig, match="docker compose up"):
        doors(env_file)
    with pytest.raises(FixConfig, match="make compose-env"):
        doors(env_file.with_name("none"))


@pytest.mark.parametrize("path", sorted((ROOT / "compose").rglob("*.yaml")), ids=lambda path: path.name)
def test_what_is_mounted_as_yaml_is_yaml(path: Path) -> None:
    assert list(yaml.safe_load_all(path.read_text()))
