"""Which URIs a manifest may name: http and https under the address rules, anything else only below listed roots.

A policy over texts; what a path really leads to (links) is judged where it is opened. Chained URLs of fsspec (`a::b`)
are refused whole: each link would be a scheme of its own.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tidegate.core.errors import FixConfig
from tidegate_worker.redact import redact_url

HTTP: Final = frozenset({"http", "https"})
#: Without a server of its own choosing: what an administrator can list as a root.
_SCHEMES: Final = frozenset({"file", "s3", "gs", "memory"})


@dataclass(frozen=True, slots=True)
class UriRules:
    """Roots such as `file:///data/` or `s3://bucket/prefix/`; each ends with a slash."""

    roots: tuple[str, ...] = ()

    @classmethod
    def parse(cls, roots: Iterable[str]) -> UriRules:
        parsed = []
        for root in roots:
            uri = absolute(root.strip())
            parts = urlsplit(uri)
            if parts.scheme not in _SCHEMES or refusal_of_form(uri) is not None:
                raise FixConfig(f"{redact_url(uri)!r} is no root for images: use one of {sorted(_SCHEMES)}")
            parsed.append(uri.rstrip("/") + "/")
        return cls(tuple(parsed))

    def refusal(self, uri: str) -> str | None:
        """Why `uri` may not be read; None where it may."""
        told = refusal_of_form(uri)
        if told is not None:
            return told
        if urlsplit(uri).scheme.lower() in HTTP or any(uri.startswith(root) for root in self.roots):
            return None
        listed = ", ".join(self.roots) or "none"
        return f"it lies under none of the roots that are listed for images ({listed})"


def refusal_of_form(uri: str) -> str | None:
    """What is wrong with the text itself."""
    if "::" in uri.partition("?")[0] and not uri.lower().startswith(("http://", "https://")):
        return "a chained URL"
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "it cannot be read"
    if not parts.scheme:
        return "it has no scheme"
    if parts.scheme.lower() in HTTP:
        return None
    if ".." in parts.path.split("/") or "\\" in uri or not uri.isprintable():
        return "its path climbs or holds characters that no path needs"
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        return "it names a file of another host"
    return None


def absolute(uri: str, base: str = "") -> str:
    """`uri`, or where it is a bare path, the place beside the manifest `base` that it means."""
    if not uri or "://" in uri.partition("?")[0]:
        return uri
    if uri.startswith("/"):
        # Beside a manifest on a disk, a bare path is a file; in a bucket it starts at the bucket.
        if "://" not in base or base.startswith("file:"):
            return f"file://{posixpath.normpath(uri)}"
        scheme, _, rest = base.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}{posixpath.normpath(uri)}"
    if "://" not in base:
        return uri
    scheme, _, rest = base.partition("?")[0].partition("://")
    host, _, path = rest.partition("/")
    joined = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), uri))
    return f"{scheme}://{host}{joined}"
