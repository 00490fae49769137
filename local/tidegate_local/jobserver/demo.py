"""The administrator's side, under `/demo/`: make jobs, manifests and users, switch faults, read what really happened.

Every path asks for a superuser's token. The truth about a job, image by image, is what an end-to-end test asserts on.
"""

from __future__ import annotations

import csv
import io
import json
import re
import time
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from tidegate_local.jobserver.accounts import Accounts
from tidegate_local.jobserver.api import job_details
from tidegate_local.jobserver.faults import Fault, UnknownFault
from tidegate_local.jobserver.image_urls import ImageUrls
from tidegate_local.jobserver.images import JOB_KINDS, VARIANTS, ImageStore, kind_at
from tidegate_local.jobserver.lifecycle import DISPATCH_MODES
from tidegate_local.jobserver.request_log import RequestLog
from tidegate_local.jobserver.settings import MAX_ACK_PENDING, MAX_DELIVER
from tidegate_local.jobserver.state import State
from tidegate_local.jobserver.truth import job_truth
from tidegate_local.jobserver.wire import Authenticator, Refusal, found, json_object, json_response, path_id

_MANIFEST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_IMAGES_LIMIT = 1_000_000


class Demo:
    """Handlers of `/demo/` and of the manifests."""

    def __init__(
        self,
        state: State,
        accounts: Accounts,
        authenticator: Authenticator,
        store: ImageStore,
        urls: ImageUrls,
        requests: RequestLog,
    ) -> None:
        self._state = state
        self._accounts = accounts
        self._authenticator = authenticator
        self._store = store
        self._urls = urls
        self._requests = requests

    def routes(self) -> list[web.RouteDef]:
        guarded = [
            ("GET", "/demo/health/", self.health),
            ("POST", "/demo/jobs/", self.create_job),
            ("GET", "/demo/jobs/{id}/truth/", self.show_truth),
            ("GET", "/demo/faults/", self.list_faults),
            ("POST", "/demo/faults/", self.add_fault),
            ("DELETE", "/demo/faults/", self.clear_faults),
            ("DELETE", "/demo/faults/{id}/", self.remove_fault),
            ("GET", "/demo/requests/", self.list_requests),
            ("GET", "/demo/services/", self.list_services),
            ("POST", "/demo/manifests/", self.create_manifest),
            ("POST", "/demo/users/", self.create_user),
            ("POST", "/demo/reap/", self.reap),
        ]
        return [
            *(web.route(method, path, self._guard(handler)) for method, path, handler in guarded),
            web.get("/manifests/{name}.{format:csv|jsonl}", self.show_manifest),
        ]

    def _guard(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._authenticator.superuser(request)
            try:
                response = await handler(request)
            except (ValueError, TypeError, LookupError) as problem:
                raise Refusal(400, {"detail": str(problem)}) from None
            return response

        return guarded

    async def health(self, _request: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def create_job(self, request: web.Request) -> web.Response:
        """Make a job of N images of a kind and, unless told otherwise, enqueue it.

        A pipeline that nobody has registered yet becomes a placeholder; results fail to save until a worker registers.
        """
        body = await json_object(request)
        kind, count = _kind_and_count(body)
        mode = body.get("dispatch_mode", "async_api")
        if mode not in DISPATCH_MODES:
            raise ValueError(f"dispatch_mode must be one of {', '.join(DISPATCH_MODES)}")
        slug = body.get("pipeline", "demo_pipeline")
        await self._store.prepare({kind_at(kind, position) for position in range(min(count, 100))})
        now, settings, db = time.time(), self._state.settings, self._state.db
        with db.transaction():
            pipeline_id = None if slug is None else self._state.registry.pipeline_or_placeholder(str(slug))
            image_ids = [int(image) for image in body.get("image_ids") or self._new_images(kind, count)]
            job_id = db.insert(
                "INSERT INTO jobs (name, project_id, pipeline_id, dispatch_mode, status, shuffle, lease_seconds, "
                "max_deliver, max_ack_pending, save_delay_seconds, created_at, updated_at) "
                "VALUES (?, 1, ?, ?, 'CREATED', ?, ?, ?, ?, ?, ?, ?)",
                str(body.get("name", f"{kind} x {len(image_ids)}")), pipeline_id, mode, bool(body.get("shuffle", True)),
                float(body.get("lease_seconds", settings.lease_seconds)), int(body.get("max_deliver", MAX_DELIVER)),
                int(body.get("max_ack_pending", MAX_ACK_PENDING)),
                float(body.get("save_delay_seconds", settings.save_delay_seconds)), now, now,
            )  # fmt: skip
            db.execute_many(
                "INSERT INTO job_images (job_id, image_id, position) VALUES (?, ?, ?)",
                [(job_id, image_id, position) for position, image_id in enumerate(image_ids)],
            )
            for wanted in body.get("faults", []):
                self._add_faults(wanted, job_id, image_ids)
            if body.get("start", True):
                self._state.lifecycle.enqueue(job_id)
        job = found(db.one("SELECT * FROM jobs WHERE id = ?", job_id))
        return json_response(job_details(self._state, job) | {"image_ids": [str(image) for image in image_ids]}, 201)

    def _new_images(self, kind: str, count: int) -> list[int]:
        first = int(self._state.db.scalar("SELECT coalesce(max(id), 0) + 1 FROM images"))
        self._state.db.execute_many(
            "INSERT INTO images (id, kind, variant) VALUES (?, ?, ?)",
            [(first + n, kind_at(kind, n), n % VARIANTS) for n in range(count)],
        )
        return list(range(first, first + count))

    async def show_truth(self, request: web.Request) -> web.Response:
        job = found(self._state.db.one("SELECT * FROM jobs WHERE id = ?", path_id(request)))
        return json_response(job_truth(self._state.db, job, self._requests.image_requests))

    async def list_faults(self, _request: web.Request) -> web.Response:
        return json_response({"faults": self._state.faults.shown()})

    async def add_fault(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        with self._state.db.transaction():
            faults = self._add_faults(body, body.get("job"), [])
        return json_response({"faults": [fault.shown() for fault in faults]}, 201)

    def _add_faults(self, wanted: dict[str, Any], job_id: int | None, image_ids: list[int]) -> list[Fault]:
        """One fault, or one for each image named by id (`images`) or by position in the job (`positions`)."""
        foreign = set(wanted) - {"kind", "endpoint", "job", "images", "positions", "times", "ratio", "options"}
        if foreign:
            raise UnknownFault(f"a fault has no {sorted(foreign)}")
        positions = [image_ids[position] for position in wanted.get("positions", [])]
        reached: list[int | None] = [*(int(image) for image in wanted.get("images", [])), *positions]
        return [
            self._state.faults.add(
                wanted.get("kind", ""),
                endpoint=wanted.get("endpoint"),
                job_id=job_id,
                image_id=image_id,
                times=wanted.get("times"),
                ratio=float(wanted.get("ratio", 1.0)),
                options=wanted.get("options"),
            )
            for image_id in reached or [None]
        ]

    async def clear_faults(self, _request: web.Request) -> web.Response:
        self._state.faults.clear()
        return json_response({"faults": []})

    async def remove_fault(self, request: web.Request) -> web.Response:
        self._state.faults.remove(path_id(request))
        return json_response({"faults": self._state.faults.shown()})

    async def list_requests(self, request: web.Request) -> web.Response:
        limit = int(request.query.get("limit", "1000"))
        return json_response({"requests": self._requests.shown(request.query.get("role"), limit)})

    async def list_services(self, _request: web.Request) -> web.Response:
        return json_response({"services": self._state.registry.services()})

    async def create_user(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        token = self._accounts.add(
            str(body["email"]),
            str(body["password"]),
            is_superuser=bool(body.get("is_superuser", False)),
            is_active=bool(body.get("is_active", True)),
        )
        return json_response({"email": body["email"], "token": token}, 201)

    async def reap(self, request: web.Request) -> web.Response:
        """Run the reaper now, with the silence that the body names or the server's own."""
        body = await json_object(request)
        silent = float(body.get("silent_seconds", self._state.settings.silent_job_seconds))
        with self._state.db.transaction():
            return json_response({"jobs": self._state.lifecycle.reap(silent)})

    async def create_manifest(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        kind, count = _kind_and_count(body)
        name = str(body.get("name", ""))
        if not _MANIFEST_NAME.fullmatch(name):
            raise ValueError("name must be letters, digits, dots, dashes and underscores")
        await self._store.prepare({kind_at(kind, position) for position in range(min(count, 100))})
        db = self._state.db
        with db.transaction():
            if db.one("SELECT 1 FROM manifests WHERE name = ?", name) is not None:
                raise ValueError(f"there is a manifest {name} already; choose another name")
            db.execute("INSERT INTO manifests VALUES (?, ?)", name, time.time())
            image_ids = self._new_images(kind, count)
            db.execute_many(
                "INSERT INTO manifest_images VALUES (?, ?, ?)",
                [(name, position, image_id) for position, image_id in enumerate(image_ids)],
            )
        base = f"http://{request.host}/manifests/{name}"
        return json_response(
            {"csv": f"{base}.csv", "jsonl": f"{base}.jsonl", "image_ids": [str(image) for image in image_ids]}, 201
        )

    async def show_manifest(self, request: web.Request) -> web.Response:
        """The manifest as CSV or JSONL; open to whoever can reach the server, for its URLs carry their own right."""
        name, form = request.match_info["name"], request.match_info["format"]
        manifest = found(self._state.db.one("SELECT * FROM manifests WHERE name = ?", name))
        rows = self._state.db.all("SELECT image_id FROM manifest_images WHERE name = ? ORDER BY position", name)
        entries = [
            {
                "image_id": str(row["image_id"]),
                "uri": self._urls.signed(row["image_id"], manifest["created_at"], request.host),
            }
            for row in rows
        ]
        if form == "jsonl":
            text = "".join(f"{json.dumps(entry)}\n" for entry in entries)
            return web.Response(text=text, content_type="application/x-ndjson")
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, ["image_id", "uri"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(entries)
        return web.Response(text=out.getvalue(), content_type="text/csv")


def _kind_and_count(body: dict[str, Any]) -> tuple[str, int]:
    kind, count = str(body.get("kind", "tiny")), int(body.get("images", 10))
    if kind not in JOB_KINDS:
        raise ValueError(f"kind must be one of {', '.join(JOB_KINDS)}")
    if not 0 <= count <= _IMAGES_LIMIT:
        raise ValueError(f"images must be 0 to {_IMAGES_LIMIT}")
    return kind, count
