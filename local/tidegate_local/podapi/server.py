"""The HTTP face of the pod API: authentication, routes, lists, watches, logs and the proxy to pods."""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
from aiohttp import web

from tidegate_local.podapi import discovery, logs, refusals, requests
from tidegate_local.podapi.kinds import PODS
from tidegate_local.podapi.refusals import Json, Refusal
from tidegate_local.podapi.resources import Resources, Target
from tidegate_local.podapi.store import Store, Stored
from tidegate_local.podapi.tables import table
from tidegate_local.podapi.watching import watch

_MAX_BODY_BYTES: Final = 3 * 1024 * 1024
_PROXY_SECONDS: Final = 30.0
_OPEN_PATHS: Final = frozenset({"/healthz", "/livez", "/readyz"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Path -> text exposition for Prometheus.
Expositions = dict[str, Callable[[], str]]


class PodApi:
    """The API over one store; `log_files` is the node's, `expositions` are served beside it."""

    def __init__(
        self, store: Store, token: str, log_files: logs.LogFiles, expositions: Expositions | None = None
    ) -> None:
        self.resources = Resources(store)
        self._store = store
        self._token = token.encode()
        self._log_files = log_files
        self._expositions = expositions or {}

    def application(self) -> web.Application:
        application = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[self._guarded])
        fixed: dict[str, Callable[[], Json]] = {
            "/version": discovery.version,
            "/api": discovery.api_versions,
            "/apis": discovery.api_groups,
            "/api/v1": discovery.core_resources,
            "/apis/authorization.k8s.io/v1": discovery.review_resources,
            "/openapi/v3": discovery.openapi_index,
            "/openapi/v3/api/v1": discovery.openapi_core,
        }
        for path, document in fixed.items():
            # The Python clients end these paths with a slash, client-go does not.
            application.router.add_get(path, _serving(document))
            application.router.add_get(f"{path}/", _serving(document))
        for path, exposition in self._expositions.items():
            application.router.add_get(path, _exposing(exposition))
        for path in _OPEN_PATHS:
            application.router.add_get(path, _healthy)
        application.router.add_post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", _review)
        application.router.add_route("*", "/api/v1/{tail:.+}", self._answer)
        return application

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path not in _OPEN_PATHS:
                self._authenticate(request)
            return await handler(request)
        except Refusal as refusal:
            return _json(refusal.body, refusal.code)
        except web.HTTPRequestEntityTooLarge:
            return _json(Refusal(413, "RequestEntityTooLarge", "the request is too large").body, 413)
        except web.HTTPMethodNotAllowed:
            return _json(refusals.method_not_allowed().body, 405)
        except web.HTTPNotFound:
            return _json(refusals.no_such_path().body, 404)

    def _authenticate(self, request: web.Request) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            raise Refusal(401, "Unauthorized", "Unauthorized")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        address = requests.address(request.match_info["tail"])
        target, query = address.target, request.query
        dry_run = query.get("dryRun") == "All"
        body = await _body(request)
        match request.method:
            case "GET" if target.subresource == "log":
                return await self._log(request, target)
            case "GET" if target.subresource == "proxy":
                return await self._proxy(request, target, address.rest)
            case "GET" if requests.flag(query, "watch"):
                return await self._watch(request, target)
            case "GET" if target.name:
                return self._one(request, target)
            case "GET":
                return self._list(request, target)
            case "POST" if not target.name and (target.namespace or not target.kind.namespaced):
                return _json(self.resources.create(target, body, dry_run=dry_run), 201)
            case "PUT" if target.name and target.subresource not in ("log", "proxy"):
                return _json(self.resources.replace(target, body, dry_run=dry_run))
            case "PATCH" if target.name and target.subresource not in ("log", "proxy"):
                return _json(self.resources.patch(target, body, request.content_type, dry_run=dry_run))
            case "DELETE" if target.name and not target.subresource:
                options = requests.deletion_options(body, query)
                return _json(self.resources.delete(target, options, dry_run=dry_run))
            case "DELETE" if not target.name and (target.namespace or not target.kind.namespaced):
                return self._delete_all(target, request, body)
        raise refusals.method_not_allowed()

    # -- reading

    def _one(self, request: web.Request, target: Target) -> web.Response:
        item = self._store.get(target.kind, target.namespace, target.name)
        if requests.wants_table(request.headers.get("Accept", "")):
            metadata = {"resourceVersion": item["metadata"]["resourceVersion"]}
            return _json(table(target.kind, [item], metadata, include=request.query.get("includeObject", "")))
        return _json(item)

    def _list(self, request: web.Request, target: Target) -> web.Response:
        query = request.query
        found = self._store.stored(target.kind, target.namespace or None)
        if (holds := requests.chosen(target, query)) is not None:
            found = [stored for stored in found if holds(stored.item)]
        if token := query.get("continue"):
            after = requests.Page.from_token(token).after
            found = [stored for stored in found if _key(stored) > after]
        metadata: Json = {"resourceVersion": str(self._store.revision)}
        limit = requests.number(query, "limit")
        if limit and len(found) > limit:
            metadata["continue"] = requests.Page(_key(found[limit - 1])).token()
            metadata["remainingItemCount"] = len(found) - limit
            found = found[:limit]
        if requests.wants_table(request.headers.get("Accept", "")):
            items = (stored.item for stored in found)
            return _json(table(target.kind, items, metadata, include=query.get("includeObject", "")))
        head = json.dumps({"kind": f"{target.kind.name}List", "apiVersion": "v1", "metadata": metadata})
        text = f'{head[:-1]},"items":[{",".join(stored.text for stored in found)}]}}'
        return web.Response(text=text, content_type="application/json")

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        as_table = requests.wants_table(request.headers.get("Accept", ""))
        include = request.query.get("includeObject", "")

        def printer(stored: Stored, first: bool) -> str:
            if not as_table:
                return stored.text
            metadata = {"resourceVersion": stored.item["metadata"]["resourceVersion"]}
            return json.dumps(table(target.kind, [stored.item], metadata, with_header=first, include=include))

        lines = watch(self._store, requests.watch_request(target, request.query), printer)
        return await _streamed(request, lines, "application/json")

    async def _log(self, request: web.Request, target: Target) -> web.StreamResponse:
        pod = self._store.get(PODS, target.namespace, target.name)
        container = _log_container(pod, request.query.get("container", ""))
        previous = requests.flag(request.query, "previous")
        wanted = requests.log_request(request.query)
        log = self._log_files.log_file(pod["metadata"]["uid"], container, previous=previous)
        if log is None and previous:
            raise refusals.bad_request(f'previous terminated container "{container}" in pod "{target.name}" not found')
        if log is None and pod["spec"].get("nodeName"):
            why = _waiting_reason(pod, container)
            raise refusals.bad_request(f'container "{container}" in pod "{target.name}" is waiting to start: {why}')
        if log is None:
            return web.Response(text="")
        return await _streamed(request, logs.read(log, wanted), "text/plain")

    async def _proxy(self, request: web.Request, target: Target, rest: str) -> web.Response:
        """GET http://POD_IP:PORT/REST; the caller's credentials stay here."""
        name, port = _proxy_name(target.name)
        pod = self._store.get(PODS, target.namespace, name)
        address = pod.get("status", {}).get("podIP", "")
        # A status may be written by clients: only this machine's own addresses are ever dialled.
        if not address or not ipaddress.ip_address(address).is_loopback:
            raise Refusal(503, "ServiceUnavailable", f"the pod {name} has no address yet")
        url = f"http://{address}:{port or _first_port(pod)}/{rest}"
        timeout = aiohttp.ClientTimeout(total=_PROXY_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.get(url, params=request.query, allow_redirects=False) as answer,
            ):
                kept = {
                    key: answer.headers[key] for key in ("Content-Type", "Content-Encoding") if key in answer.headers
                }
                return web.Response(body=await answer.read(), status=answer.status, headers=kept)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Refusal(503, "ServiceUnavailable", f"error trying to reach service: {error}") from None

    # -- writing

    def _delete_all(self, target: Target, request: web.Request, body: Any) -> web.Response:
        holds = requests.chosen(target, request.query) or (lambda _: True)
        options = requests.deletion_options(body, request.query)
        doomed = self.resources.delete_all(target.kind, target.namespace, holds, options)
        metadata = {"resourceVersion": str(self._store.revision)}
        return _json({"kind": f"{target.kind.name}List", "apiVersion": "v1", "metadata": metadata, "items": doomed})


async def _body(request: web.Request) -> Any:
    if request.method == "GET":
        return {}
    return requests.decoded(await request.read(), request.content_type)


async def _streamed(request: web.Request, chunks: Any, content_type: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": content_type})
    response.enable_chunked_encoding()
    await response.prepare(request)
    try:
        async for chunk in chunks:
            await response.write(chunk)
        await response.write_eof()
    except ConnectionResetError:
        # The client has gone: there is nobody to tell.
        return response
    finally:
        await chunks.aclose()
    return response


def _json(item: Json, code: int = 200) -> web.Response:
    text = json.dumps(item, separators=(",", ":"), ensure_ascii=False)
    return web.Response(text=text, status=code, content_type="application/json")


def _serving(document: Callable[[], Json]) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return _json(document())

    return handler


def _exposing(exposition: Callable[[], str]) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    return handler


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _review(_: web.Request) -> web.Response:
    return _json(discovery.access_review(), 201)


def _key(stored: Stored) -> tuple[str, str]:
    metadata = stored.item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _log_container(pod: Json, wanted: str) -> str:
    spec, name = pod["spec"], pod["metadata"]["name"]
    names = [each["name"] for field in ("containers", "initContainers") for each in spec.get(field) or []]
    if not wanted:
        if len(spec["containers"]) > 1:
            choices = " ".join(each["name"] for each in spec["containers"])
            raise refusals.bad_request(
                f"a container name must be specified for pod {name}, choose one of: [{choices}]"
            )  # fmt: skip
        return str(names[0])
    if wanted not in names:
        raise refusals.bad_request(f"container {wanted} is not valid for pod {name}")
    return wanted


def _waiting_reason(pod: Json, container: str) -> str:
    for field in ("containerStatuses", "initContainerStatuses"):
        for status in pod.get("status", {}).get(field) or []:
            if status["name"] == container:
                return str(status.get("state", {}).get("waiting", {}).get("reason", "ContainerCreating"))
    return "ContainerCreating"


def _proxy_name(text: str) -> tuple[str, int | None]:
    """NAME, NAME:PORT or http:NAME:PORT."""
    parts = text.removeprefix("http:").split(":")
    if len(parts) == 1 or not parts[1]:
        return parts[0], None
    if len(parts) > 2 or not parts[1].isdecimal() or not 0 < int(parts[1]) < 65536:
        raise refusals.bad_request(f"invalid pod request {text!r}: NAME:PORT is expected")
    return parts[0], int(parts[1])


def _first_port(pod: Json) -> int:
    ports = [port["containerPort"] for each in pod["spec"]["containers"] for port in each.get("ports") or []]
    return int(ports[0]) if ports else 80
