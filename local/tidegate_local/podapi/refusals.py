"""Refusals in the words of the Kubernetes API: each becomes an HTTP status and a Status object that clients parse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """One wrong field. `reason` is FieldValueRequired, FieldValueInvalid, FieldValueForbidden and the like."""

    field: str
    reason: str
    message: str


class Refusal(Exception):
    """A request that is not carried out; `body` is what the client receives."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}

    @property
    def body(self) -> Json:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def not_found(plural: str, name: str) -> Refusal:
    return Refusal(404, "NotFound", f'{plural} "{name}" not found', {"name": name, "kind": plural})


def no_such_path() -> Refusal:
    return Refusal(404, "NotFound", "the server could not find the requested resource")


def already_exists(plural: str, name: str) -> Refusal:
    return Refusal(409, "AlreadyExists", f'{plural} "{name}" already exists', {"name": name, "kind": plural})


def conflict(plural: str, name: str, why: str) -> Refusal:
    message = f'Operation cannot be fulfilled on {plural} "{name}": {why}'
    return Refusal(409, "Conflict", message, {"name": name, "kind": plural})


def stale(plural: str, name: str) -> Refusal:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(plural, name, why)


def bad_request(message: str) -> Refusal:
    return Refusal(400, "BadRequest", message)


def forbidden(plural: str, name: str, why: str) -> Refusal:
    return Refusal(403, "Forbidden", f'{plural} "{name}" is forbidden: {why}', {"name": name, "kind": plural})


def method_not_allowed() -> Refusal:
    return Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def unsupported_media_type(given: str) -> Refusal:
    return Refusal(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {given}")


def expired(revision: int, oldest: int) -> Refusal:
    return Refusal(410, "Expired", f"too old resource version: {revision} ({oldest})")


def invalid(kind: str, name: str, *causes: Cause) -> Refusal:
    """422 with every wrong field named, as `kubectl` prints it."""
    words = {
        "FieldValueRequired": "Required value",
        "FieldValueInvalid": "Invalid value",
        "FieldValueForbidden": "Forbidden",
        "FieldValueDuplicate": "Duplicate value",
        "FieldValueNotSupported": "Unsupported value",
        "FieldValueNotFound": "Not found",
    }
    told = [f"{cause.field}: {words[cause.reason]}: {cause.message}" for cause in causes]
    message = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
    details = {
        "name": name,
        "kind": kind,
        "causes": [
            {"reason": c.reason, "message": f"{words[c.reason]}: {c.message}", "field": c.field} for c in causes
        ],
    }
    return Refusal(422, "Invalid", f'{kind} "{name}" is invalid: {message}', details)
