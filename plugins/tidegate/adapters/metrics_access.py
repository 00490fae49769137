"""How to get past the door of a metrics server: address, credentials and certificates on one `requests` session.

Told by settings (TIDEGATE_PROMETHEUS_*) or by an Airflow connection. Secrets in files are read at each request, so that
one that is renewed on disk is renewed here. The signature of Amazon's servers is `aws_signature`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self
from urllib.parse import urlsplit

import requests
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from requests.auth import AuthBase, HTTPBasicAuth

from tidegate.adapters.aws_signature import AwsSignature
from tidegate.adapters.configuration import PREFIX, Configuration, read_secret
from tidegate.core.errors import FixConfig, RetryLater

#: What the fields are called that Airflow's form has a place of its own for.
_IN_FORM: Final = {"url": "host", "user": "login"}
Stamp = Callable[[requests.PreparedRequest], object]


class Connection(Protocol):
    """The part of an Airflow connection that is read here."""

    conn_id: str
    host: str | None
    schema: str | None
    port: int | None
    login: str | None
    password: str | None


class MetricsServer(BaseModel):
    """A server that speaks the Prometheus query API, and who we are to it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    #: The Airflow connection that told all this; None where settings did.
    conn_id: str | None = None
    url: str
    user: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    header_files: dict[str, Path] = Field(default_factory=dict)
    sigv4_region: str | None = None
    sigv4_service: str = "aps"
    exact_names: bool = False

    @classmethod
    def of_settings(cls, configuration: Configuration) -> Self:
        """The server that TIDEGATE_PROMETHEUS_* name; secrets lie in files there, never in the environment."""
        named = {name: getattr(configuration, f"prometheus_{name}", None) for name in cls.model_fields}
        told = {name: value for name, value in named.items() if value is not None}
        return cls.model_validate(told | {"conn_id": None})._checked()

    @classmethod
    def of_connection(cls, connection: Connection, extra: Mapping[str, Any]) -> Self:
        """The server of an Airflow connection: `extra` holds further fields, a password without a login is a token."""
        told: dict[str, Any] = {**extra, "conn_id": connection.conn_id, "url": _address(connection)}
        if connection.login:
            told["user"] = connection.login
        if connection.password:
            told["password" if connection.login else "token"] = connection.password
        try:
            return cls.model_validate(told)._checked()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise FixConfig(f"{place} in connection {connection.conn_id}: {first['msg']}") from None

    def called(self, field: str) -> str:
        """What a person knows the field by."""
        if self.conn_id is not None:
            return f"{_IN_FORM.get(field, field)} in connection {self.conn_id}"
        return f"{PREFIX}PROMETHEUS_{field.upper()}"

    def session(self) -> requests.Session:
        """A session that carries what is named here, and nothing of the environment's."""
        made = requests.Session()
        # A .netrc or a proxy of the environment is nobody's decision here.
        made.trust_env = False
        # The query API never redirects; what does would be handed our headers for wherever it points.
        made.max_redirects = 0
        if self.ca_file is not None:
            made.verify = str(self.ca_file)
        if self.cert_file is not None and self.key_file is not None:
            # Read at each new connection, so that renewed ones are taken up.
            made.cert = (str(self.cert_file), str(self.key_file))
        made.headers.update({name: value.get_secret_value() for name, value in self.headers.items()})
        stamps = [_header(name, self._secret("header_files", path)) for name, path in self.header_files.items()]
        made.auth = _Stamped([*stamps, *self._authorization()])
        return made

    def _authorization(self) -> list[Stamp]:
        if self.sigv4_region is not None:
            return [AwsSignature(self.sigv4_region, self.sigv4_service)]
        if self.token is not None or self.token_file is not None:
            token = self._secret("token_file", self.token_file, self.token)
            return [_header("Authorization", lambda: f"Bearer {token()}")]
        if self.user is not None:
            user, password = self.user.encode(), self._secret("password_file", self.password_file, self.password)
            return [lambda request: HTTPBasicAuth(user, password().encode())(request)]
        return []

    def _secret(self, field: str, path: Path | None, told: SecretStr | None = None) -> Callable[[], str]:
        if path is not None:
            return lambda: _read(path, self.called(field))
        assert told is not None
        return told.get_secret_value

    def _checked(self) -> Self:
        try:
            parts = urlsplit(self.url)
            has_place = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            has_place = False
        if not has_place:
            raise FixConfig(f"{self.called('url')}: an address such as https://HOST/PATH is needed")
        if "@" in parts.netloc or parts.query:
            # The address is shown in logs and errors.
            raise FixConfig(f"{self.called('url')}: it must carry no user and no query; name them in their own places")
        if self.user is not None and self.password is None and self.password_file is None:
            raise FixConfig(f"{self.called('user')} needs {self.called('password_file')} beside it")
        if (self.key_file is None) != (self.cert_file is None):
            raise FixConfig(f"{self.called('cert_file')} and {self.called('key_file')} need each other")
        if parts.scheme == "http" and (self.cert_file or self.ca_file):
            raise FixConfig(f"{self.called('url')}: certificates are given, so it must begin with https")
        ways = {"user": self.user, "token_file": self.token or self.token_file, "sigv4_region": self.sigv4_region}
        taken = [self.called(name) for name, value in ways.items() if value is not None]
        if len(taken) > 1:
            raise FixConfig(f"{' and '.join(taken)} are two ways past one door: keep one")
        return self


class _Stamped(AuthBase):
    """Puts on each request what opens the door, as it is at that moment."""

    def __init__(self, stamps: list[Stamp]) -> None:
        self._stamps = stamps

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        for stamp in self._stamps:
            stamp(request)
        return request


def _header(name: str, value: Callable[[], str]) -> Stamp:
    def stamp(request: requests.PreparedRequest) -> None:
        request.headers[name] = value()

    return stamp


def _read(path: Path, setting: str) -> str:
    secret = read_secret(path, setting)
    if not secret:
        raise RetryLater(f"{setting}: {path} is empty; whoever renews it may be at it")
    if not secret.isprintable():
        # The HTTP library would refuse it too, and show it.
        raise FixConfig(f"{setting}: {path} must hold one line of text")
    return secret


def _address(connection: Connection) -> str:
    """As Airflow's own HTTP hook reads a connection: the host may be a whole address, the schema is the protocol."""
    host = connection.host or ""
    address = host if "://" in host else f"{connection.schema or 'http'}://{host}"
    if connection.port is None:
        return address
    scheme, _, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place}:{connection.port}{slash}{path}"
