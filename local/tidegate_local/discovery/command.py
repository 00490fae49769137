"""`tidegate-local discovery`: serves the worker pods of whichever API a kubeconfig names to Prometheus.

| path               | pods, as `http_sd` wants them                                                            |
|--------------------|------------------------------------------------------------------------------------------|
| `/targets`         | under their own addresses; none where those are out of reach                             |
| `/targets/proxied` | behind the API server's proxy, for a scrape job with its credentials; none where in reach |
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import kubernetes
import urllib3
from aiohttp import web

from tidegate.core.contract import WORKER_LABELS
from tidegate_local.discovery.route import Route, Routes, answers_by_proxy, answers_directly
from tidegate_local.discovery.targets import direct_groups, proxied_groups, scraped

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
    web.run_app(application(token, pods.by_route), host=arguments.host, port=arguments.port, print=None)
    return 0


class _Pods:
    """Asks the API server; blocking, so callers use a thread."""

    def __init__(self, kubeconfig: Path, namespace: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._routes = Routes(
            {Route.DIRECT: answers_directly, Route.PROXY: lambda pod: answers_by_proxy(self._api, pod)}
        )

    @cached_property
    def _api(self) -> Any:
        # At the first question: the stack's pod API may write its kubeconfig after this program has started.
        return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(self._kubeconfig)))

    def by_route(self, route: Route) -> list[dict[str, Any]]:
        """The target groups of the pods that are reached by `route`."""
        pods = self._listed()
        if self._routes.choose(scraped(pods)) is not route:
            return []
        server = self._api.api_client.configuration.host
        return direct_groups(pods) if route is Route.DIRECT else proxied_groups(pods, server)

    def _listed(self) -> list[dict[str, Any]]:
        options = {"label_selector": SELECTOR, "_preload_content": False, "_request_timeout": API_SECONDS}
        if self._namespace:
            answer = self._api.list_namespaced_pod(self._namespace, **options)
        else:
            answer = self._api.list_pod_for_all_namespaces(**options)
        items: list[dict[str, Any]] = json.loads(answer.data)["items"]
        return items


def application(token: str, by_route: Callable[[Route], list[dict[str, Any]]]) -> web.Application:
    async def targets(request: web.Request, route: Route) -> web.Response:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
        try:
            groups = await asyncio.to_thread(by_route, route)
        except (
            kubernetes.client.ApiException,
            kubernetes.config.ConfigException,
            urllib3.exceptions.HTTPError,
        ) as error:
            # Prometheus keeps its last targets on anything but a 200.
            raise web.HTTPServiceUnavailable(
                text=f"the Kubernetes API did not answer: {type(error).__name__}"
            ) from error
        return web.json_response(groups)

    async def direct(request: web.Request) -> web.Response:
        return await targets(request, Route.DIRECT)

    async def proxied(request: web.Request) -> web.Response:
        return await targets(request, Route.PROXY)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.add_routes([web.get("/targets", direct), web.get("/targets/proxied", proxied), web.get("/healthz", healthz)])
    return app
