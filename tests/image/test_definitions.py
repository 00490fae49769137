"""What Dockerfiles and `scripts/image` promise before anything is built: pinned bases, hashes, no machine's own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCKERFILES = {which: REPOSITORY / f"{which}_image" / "Dockerfile" for which in ("worker", "airflow")}


def refused(folder: Path, **variables: str) -> str:
    """What `scripts/image` says where there is no builder but a docker without a daemon."""
    for name in ("bash", "dirname", "sed", "env"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    (folder / "docker").write_text("#!/bin/sh\nexit 1\n")
    (folder / "docker").chmod(0o755)
    environment = {"PATH": str(folder), "HOME": str(folder), **variables}
    ran = subprocess.run(
        (REPOSITORY / "scripts" / "image", "worker"), env=environment, text=True, capture_output=True, check=False
    )
    assert ran.returncode == 1
    return ran.stderr


@pytest.mark.parametrize("which", DOCKERFILES)
def test_a_base_is_pinned_and_its_registry_named(which: str) -> None:
    base = re.search(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILES[which].read_text(), re.MULTILINE)
    assert base
    assert re.fullmatch(r"docker\.io/[\w/]+:\d[\w.-]+", base[1])


def test_the_base_of_airflow_is_the_version_of_the_lock() -> None:
    locked = re.search(r"^apache-airflow==(\S+)", (REPOSITORY / "requirements/control.lock").read_text(), re.MULTILINE)
    assert locked
    assert f"apache/airflow:{locked[1]}-python" in DOCKERFILES["airflow"].read_text()


def test_the_airflow_image_adds_only_what_the_lock_of_the_control_plane_names() -> None:
    locked, added = (
        dict(re.findall(r"^([\w.-]+)==(\S+)", (REPOSITORY / "requirements" / name).read_text(), re.MULTILINE))
        for name in ("control.lock", "airflow-image.lock")
    )
    assert added
    assert added.items() <= locked.items()
    assert not {"apache-airflow", "apache-airflow-core", "apache-airflow-task-sdk"} & added.keys()
    assert {"apache-airflow-providers-cncf-kubernetes", "prometheus-api-client", "psycopg"} <= added.keys()


@pytest.mark.parametrize("which", DOCKERFILES)
def test_packages_come_by_hash_or_from_here(which: str) -> None:
    text = DOCKERFILES[which].read_text().replace("\\\n", " ")
    installs = [
        line for line in re.split(r"&&|^RUN ", text, flags=re.MULTILINE) if re.search(r"pip\b.* (install|wheel) ", line)
    ]
    assert len(installs) >= 4
    assert all("--require-hashes" in each or "--no-index" in each for each in installs)


def test_a_machine_without_a_builder_is_told_so_and_what_helps(tmp_path: Path) -> None:
    assert re.search(
        "no image can be built here: neither a docker daemon.*apt-get install -y podman", refused(tmp_path)
    )


@pytest.mark.parametrize(
    ("builder", "told"),
    [
        ("kaniko", "set it to docker, podman or buildah"),
        ("docker", "docker does not work here"),
        ("buildah", "buildah"),
    ],
)
def test_a_builder_that_cannot_be_used_is_named(builder: str, told: str, tmp_path: Path) -> None:
    assert told in refused(tmp_path, BUILDER=builder)


def test_nothing_of_a_machine_is_in_what_a_build_sees() -> None:
    patterns = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] not in {"", "#"}]
    assert patterns[0] == "*", "what is not named stays out"
    seen = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    copied = {
        word.split("/")[0]
        for path in (*DOCKERFILES.values(), REPOSITORY / "local" / "Dockerfile")
        for line in path.read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert seen == copied
