"""The Airflow image: tidegate is imported from one place, its command works, DAGs load, Airflow is as it was.

Built on what BASE_IMAGE_AIRFLOW names, such as apache/airflow, else on a stand-in (`airflow_base/Dockerfile`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from tests.image.engine import REPOSITORY, Engine

pytestmark = pytest.mark.image

LOCK = (REPOSITORY / "requirements" / "control.lock").read_text()


@pytest.fixture(scope="module")
def airflow_base(engine: Engine, base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    if named := os.environ.get("BASE_IMAGE_AIRFLOW"):
        return named
    context = tmp_path_factory.mktemp("airflow-base")
    shutil.copy(Path(__file__).parent / "airflow_base" / "Dockerfile", context)
    pins = re.findall(r"^([\w.-]+==.*?) *\\?$", LOCK, re.MULTILINE)
    (context / "constraints.txt").write_text("\n".join(pins))
    version = next(pin.partition("==")[2] for pin in pins if pin.startswith("apache-airflow=="))
    name = "localhost/tidegate-test-airflow:latest"
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    engine(
        *("build", "--network", "host", *engine.limits, "--tag", name, "--build-arg", f"BASE_IMAGE={base}"),
        *("--build-arg", f"AIRFLOW_VERSION={version}"),
        *(("--secret", f"id=ca-certificates,src={certificates}") if certificates else ()),
        str(context),
    )
    return name


@pytest.fixture(scope="module")
def airflow_image(engine: Engine, airflow_base: str) -> str:
    name = "localhost/tidegate-airflow:test"
    engine.build("airflow", name, airflow_base)
    return name


def asked(engine: Engine, image: str, *command: str) -> str:
    program, *arguments = command
    return engine.run("--network", "none", "--entrypoint", program, image, *arguments).stdout


def test_the_command_works_and_keeps_its_runs_where_airflow_is_at_home(engine: Engine, airflow_image: str) -> None:
    assert json.loads(asked(engine, airflow_image, "tidegate", "runs", "--json")) == []


def test_tidegate_is_imported_from_one_place_and_all_of_it(engine: Engine, airflow_image: str) -> None:
    look = """
import json, pathlib, pkgutil, tidegate
import airflow, sys  # puts the plugins folder on the path
found = [module.name for module in pkgutil.walk_packages(tidegate.__path__, "tidegate.")]
for name in found:
    if not name.endswith(("__main__", "migrations.env")):
        __import__(name)
places = {str(pathlib.Path(path) / "tidegate") for path in sys.path if (pathlib.Path(path) / "tidegate").is_dir()}
print(json.dumps({"modules": len(found), "places": sorted(places), "version": airflow.__version__}))
"""
    found = json.loads(asked(engine, airflow_image, "python", "-W", "ignore", "-c", look).splitlines()[-1])
    assert found["modules"] > 30
    assert len(found["places"]) == 1
    assert f"apache-airflow=={found['version']} " in LOCK


def test_dags_and_the_plugin_load_and_the_loader_replaces_no_module(engine: Engine, airflow_image: str) -> None:
    look = """
import json, os, statistics, sys, types
before = dict(sys.modules)
from airflow import plugins_manager
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("/opt/airflow/dags")
plugins_manager.ensure_plugins_loaded()
print(json.dumps({
    "dags": sorted(bag.dags), "errors": {**bag.import_errors, **plugins_manager.get_import_errors()},
    "replaced": [name for name, module in before.items() if sys.modules.get(name) is not module],
    "plugins": [plugin["name"] for plugin in plugins_manager.get_plugin_info()],
    "files": sorted(name for name in os.listdir("/opt/airflow/plugins") if name != "__pycache__"),
}))
"""
    found = json.loads(asked(engine, airflow_image, "python", "-W", "ignore", "-c", look).splitlines()[-1])
    assert found["errors"] == {}
    assert {"tidegate_batch_inference", "tidegate_nightly"} <= set(found["dags"])
    assert found["replaced"] == []
    assert "tidegate" in found["plugins"]
    assert found["files"] == [".airflowignore", "tidegate_entry.py"]


def test_what_is_installed_agrees_with_itself(engine: Engine, airflow_image: str) -> None:
    assert "No broken requirements" in asked(engine, airflow_image, "pip", "check")


def test_the_image_says_what_it_is_and_keeps_the_user_of_its_base(
    engine: Engine, airflow_base: str, airflow_image: str
) -> None:
    config, under = (engine.inspect(name)["Config"] for name in (airflow_image, airflow_base))
    assert config["User"] == under["User"] not in {"", "0", "root"}
    assert config["Labels"]["org.opencontainers.image.title"] == "tidegate-airflow"
    assert config.get("Entrypoint") == under.get("Entrypoint")
