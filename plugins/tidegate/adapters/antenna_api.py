"""One question to an Antenna server: the token, the time-out, and what its refusals mean for whoever asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import requests

from tidegate.adapters.configuration import Configuration, read_secret
from tidegate.core.errors import FixConfig, RetryLater

REQUEST_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 30.0


def ask(base_url: str, path: str, configuration: Configuration, query: Mapping[str, str] | None = None) -> Any:
    """The JSON object that the server answers to GET base_url/path."""
    headers = {}
    if configuration.antenna_token_file is not None:
        token = read_secret(configuration.antenna_token_file, "TIDEGATE_ANTENNA_TOKEN_FILE")
        headers["Authorization"] = f"Token {token}"
    url = f"{base_url.rstrip('/')}/{path}"
    try:
        # The token must not follow a redirect to another host.
        answer = requests.get(url, params=query, headers=headers, timeout=REQUEST_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise RetryLater(f"Antenna does not answer: {type(error).__name__}", delay_seconds=RETRY_SECONDS) from None
    if answer.is_redirect:
        raise FixConfig(f"Antenna redirects {path}: set TIDEGATE_ANTENNA_URL to the address that it redirects to")
    if answer.status_code in (401, 403, 404):
        raise FixConfig(
            f"Antenna answers {answer.status_code} to {path}: check the job's number, TIDEGATE_ANTENNA_URL and"
            " TIDEGATE_ANTENNA_TOKEN_FILE"
        )
    try:
        answer.raise_for_status()
        return answer.json()
    except requests.RequestException:
        raise RetryLater(
            f"Antenna answers {answer.status_code} to {path}, and no JSON", delay_seconds=RETRY_SECONDS
        ) from None
