"""What the API says of itself: versions, resources and the least OpenAPI document that satisfies kubectl's writers."""

from __future__ import annotations

from typing import Final

from tidegate_local.podapi.kinds import KINDS, Kind
from tidegate_local.podapi.refusals import Json

#: The release whose behaviour is reproduced.
VERSION: Final = "v1.36.0-tidegate"
_REVIEW_GROUP: Final = "authorization.k8s.io"


def version() -> Json:
    return {
        "major": "1", "minor": "36", "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "python", "platform": "linux/amd64",
    }  # fmt: skip


def api_versions() -> Json:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def api_groups() -> Json:
    preferred = {"groupVersion": f"{_REVIEW_GROUP}/v1", "version": "v1"}
    group = {"name": _REVIEW_GROUP, "versions": [preferred], "preferredVersion": preferred}
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}


def core_resources() -> Json:
    resources: list[Json] = []
    for kind in KINDS.values():
        resources.append(
            {
                "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.name,
                "verbs": list(kind.verbs), "shortNames": list(kind.short_names),
                **({"categories": ["all"]} if kind.plural == "pods" else {}),
            }
        )  # fmt: skip
        resources.extend(
            {
                "name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced, "kind": kind.name,
                "verbs": list(verbs),
            }
            for name, verbs in kind.subresources
        )  # fmt: skip
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": resources}


def review_resources() -> Json:
    review = {
        "name": "selfsubjectaccessreviews", "singularName": "selfsubjectaccessreview", "namespaced": False,
        "kind": "SelfSubjectAccessReview", "verbs": ["create"],
    }  # fmt: skip
    group_version = f"{_REVIEW_GROUP}/v1"
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": [review]}


def access_review() -> Json:
    """Whoever holds the token may do everything; what is asked stays unread, for kubectl asks in protobuf."""
    return {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": f"{_REVIEW_GROUP}/v1",
        "metadata": {},
        "spec": {},
        "status": {"allowed": True, "reason": "the bearer of this API's only token"},
    }


def openapi_index() -> Json:
    return {"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=1"}}}


def openapi_core() -> Json:
    """Paths with `fieldValidation` on every write: without it kubectl asks for OpenAPI v2, which is protobuf only.

    No schemas, and no strategic merge content type: kubectl then merges by the types that it is built with.
    """
    paths: Json = {}
    for kind in KINDS.values():
        collection = f"/api/v1/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"/api/v1/{kind.plural}"
        paths[collection] = {"post": _operation(kind)}
        paths[f"{collection}/{{name}}"] = {"put": _operation(kind), "patch": _operation(kind)}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": VERSION}, "paths": paths, "components": {}}


def _operation(kind: Kind) -> Json:
    parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string", "uniqueItems": True}}]
    identity = {"group": "", "version": "v1", "kind": kind.name}
    return {"parameters": parameters, "responses": {}, "x-kubernetes-group-version-kind": identity}
