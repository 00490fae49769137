"""What was asked of the server, for tests to read: above all which headers reached an image host.

Kept in memory for the last requests of this process. Values of Authorization and Cookie are never kept, only that they
came; neither are values of query parameters.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

_KEPT: Final = 20_000
_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class Seen:
    """One request."""

    at: float
    role: str
    method: str
    path: str
    query_names: list[str]
    headers: dict[str, str]
    carries_authorization: bool
    status: int
    seconds: float
    host: str


class RequestLog:
    """The last requests, and how often each image was asked for."""

    def __init__(self) -> None:
        self._seen: deque[Seen] = deque(maxlen=_KEPT)
        self.image_requests: Counter[int] = Counter()

        @web.middleware
        async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = time.time()
            status = 0
            try:
                response = await handler(request)
                status = response.status
            except web.HTTPException as error:
                status = error.status
                raise
            else:
                return response
            finally:
                self._note(request, started, status)

        self.record = record

    def _note(self, request: web.Request, started: float, status: int) -> None:
        role = "image" if request.path.startswith("/demo-bucket/") else request.path.strip("/").partition("/")[0]
        headers = {
            name: "(withheld)" if name.lower() in _SECRET_HEADERS else value for name, value in request.headers.items()
        }
        self._seen.append(
            Seen(
                at=started,
                role=role,
                method=request.method,
                path=request.path,
                query_names=sorted(request.query),
                headers=headers,
                carries_authorization="Authorization" in request.headers,
                status=status,
                seconds=time.time() - started,
                host=request.host,
            )
        )

    def shown(self, role: str | None, limit: int) -> list[dict[str, Any]]:
        """The last requests of a role (api, demo, image, manifests), oldest first."""
        chosen = [seen for seen in self._seen if role is None or seen.role == role]
        return [asdict(seen) for seen in chosen[-limit:]]
