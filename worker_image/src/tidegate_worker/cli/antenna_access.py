"""How this worker reaches Antenna, from its settings; light, for `doctor` asks too."""

from __future__ import annotations

import socket
from dataclasses import replace

from tidegate.core.errors import FixConfig
from tidegate_worker.jobs.antenna.api import AntennaAccess, AntennaApi
from tidegate_worker.settings import Settings


def antenna_access(settings: Settings, url: str | None = None) -> AntennaAccess:
    """`url` is an assignment's, else the settings'."""
    antenna = settings.antenna
    token = antenna.token
    if token is None:
        raise FixConfig(
            "no Antenna token: set TIDEGATE_ANTENNA_TOKEN, TIDEGATE_ANTENNA_TOKEN_FILE or AMI_ANTENNA_API_AUTH_TOKEN"
        )
    return AntennaAccess(
        base_url=url or antenna.antenna_url,
        token=token,
        ca_certs=str(antenna.antenna_ca_certs) if antenna.antenna_ca_certs else None,
        proxy_url=antenna.antenna_proxy.get_secret_value() if antenna.antenna_proxy else None,
    )


def antenna_api(settings: Settings, answer_seconds: float | None = None) -> AntennaApi:
    access = antenna_access(settings)
    return AntennaApi(access if answer_seconds is None else replace(access, answer_seconds=answer_seconds))


def service_name(settings: Settings) -> str:
    return f"{settings.antenna.service_name} ({socket.gethostname()})"
