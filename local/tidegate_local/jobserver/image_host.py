"""The image server: trap images under presigned URLs, as an object store would serve them, or as a broken one would.

Every image id has its own bytes: a JPEG comment with the id stands behind the first marker of the shared base file, the
rest of which goes out by sendfile.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from tidegate_local.jobserver.faults import IMAGE_KINDS, Fault, Kind
from tidegate_local.jobserver.image_urls import IMAGE_PATH, ImageUrls
from tidegate_local.jobserver.images import ImageStore, with_size
from tidegate_local.jobserver.interference import reset_connection, send_slowly
from tidegate_local.jobserver.request_log import RequestLog
from tidegate_local.jobserver.state import State

_SOI = b"\xff\xd8"
_DENIED = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code></Error>'
_MISSING = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code></Error>'


@dataclass(frozen=True, slots=True)
class Jpeg:
    """An image as it is sent: its own head, then the base file from its third byte on."""

    head: bytes
    base: Path

    @property
    def size_bytes(self) -> int:
        return len(self.head) + self.base.stat().st_size - len(_SOI)

    def content(self) -> bytes:
        return self.head + self.base.read_bytes()[len(_SOI) :]


class ImageHost:
    """Handlers of the image paths."""

    def __init__(self, state: State, store: ImageStore, urls: ImageUrls, requests: RequestLog) -> None:
        self._state = state
        self._store = store
        self._urls = urls
        self._requests = requests

    def routes(self) -> list[web.RouteDef]:
        return [web.get(f"{IMAGE_PATH}/{{id:\\d{{1,18}}}}.jpg", self.serve)]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        image_id = int(request.match_info["id"])
        self._requests.image_requests[image_id] += request.method == "GET"
        if not self._urls.admits(request.path, request.query):
            return web.Response(status=403, text=_DENIED, content_type="application/xml")
        row = self._state.db.one("SELECT kind, variant FROM images WHERE id = ?", image_id)
        if row is None:
            return web.Response(status=404, text=_MISSING, content_type="application/xml")
        jpeg = Jpeg(_head(image_id), await self._store.base(row["kind"], row["variant"]))
        if fault := self._fault(image_id):
            return await _break(fault, request, jpeg)
        return await _send(request, jpeg)

    def _fault(self, image_id: int) -> Fault | None:
        faults = self._state.faults
        if not faults.any_on(*IMAGE_KINDS):
            return None
        jobs = self._state.db.all("SELECT job_id FROM job_images WHERE image_id = ?", image_id)
        return faults.fire(*IMAGE_KINDS, job_ids=[row["job_id"] for row in jobs], image_id=image_id)


def _head(image_id: int) -> bytes:
    comment = f"demo capture {image_id}".encode()
    return _SOI + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment


def _response(size_bytes: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "image/jpeg", "Accept-Ranges": "none"})
    response.content_length = size_bytes
    return response


async def _send(request: web.Request, jpeg: Jpeg) -> web.StreamResponse:
    response = _response(jpeg.size_bytes)
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    transport = request.transport
    with contextlib.suppress(ConnectionError):
        await response.write(jpeg.head)
        if transport is None or transport.is_closing():
            return response
        with jpeg.base.open("rb") as file:
            await asyncio.get_running_loop().sendfile(transport, file, len(_SOI))
    return response


async def _break(fault: Fault, request: web.Request, jpeg: Jpeg) -> web.StreamResponse:
    options: dict[str, Any] = fault.options
    match fault.kind:
        case Kind.IMAGE_STATUS:
            return web.Response(status=options["status"], text=_DENIED, content_type="application/xml")
        case Kind.IMAGE_HTML:
            return web.Response(text="<html><body>Please log in</body></html>", content_type="text/html")
        case Kind.IMAGE_REDIRECT:
            return web.Response(status=302, headers={"Location": options["location"]})
        case Kind.IMAGE_STALL:
            await asyncio.sleep(options["delay_seconds"])
            reset_connection(request)
            return web.Response(status=503)
        case Kind.IMAGE_CORRUPT:
            content = jpeg.content()
            return web.Response(body=content[:1024] + bytes(len(content) - 1024), content_type="image/jpeg")
        case Kind.IMAGE_BOMB:
            return web.Response(
                body=with_size(jpeg.content(), options["width"], options["height"]), content_type="image/jpeg"
            )
        case Kind.IMAGE_TRICKLE:
            response = _response(jpeg.size_bytes)
            await response.prepare(request)
            await send_slowly(response, jpeg.content(), options["bytes_per_second"])
            return response
        case _:
            return await _truncate(request, jpeg.content(), options)


async def _truncate(request: web.Request, content: bytes, options: dict[str, Any]) -> web.StreamResponse:
    kept = content[: int(len(content) * options["keep_ratio"])]
    if options["honest_length"]:
        return web.Response(body=kept, content_type="image/jpeg")
    response = _response(len(content))
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        await response.write(kept)
    if request.transport is not None:
        request.transport.close()
    return response
