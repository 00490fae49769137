"""The Alertmanager configuration of monitoring/ as this machine can run it: with those channels whose secret is here.

Debian's Alertmanager is older than `url_file` of webhooks, so that address is written out, into a file that only this
user reads. Routes, inhibitions, grouping and templates are those of every other deployment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from tidegate_local.stack.layout import REPOSITORY

SHIPPED: Final = REPOSITORY / "monitoring" / "alertmanager"
#: Where the shipped files say that secrets and templates are.
_MOUNT: Final = Path("/etc/alertmanager")


def alertmanager(secrets: Path, shipped: Path = SHIPPED) -> dict[str, Any]:
    """The configuration with the channels whose secrets lie in the folder `secrets` under their shipped names."""
    config: dict[str, Any] = yaml.safe_load((shipped / "alertmanager.yaml").read_text())
    config["templates"] = [str(shipped / Path(each).relative_to(_MOUNT)) for each in config["templates"]]
    config["receivers"] = [_receiver(each, secrets) for each in config["receivers"]]
    return config


def _receiver(receiver: dict[str, Any], secrets: Path) -> dict[str, Any]:
    kept: dict[str, Any] = {"name": receiver["name"]}
    for kind, channels in receiver.items():
        if kind != "name" and (here := [made for each in channels if (made := _channel(each, secrets)) is not None]):
            kept[kind] = here
    return kept


def _channel(channel: dict[str, Any], secrets: Path) -> dict[str, Any] | None:
    """None where its secret is not here."""
    made = dict(channel)
    for field in [name for name in channel if name.endswith("_file")]:
        secret = secrets / Path(channel[field]).relative_to(_MOUNT / "secrets")
        if not secret.is_file():
            return None
        made[field] = str(secret)
        if field == "url_file":
            del made[field]
            made["url"] = secret.read_text().strip()
    return made
