"""`podapi`: the pod API and the node agent in one process, from a work folder that holds all their state.

| in the work folder | what                                                                                |
|--------------------|-------------------------------------------------------------------------------------|
| kubeconfig         | for every client; carries the token (0600)                                          |
| token, ca.crt      | for clients that take no kubeconfig, Prometheus for one                             |
| shared/            | the only folder that hostPath volumes may name                                      |
| claims/            | a folder for each persistent volume claim                                           |
| pods/              | logs, termination messages and volumes of pods, until they are deleted              |
| objects.sqlite     | the objects                                                                         |
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import hashlib
import logging
import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import IO, Final

from aiohttp import web

from tidegate.core.contract import ExitCode
from tidegate.core.errors import FixConfig
from tidegate_local.node import metrics
from tidegate_local.node.agent import Agent
from tidegate_local.node.cgroups import cgroups, scope_command
from tidegate_local.node.container_config import NodeFacts
from tidegate_local.node.events import Recorder
from tidegate_local.node.images import Images
from tidegate_local.node.scheduling import GPU
from tidegate_local.node.services import NodeServices
from tidegate_local.node.volumes import Folders
from tidegate_local.podapi.access import ADDRESS, Access
from tidegate_local.podapi.quantity import quantity, whole
from tidegate_local.podapi.server import PodApi
from tidegate_local.podapi.store import Store

_log = logging.getLogger(__name__)

_STOP_GRACE_SECONDS: Final = 5.0
_PODS: Final = 110
#: The share of the machine's memory that pods may ask for unless the command line says otherwise.
_MEMORY_SHARE: Final = 0.8
#: Set in the process that runs in a scope of its own, so that it does not look for another.
_IN_SCOPE: Final = "TIDEGATE_LOCAL_IN_SCOPE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder that holds all state; made where missing")
    parser.add_argument("--port", type=int, default=0, help="0 (default): the last one again, or any free one")
    parser.add_argument("--images", type=Path, help="image table (YAML or JSON); WORKDIR/images.yaml where it exists")
    parser.add_argument(
        "--memory", help="memory that pods may request together, e.g. 8Gi (default: 80%% of the machine)"
    )
    parser.add_argument("--cpus", help="CPUs that pods may request together (default: all)")
    parser.add_argument("--gpus", type=int, default=0, help="nvidia.com/gpu devices to offer (default: none)")
    parser.add_argument("--pods", type=int, default=_PODS, help="pods at a time (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, then end the pods and leave nothing behind."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    try:
        _enter_scope()
        asyncio.run(_serve(arguments))
    except FixConfig as error:
        print(f"podapi: {error}", file=sys.stderr)
        return ExitCode.CONFIGURATION
    return 0


def _enter_scope() -> None:
    """Start anew in a systemd scope where memory cgroups can only be made in one."""
    prefix = scope_command()
    if not prefix or os.environ.get(_IN_SCOPE) or shutil.which(prefix[0]) is None:
        return
    os.environ[_IN_SCOPE] = "1"
    os.execvp(prefix[0], [*prefix, sys.executable, "-m", "tidegate_local", *sys.argv[1:]])  # noqa: S606


async def _serve(arguments: argparse.Namespace) -> None:
    workdir: Path = arguments.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    workdir.chmod(0o700)
    lock = _only_one(workdir)
    # Before the node: what refuses to start must leave no cgroup.
    listening = _listening(arguments.port, workdir)
    store = Store(workdir / "objects.sqlite")
    agent = Agent(_services(arguments, workdir, store))
    access = Access.in_folder(workdir)
    expositions = {
        "/metrics/cadvisor": lambda: metrics.cadvisor(agent),
        "/metrics/kube-state": lambda: metrics.kube_state(store),
    }
    api = PodApi(store, access.token, agent, expositions)
    runner = web.AppRunner(api.application(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    port = listening.getsockname()[1]
    await web.SockSite(runner, listening, ssl_context=access.server_context()).start()
    access.write_kubeconfig(port)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    agent.start()
    print(f"pod API at https://{ADDRESS}:{port}, kubeconfig {access.kubeconfig_file}", flush=True)
    try:
        await stopped.wait()
    finally:
        await agent.stop(_STOP_GRACE_SECONDS)
        await runner.cleanup()
        store.close()
        lock.close()


def _only_one(workdir: Path) -> IO[str]:
    lock = (workdir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise FixConfig(f"another pod API runs from {workdir}: stop it, or name another --workdir") from None
    return lock


def _listening(port: int, workdir: Path) -> socket.socket:
    """A socket on `port`; on 0 the port of last time, so that clients find a restarted server, or else a free one."""
    note = workdir / "port"
    last = note.read_text().strip() if port == 0 and note.exists() else ""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, int(last) if last.isdecimal() else port))
    except OSError as error:
        if not last:
            raise FixConfig(f"port {port} cannot be used ({error.strerror}): name another --port") from None
        listening.bind((ADDRESS, 0))
    note.write_text(str(listening.getsockname()[1]))
    return listening


def _services(arguments: argparse.Namespace, workdir: Path, store: Store) -> NodeServices:
    table = arguments.images or workdir / "images.yaml"
    images = Images.from_file(table if arguments.images or table.exists() else None)
    folders = Folders(workdir)
    for folder in (folders.shared, workdir / "claims", workdir / "pods"):
        folder.mkdir(exist_ok=True)
    folders.shared.chmod(0o777)
    allocatable = {
        "memory": _amount("--memory", arguments.memory, _machine_memory()),
        "cpu": _amount("--cpus", arguments.cpus, os.cpu_count() or 1, scale=1000),
        "pods": arguments.pods,
        **({GPU: arguments.gpus} if arguments.gpus else {}),
    }
    name = re.sub(r"[^a-z0-9-]", "-", socket.gethostname().lower()).strip("-") or "local"
    facts = NodeFacts(name, ADDRESS, allocatable)
    return NodeServices(store, Recorder(store, name), images, cgroups(stack_name(workdir)), folders, facts)


def stack_name(workdir: Path) -> str:
    """What the cgroups of a work folder are called: stacks side by side must not meet."""
    return f"tidegate-{hashlib.sha256(str(workdir).encode()).hexdigest()[:12]}"


def _amount(option: str, given: str | None, default: int, scale: int = 1) -> int:
    try:
        return whole(quantity(default if given is None else given) * scale)
    except ValueError:
        raise FixConfig(f"{option} {given!r} is no quantity: write 8Gi, 512Mi or 2500m") from None


def _machine_memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(total * _MEMORY_SHARE)
