"""A container engine of the tests' own: what it builds and stores lies in one folder, apart from the user's images."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Engine:
    """docker or podman; their command lines agree in what is used here."""

    program: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = (self.program, *arguments)
        # Where a container runs out of memory, podman's monitor leaves a file in the folder it was started in.
        done = subprocess.run(command, env=self._env, cwd=self.folder, text=True, capture_output=True, check=False)
        assert not check or done.returncode == 0, f"{self.program} {' '.join(arguments)}:\n{done.stderr[-4000:]}"
        return done

    @property
    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def build(self, which: str, name: str, base: str) -> None:
        """`make image`, or `make airflow-image`, as a person would."""
        options = " ".join(("--network", "host", *self.limits))
        chosen = {"BUILDER": self.program, "IMAGE": name, "BASE_IMAGE": base, "BUILD_OPTIONS": options}
        done = subprocess.run(
            ("make", "image" if which == "worker" else f"{which}-image"),
            cwd=REPOSITORY,
            env={**self._env, **chosen},
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        assert done.stdout.strip().endswith(name)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A container that is gone when it has ended."""
        return self("run", "--rm", *self.limits, *arguments, check=check)

    def inspect(self, name: str) -> Any:
        return json.loads(self("inspect", name).stdout)[0]

    @property
    def limits(self) -> tuple[str, ...]:
        """Modest ones: podman's own are above what it may set where it lacks CAP_SYS_RESOURCE."""
        if self.program != "podman":
            return ()
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = min(files, 65536)
        return ("--ulimit", f"nofile={files}:{files}", "--ulimit", "nproc=4096:4096")

    @property
    def read_only(self) -> tuple[str, ...]:
        """A root that is read-only throughout: podman would put writable file systems on /tmp, /run and /var/tmp."""
        return ("--read-only", "--read-only-tmpfs=false") if self.program == "podman" else ("--read-only",)


def found(folder: Path) -> Engine:
    """The engine of this machine, installed where that is allowed; a skip with the reason where there is none."""
    docker = Engine("docker", folder)
    if _answers(docker):
        return docker
    if not shutil.which("podman"):
        _installed("podman", "runc")
    engine = Engine("podman", folder, _apart(folder))
    if not _answers(engine):
        pytest.skip(f"podman does not work here: {engine('info', check=False).stderr.strip()[-300:]}")
    return engine


def _answers(engine: Engine) -> bool:
    if not shutil.which(engine.program):
        return False
    # The client of docker is on many machines whose daemon does not run.
    return engine("info", check=False).returncode == 0


def _installed(*packages: str) -> None:
    done = subprocess.run((REPOSITORY / "scripts" / "apt", *packages), text=True, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no container engine: {done.stderr.strip()[-300:]}")


def _apart(folder: Path) -> dict[str, str]:
    """podman's environment: storage in `folder`, and nothing asked for that an ordinary root in a container lacks."""
    for name in ("storage", "run", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    # crun of Debian 12 takes no memory limit on cgroup v1; runc does.
    runtime = 'runtime = "runc"\n' if shutil.which("runc") else ""
    (folder / "containers.conf").write_text(f'[engine]\n{runtime}cgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder / "storage"}"\nrunroot = "{folder / "run"}"\n'
    )
    return {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        # Caches of builds lie here too.
        "TMPDIR": str(folder / "tmp"),
    }


def small_debian(engine: Engine, name: str, folder: Path) -> None:
    """Import a Debian with Python as an image: what a registry would offer, where none can be reached."""
    if not shutil.which("debootstrap"):
        _installed("debootstrap")
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian" or os.geteuid() != 0:
        pytest.skip("a base image is made by debootstrap, as root on Debian; name one in BASE_IMAGE instead")
    root = folder / "debian"
    packages = "python3,python3-venv,ca-certificates"
    command = ("debootstrap", "--variant=minbase", f"--include={packages}", release["VERSION_CODENAME"], str(root))
    done = subprocess.run((*command, _mirror()), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    shutil.rmtree(root / "var" / "cache" / "apt")
    archive = folder / "debian.tar"
    _run("tar", "--create", "--file", str(archive), "--directory", str(root), "--one-file-system", ".")
    shutil.rmtree(root)
    engine("import", "--change", 'CMD ["python3"]', str(archive), name)
    archive.unlink()


def _mirror() -> str:
    """The one that this machine's apt uses."""
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main")
    return targets.split()[0]


def _run(*command: str | Sequence[str]) -> str:
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout  # type: ignore[arg-type]
