"""How the API talks: authentication, bodies, errors, booleans and pages as Django REST framework has them.

Knows nothing of jobs. Handlers raise `Refusal`; the middleware turns it, and every unknown route, into the body that
Antenna would send.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.typedefs import Handler

from tidegate_local.jobserver.database import Database, Row

log = logging.getLogger(__name__)

API_PREFIX = "/api/v2"
DEFAULT_PAGE = 10
#: Larger bodies are parsed outside the event loop, so that one of 100 MB does not hold up every other worker.
_PARSE_INLINE_BYTES = 256 * 1024
_FALSE_WORDS = frozenset({"0", "false", "no", "off", "f", "n"})
_SERVER_ERROR = (
    "<!doctype html><html><head><title>Server Error (500)</title></head><body><h1>Server Error (500)</h1></body></html>"
)


class Refusal(Exception):
    """An answer other than success: a status and the JSON body that goes with it."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body
        self.headers = headers or {}


class ServerError(Exception):
    """What Antenna answers with an HTML page and status 500."""


NOT_FOUND = Refusal(404, {"detail": "Not found."})
FORBIDDEN = Refusal(403, {"detail": "You do not have permission to perform this action."})
_CHALLENGE = {"WWW-Authenticate": "Token"}


@dataclass(frozen=True, slots=True)
class User:
    email: str
    is_superuser: bool


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(
        body, status=status, headers=headers, dumps=lambda value: json.dumps(value, separators=(",", ":"))
    )


class Authenticator:
    """`Authorization: Token <key>`, the one scheme that Antenna knows."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def user(self, request: web.Request) -> User | None:
        """The user behind the token; None where there is no token, or a wrong one on a read.

        A read with a wrong token is served as anonymous (seen on the running server), so that a worker cannot take a
        200 of the job list for a proof of its token.
        """
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "token":
            return None
        row = self._db.one("SELECT email, is_superuser, is_active FROM users WHERE token = ?", key.strip())
        if row is None or not row["is_active"]:
            if request.method in ("GET", "HEAD"):
                return None
            raise Refusal(401, {"detail": "Invalid token." if row is None else "User inactive or deleted."}, _CHALLENGE)
        return User(row["email"], bool(row["is_superuser"]))

    def superuser(self, request: web.Request) -> User:
        """The user, if it may pull and post: on Antenna no role but superuser holds that permission."""
        user = self.user(request)
        if user is None:
            raise Refusal(401, {"detail": "Authentication credentials were not provided."}, _CHALLENGE)
        if not user.is_superuser:
            raise FORBIDDEN
        return user


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"Out of range float values are not JSON compliant: {name!r}")


def _parse_json(body: bytes) -> Any:
    return json.loads(body.decode(), parse_constant=_refuse_constant)


async def json_object(request: web.Request) -> dict[str, Any]:
    """The request's JSON object. A request without Content-Length reads as empty, a compressed one as bad JSON."""
    if not request.content_length:
        return {}
    if request.content_type != "application/json":
        raise Refusal(
            415, {"detail": f'Unsupported media type "{request.headers.get("Content-Type", "")}" in request.'}
        )
    body = await request.read()
    try:
        parsed = _parse_json(body) if len(body) < _PARSE_INLINE_BYTES else await asyncio.to_thread(_parse_json, body)
    except ValueError as error:
        raise Refusal(400, {"detail": f"JSON parse error - {error}"}) from None
    if not isinstance(parsed, dict):
        kind = {list: "list", str: "str", int: "int", float: "float", bool: "bool"}.get(type(parsed), "NoneType")
        raise Refusal(400, {"non_field_errors": [f"Invalid data. Expected a dictionary, but got {kind}."]})
    return parsed


def flag(request: web.Request, name: str) -> bool:
    """A boolean query parameter: present and not a word for no."""
    value = request.query.get(name)
    return value is not None and value.lower() not in _FALSE_WORDS


def integer(request: web.Request, name: str, default: int, minimum: int) -> int:
    """An integer query parameter, or `default` where it is absent or senseless, as the paginator has it."""
    try:
        value = int(request.query.get(name, ""))
    except ValueError:
        return default
    return value if value >= minimum else default


def page(request: web.Request, rows: Sequence[Any], count: int, limit: int, offset: int) -> dict[str, Any]:
    """The envelope of a list."""

    def link(at: int) -> str:
        query = [(key, value) for key, value in request.query.items() if key not in ("limit", "offset")]
        query.append(("limit", str(limit)))
        if at > 0:
            query.append(("offset", str(at)))
        return f"{request.scheme}://{request.host}{request.path}?{urlencode(sorted(query))}"

    return {
        "count": count,
        "next": link(offset + limit) if offset + limit < count else None,
        "previous": link(max(0, offset - limit)) if offset > 0 else None,
        "results": list(rows),
        "user_permissions": [],
    }


def path_id(request: web.Request, name: str = "id") -> int:
    """The id in the path; what cannot be one is as absent as one that does not exist."""
    text = request.match_info[name]
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise NOT_FOUND
    return int(text)


def found(row: Row | None) -> Row:
    if row is None:
        raise NOT_FOUND
    return row


@web.middleware
async def speak_rest(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn refusals, unknown routes and crashes into Antenna's bodies."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return json_response(refusal.body, refusal.status, refusal.headers)
    except ServerError:
        log.warning("answered 500 to %s %s", request.method, request.path, exc_info=True)
        return web.Response(status=500, text=_SERVER_ERROR, content_type="text/html")
    except web.HTTPNotFound:
        if request.path.startswith(API_PREFIX) and not request.path.endswith("/"):
            query = f"?{request.query_string}" if request.query_string else ""
            return web.Response(status=301, headers={"Location": f"{request.path}/{query}"})
        return web.Response(status=404, text="<h1>Not Found</h1>", content_type="text/html")
    except web.HTTPMethodNotAllowed as refusal:
        return json_response(
            {"detail": f'Method "{request.method}" not allowed.'}, 405, {"Allow": refusal.headers["Allow"]}
        )
