"""What may be shown of a URL: scheme, host and path; queries (presigned) and user info never."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+")


def redact_url(url: str) -> str:
    """`url` without its user info and with its query and fragment cut to `?...`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return "<unreadable URL>"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}{'?...' if parts.query or parts.fragment else ''}"


def redact(text: str) -> str:
    """`text` with every URL in it redacted: exceptions of HTTP libraries quote whole URLs."""
    return _URL.sub(lambda match: redact_url(match.group()), text)
