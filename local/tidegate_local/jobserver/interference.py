"""Request faults: what the server does to a call instead of, before or after answering it.

A middleware outside the handlers: the handlers know nothing of it. `/demo/` and images are left alone, so that a fault
can always be switched off again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tidegate_local.jobserver.faults import REQUEST_KINDS, Fault, Faults, Kind
from tidegate_local.jobserver.wire import ServerError, json_response

_PIECE_SECONDS = 0.05


def interfere_with(faults: Faults) -> Middleware:
    """The middleware that asks `faults` at every named route of the API."""

    @web.middleware
    async def interfere(request: web.Request, handler: Handler) -> web.StreamResponse:
        endpoint = request.match_info.route.name
        if endpoint is None:
            return await handler(request)
        job = request.match_info.get("id", "")
        job_id = int(job) if endpoint in ("job", "tasks", "result") and job.isascii() and job.isdigit() else None
        fault = faults.fire(*REQUEST_KINDS, endpoint=endpoint, job_ids=() if job_id is None else (job_id,))
        if fault is None:
            return await handler(request)
        return await _strike(fault, request, handler, endpoint, job_id)

    return interfere


async def _strike(
    fault: Fault, request: web.Request, handler: Handler, endpoint: str, job_id: int | None
) -> web.StreamResponse:
    await asyncio.sleep(fault.options.get("delay_seconds", 0))
    match fault.kind:
        case Kind.TIMEOUT:
            # Nothing was done; the connection ends without an answer once the client's patience should have.
            reset_connection(request)
            return web.Response(status=503)
        case Kind.UNAVAILABLE:
            return _unavailable(endpoint, job_id)
        case Kind.SERVER_ERROR:
            raise ServerError("a fault that was switched on")
        case Kind.LOST_RESPONSE:
            response = await handler(request)
            reset_connection(request)
            return response
        case Kind.TRICKLE:
            return await _trickle(request, await handler(request), fault.options["bytes_per_second"])
        case _:
            return await handler(request)


def _unavailable(endpoint: str, job_id: int | None) -> web.Response:
    if endpoint == "tasks":
        return json_response({"error": "Task queue temporarily unavailable"}, 503)
    if endpoint == "result":
        return json_response({"status": "error", "job_id": job_id, "detail": "Task queue temporarily unavailable"}, 503)
    return web.Response(status=503, text="<h1>503 Service Temporarily Unavailable</h1>", content_type="text/html")


async def _trickle(request: web.Request, response: web.StreamResponse, bytes_per_second: float) -> web.StreamResponse:
    body = response.body if isinstance(response, web.Response) else b""
    content = body if isinstance(body, bytes) else b""
    slow = web.StreamResponse(status=response.status, headers={"Content-Type": response.headers["Content-Type"]})
    slow.content_length = len(content)
    await slow.prepare(request)
    await send_slowly(slow, content, bytes_per_second)
    return slow


async def send_slowly(response: web.StreamResponse, content: bytes, bytes_per_second: float) -> None:
    """Write `content` in small pieces at that rate, until the client has had enough."""
    piece = max(1, int(bytes_per_second * _PIECE_SECONDS))
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(content), piece):
            await response.write(content[start : start + piece])
            await asyncio.sleep(_PIECE_SECONDS)
        await response.write_eof()


def reset_connection(request: web.Request) -> None:
    """End the connection with a reset: the client learns nothing of what was done."""
    if (transport := request.transport) is not None:
        if (connection := transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
