"""Amazon's signature (SigV4) on requests to a metrics server, for those who install `tidegate[aws]`.

Covers the translation between `requests` and botocore alone: where keys come from (environment, profile, web identity,
instance) and their renewal is botocore's.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any, Final

import requests

from tidegate.core.errors import FixConfig, RetryLater

#: These it logs at debug level with session tokens in clear.
_TALKATIVE: Final = "botocore.auth"


class AwsSignature:
    """Signs each request with the keys of that moment."""

    def __init__(self, region: str, service: str) -> None:
        try:
            session = import_module("botocore.session").get_session()
            self._auth = import_module("botocore.auth")
            self._request = import_module("botocore.awsrequest").AWSRequest
            self._errors = import_module("botocore.exceptions")
        except ImportError:
            raise FixConfig(
                "signing requests for Amazon needs botocore, which is not installed: pip install 'tidegate[aws]'"
            ) from None
        logging.getLogger(_TALKATIVE).setLevel(logging.INFO)
        self._region, self._service = region, service
        self._session: Any = session

    def __call__(self, request: requests.PreparedRequest) -> None:
        try:
            held = self._session.get_credentials()
            # Taken together: a renewal between two reads would sign with half of each.
            keys = held.get_frozen_credentials() if held is not None else None
        except (self._errors.BotoCoreError, self._errors.ClientError) as error:
            raise RetryLater(f"no keys to sign with for Amazon: {type(error).__name__}") from None
        if keys is None:
            raise FixConfig(
                "no keys to sign with for Amazon: give this process a role (web identity, pod identity, instance"
                " profile), AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        # Amazon signs spaces as %20; requests writes them as +, which stands for nothing else in an encoded query.
        assert request.url is not None
        address, mark, query = request.url.partition("?")
        request.url = address + mark + query.replace("+", "%20")
        # No header but the signature's own is signed: proxies may add to the others.
        signed = self._request(method=request.method, url=request.url, data=request.body)
        self._auth.SigV4Auth(keys, self._service, self._region).add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
