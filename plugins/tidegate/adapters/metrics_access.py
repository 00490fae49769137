"""How to get past the door of a metrics server: credentials and certificates on one `requests` session.

Secrets are read from files at each request that needs them, so that a token that is renewed on disk is renewed here.
"""

from __future__ import annotations

from pathlib import Path

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from tidegate.adapters.configuration import Configuration, read_secret
from tidegate.core.errors import FixConfig


class _TokenFile(AuthBase):
    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {read_secret(self._path, 'TIDEGATE_PROMETHEUS_TOKEN_FILE')}"
        return request


def session(configuration: Configuration) -> requests.Session:
    """A session that carries what the configuration names."""
    made = requests.Session()
    # A .netrc or a proxy of the environment is nobody's decision here.
    made.trust_env = False
    if configuration.prometheus_ca_file is not None:
        made.verify = str(configuration.prometheus_ca_file)
    if configuration.prometheus_token_file is not None:
        made.auth = _TokenFile(configuration.prometheus_token_file)
    elif configuration.prometheus_user is not None:
        if configuration.prometheus_password_file is None:
            raise FixConfig("TIDEGATE_PROMETHEUS_USER needs TIDEGATE_PROMETHEUS_PASSWORD_FILE beside it")
        password = read_secret(configuration.prometheus_password_file, "TIDEGATE_PROMETHEUS_PASSWORD_FILE")
        made.auth = HTTPBasicAuth(configuration.prometheus_user, password)
    return made
