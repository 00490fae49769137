"""`tidegate-local discovery`: serves the worker pods of whichever API a kubeconfig names to Prometheus."""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import kubernetes
import urllib3
from aiohttp import web

from tidegate.core.contract import WORKER_LABELS
from tidegate_local.discovery.targets import target_groups

SELECTOR = ",".join(f"{name}={value}" for name, value in WORKER_LABELS.items())
API_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kubeconfig", type=Path, required=True, help="whose API to ask for worker pods")
    parser.add_argument("--namespace", help="only this namespace (default: all)")
    parser.add_argument("--token-file", type=Path, required=True, help="bearer token that Prometheus must send")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    parser.add_argument("--port", type=int, required=True)


def run(arguments: argparse.Namespace) -> int:
    token = arguments.token_file.read_text().strip()
    pods = _Pods(arguments.kubeconfig, arguments.namespace)
    web.run_app(application(token, pods.listed), host=arguments.host, port=arguments.port, print=None)
    return 0


class _Pods:
    """Asks the API server; blocking, so callers use a thread."""

    def __init__(self, kubeconfig: Path, namespace: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace

    @cached_property
    def _api(self) -> Any:
        # At the first question: the stack's pod API may write its kubeconfig after this program has started.
        return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(self._kubeconfig)))

    def listed(self) -> list[dict[str, Any]]:
        options = {"label_selector": SELECTOR, "_preload_content": False, "_request_timeout": API_SECONDS}
        if self._namespace:
            answer = self._api.list_namespaced_pod(self._namespace, **options)
        else:
            answer = self._api.list_pod_for_all_namespaces(**options)
        items: list[dict[str, Any]] = json.loads(answer.data)["items"]
        return items


def application(token: str, list_pods: Any) -> web.Application:
    async def targets(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
        try:
            pods = await asyncio.to_thread(list_pods)
        except (
            kubernetes.client.ApiException,
            kubernetes.config.ConfigException,
            urllib3.exceptions.HTTPError,
        ) as error:
            # Prometheus keeps its last targets on anything but a 200.
            raise web.HTTPServiceUnavailable(
                text=f"the Kubernetes API did not answer: {type(error).__name__}"
            ) from error
        return web.json_response(target_groups(pods))

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.add_routes([web.get("/targets", targets), web.get("/healthz", healthz)])
    return app
