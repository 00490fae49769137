"""Where the stack's pods run: on the pod API that it starts itself, or on a cluster that a kubeconfig names.

Looks at a foreign cluster once, before anything starts; what the stack makes there is in `provisioning`.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

from tidegate.core.errors import FixConfig
from tidegate_local.stack.layout import LOOPBACK, Layout

WORKER_IMAGE: Final = "tidegate-worker"
ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - only where the given address is not this machine's own
_CALL_SECONDS: Final = 10.0
_DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"


@dataclass(frozen=True)
class Cluster:
    """A cluster, the stack's namespace in it, and the address under which its pods reach this machine."""

    kubeconfig: Path
    namespace: str
    image: str
    #: An IP address: pods need not share this machine's names.
    host_address: str
    #: Whether its API is a process of the stack, which then also knows the pods' memory and their limits.
    is_own: bool
    #: Whether it takes `pods/resize`.
    resizes: bool
    #: Whether a claim gets a volume without a person.
    has_volumes: bool
    #: Whether accounts with roles of their own can be made.
    has_roles: bool
    #: A ledger of manifest jobs that pods and this machine reach under the same URL; the own cluster's is a file.
    ledger_url: str | None = None

    @classmethod
    def own(cls, layout: Layout) -> Self:
        return cls(
            kubeconfig=layout.podapi / "kubeconfig",
            namespace="default",
            image=f"{WORKER_IMAGE}:local",
            host_address=LOOPBACK,
            is_own=True,
            resizes=True,
            has_volumes=True,
            has_roles=False,
        )

    @classmethod
    def foreign(cls, kubeconfig: Path, image: str, host_address: str | None, ledger_url: str | None = None) -> Self:
        """The cluster as it is found; FixConfig says what is missing. Its namespace is new and not made yet."""
        kubeconfig = kubeconfig.expanduser().resolve()
        try:
            api = kubernetes.config.new_client_from_config(str(kubeconfig))
        except (kubernetes.config.ConfigException, OSError) as error:
            raise FixConfig(f"KUBECONFIG: {kubeconfig} names no cluster ({error})") from None
        address = _checked(host_address, api.configuration.host)
        found = cls(
            kubeconfig=kubeconfig,
            namespace=f"tidegate-e2e-{secrets.token_hex(3)}",
            image=image,
            host_address=address,
            is_own=False,
            resizes="pods/resize" in _resources(kubernetes.client.CoreV1Api(api).get_api_resources),
            has_volumes=_has_default_class(api),
            has_roles="roles" in _resources(kubernetes.client.RbacAuthorizationV1Api(api).get_api_resources),
            ledger_url=ledger_url,
        )
        api.close()
        return found

    @property
    def binds(self) -> str:
        """What a server binds that pods must reach: loopback unless the cluster is elsewhere."""
        return self.host_address if _is_here(self.host_address) else ANY_ADDRESS

    def jobs_url_here(self, port: int) -> str:
        """The job server as this machine reaches it."""
        return f"http://{_authority(LOOPBACK if self.binds == ANY_ADDRESS else self.host_address, port)}"

    def jobs_url_of_pods(self, port: int) -> str:
        return f"http://{_authority(self.host_address, port)}"

    @cached_property
    def core(self) -> Any:
        """The API as the kubeconfig's user."""
        return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(self.kubeconfig)))


def _authority(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _checked(host_address: str | None, server: str) -> str:
    try:
        return str(ip_address(host_address or ""))
    except ValueError:
        told = f"not {host_address!r}" if host_address else "and none is given"
        guess = _address_towards(server)
        example = f"; towards this cluster's API this machine is {guess}" if guess else ""
        raise FixConfig(
            f"HOST_ADDRESS must be an IP address of this machine that pods reach, {told}{example}"
        ) from None


def _address_towards(server: str) -> str | None:
    """This machine's address on the way to the API server; nothing is sent."""
    parts = urlsplit(server)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((parts.hostname or "", parts.port or 443))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _is_here(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _resources(listed: Callable[..., Any]) -> set[str]:
    """Names of the resources of one group; empty where the API does not serve it."""
    answer = _answer(listed)
    return {each.name for each in answer.resources} if answer else set()


def _has_default_class(api: Any) -> bool:
    classes = _answer(kubernetes.client.StorageV1Api(api).list_storage_class)
    found = classes.items if classes else ()
    return any((each.metadata.annotations or {}).get(_DEFAULT_CLASS) == "true" for each in found)


def _answer(ask: Callable[..., Any]) -> Any | None:
    """What the API says, or None where it has no such thing or does not show it to this user."""
    try:
        return ask(_request_timeout=_CALL_SECONDS)
    except ApiException as error:
        if error.status in (403, 404):
            return None
        raise FixConfig(f"the cluster answers {error.status} {error.reason}: {error.body}") from None
    except urllib3.exceptions.HTTPError as error:
        raise FixConfig(f"the cluster of this kubeconfig does not answer: {type(error).__name__}") from None
