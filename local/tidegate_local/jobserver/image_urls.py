"""Image URLs that look presigned and are: a path for the image, and a query without which it is not served.

The query imitates an S3 presigned GET, so that logs can be searched for leaks of it. It is minted when the image's task
was queued, not when the task is handed out, and names no host: the host is the one under which the server was asked, or
that of the image server.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from urllib.parse import urlencode

from tidegate_local.jobserver.database import Database
from tidegate_local.jobserver.settings import URL_VALID_SECONDS

IMAGE_PATH = "/demo-bucket/captures"
_CREDENTIAL = "DEMOACCESSKEY/20260101/demo/s3/aws4_request"
_DATE_FORMAT = "%Y%m%dT%H%M%SZ"


class ImageUrls:
    """Signs and checks image URLs with a secret of this server's workdir."""

    def __init__(self, db: Database) -> None:
        db.execute("INSERT OR IGNORE INTO secrets VALUES ('image-urls', ?)", secrets.token_hex(32))
        self._key = str(db.scalar("SELECT value FROM secrets WHERE name = 'image-urls'")).encode()
        #: `host:port` of the image server; None where images come from the API's own address.
        self.image_host: str | None = None

    def signed(self, image_id: int, minted_at: float, host: str) -> str:
        """The image's URL as minted at that time; `host` serves where there is no image server."""
        path = f"{IMAGE_PATH}/{image_id}.jpg"
        date = datetime.datetime.fromtimestamp(minted_at, datetime.UTC).strftime(_DATE_FORMAT)
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": _CREDENTIAL,
            "X-Amz-Date": date,
            "X-Amz-Expires": str(int(URL_VALID_SECONDS)),
            "X-Amz-SignedHeaders": "host",
            "X-Amz-Signature": self._signature(path, date),
        }
        return f"http://{self.image_host or host}{path}?{urlencode(query)}"

    def admits(self, path: str, query: Mapping[str, str]) -> bool:
        """Whether the query was minted for this path and is still valid."""
        date = query.get("X-Amz-Date", "")
        if not hmac.compare_digest(query.get("X-Amz-Signature", "").encode(), self._signature(path, date).encode()):
            return False
        minted = datetime.datetime.strptime(date, _DATE_FORMAT).replace(tzinfo=datetime.UTC)
        return minted.timestamp() + URL_VALID_SECONDS > time.time()

    def _signature(self, path: str, date: str) -> str:
        return hmac.new(
            self._key, f"GET\n{path}\n{date}\n{int(URL_VALID_SECONDS)}".encode(), hashlib.sha256
        ).hexdigest()
