"""The door of a metrics server, opened from a real TLS server's other side: what it is shown, and what it is not."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from tests.adapters.guarded_bed import NAMESPACE, PREFIX, Guarded, guarded, is_signed_by

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.metrics_access import MetricsServer
from tidegate.adapters.prometheus import MemoryReader
from tidegate.core.errors import FixConfig, RetryLater

REGION, KEY, SECRET, SESSION_TOKEN = "eu-west-1", "AKIAEXAMPLE", "aws/secret+key", "aws-session-token"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA, tmp_path: Path) -> Iterator[Guarded]:
    with guarded(authority, tmp_path) as started:
        yield started


def reader(server: Guarded, **settings: Any) -> MemoryReader:
    """As the breaker makes it, from settings TIDEGATE_PROMETHEUS_*."""
    named = {"url": server.url, "ca_file": server.ca_file, **settings}
    configuration = Configuration.model_validate({f"prometheus_{name}": value for name, value in named.items()})
    return reader_of(MetricsServer.of_settings(configuration))


def reader_of(access: MetricsServer) -> MemoryReader:
    return MemoryReader.at(access.url, access.session(), exact_names=access.exact_names)


def sees(reader: MemoryReader) -> bool:
    return bool(reader.read(NAMESPACE, PREFIX, 10))


def refusal(reader: MemoryReader) -> str:
    with pytest.raises(RetryLater) as refused:
        reader.read(NAMESPACE, PREFIX, 10)
    return str(refused.value)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# -- secrets in files --------------------------------------------------------------------------------------------------


def test_a_token_that_is_renewed_on_disk_is_renewed_on_the_session_that_is_open(
    server: Guarded, tmp_path: Path
) -> None:
    token = written(tmp_path / "token", "first\n")
    asked = reader(server, token_file=token)
    for current in ("first", "second", "third"):
        server.admits = lambda shown, current=current: shown.headers["Authorization"] == f"Bearer {current}"  # type: ignore[misc]
        if current != "first":
            assert "401" in refusal(asked)
            written(token, current)
        assert sees(asked)


def test_a_token_file_that_is_empty_for_a_moment_sends_nothing_and_is_read_again(
    server: Guarded, tmp_path: Path
) -> None:
    token = written(tmp_path / "token", "")
    asked = reader(server, token_file=token)
    assert "empty" in refusal(asked)
    assert server.shown == []
    written(token, "there")
    assert sees(asked)


def test_a_password_of_any_alphabet_is_read_anew_for_each_query(server: Guarded, tmp_path: Path) -> None:
    password = written(tmp_path / "password", "Käse→1")
    asked = reader(server, user="tidegate", password_file=password)
    server.admits = lambda shown: shown.headers["Authorization"] == basic("tidegate", "Käse→1")
    assert sees(asked)
    server.admits = lambda shown: shown.headers["Authorization"] == basic("tidegate", "Käse→2")
    assert "401" in refusal(asked)
    written(password, "Käse→2")
    assert sees(asked)


def test_further_headers_go_along_plain_and_from_files(server: Guarded, tmp_path: Path) -> None:
    key = written(tmp_path / "key", "opaque\n")
    server.admits = lambda shown: (shown.headers["X-Scope-OrgID"], shown.headers["X-Api-Key"]) == ("moths", "opaque")
    assert sees(reader(server, headers={"X-Scope-OrgID": "moths"}, header_files={"X-Api-Key": key}))
    assert "Authorization" not in server.newest.headers


# -- certificates ------------------------------------------------------------------------------------------------------


def test_a_server_of_an_unknown_authority_is_shown_nothing(server: Guarded, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    token = written(tmp_path / "token", "secret")
    for ca_file in (None, stranger):
        assert "SSLError" in refusal(reader(server, ca_file=ca_file, token_file=token))
    assert server.shown == []


def test_a_server_that_asks_for_a_certificate_gets_ours_and_the_renewed_one(
    authority: trustme.CA, tmp_path: Path
) -> None:
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"

    def issue() -> None:
        issued = authority.issue_cert("tidegate@example.org")
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)

    with guarded(authority, tmp_path, asks_for_certificate=True) as server:
        refusal(reader(server))
        assert server.shown == []
        issue()
        asked = reader(server, cert_file=cert, key_file=key)
        assert sees(asked)
        first = server.newest.serial
        issue()
        assert sees(asked)
        assert None not in (first, server.newest.serial)
        assert server.newest.serial != first


# -- Amazon ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("service", ["aps", "execute-api"])
def test_a_signed_request_is_one_that_amazon_would_take(server: Guarded, service: str) -> None:
    server.admits = lambda shown: is_signed_by(shown, SECRET, REGION, service)
    server.url += "/workspaces/ws-1"
    assert sees(reader(server, sigv4_region=REGION, sigv4_service=service))
    assert server.newest.path.startswith("/workspaces/ws-1/api/v1/query?")
    assert server.newest.headers["X-Amz-Security-Token"] == SESSION_TOKEN
    # The check itself can fail: another secret, another region.
    assert not is_signed_by(server.newest, "other", REGION, service)
    assert not is_signed_by(server.newest, SECRET, "us-east-1", service)


@pytest.mark.usefixtures("keys")
def test_a_space_in_a_signed_query_is_written_as_amazon_reads_it(server: Guarded) -> None:
    access = MetricsServer(url=server.url, ca_file=server.ca_file, sigv4_region=REGION)
    answer = access.session().get(f"{server.url}/api/v1/query", params={"query": "a + b", "sum": "1~2/3"})
    assert answer.status_code == 200
    assert server.newest.query == "a + b"
    assert is_signed_by(server.newest, SECRET, REGION, "aps")


@pytest.mark.usefixtures("keys")
def test_a_process_without_keys_is_told_which_it_could_have(server: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(FixConfig, match="AWS_PROFILE"):
        sees(reader(server, sigv4_region=REGION))
    assert server.shown == []


# -- what secrets must not do ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("way", ["token", "password", "header", "sigv4"])
def test_no_secret_reaches_a_log_an_error_or_a_redirects_target(
    server: Guarded, authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = written(tmp_path / "secret", "open-sesame")
    settings: dict[str, Any] = {
        "token": {"token_file": secret},
        "password": {"user": "tidegate", "password_file": secret},
        "header": {"header_files": {"X-Api-Key": secret}},
        "sigv4": {"sigv4_region": REGION},
    }[way]
    server.admits = lambda _: False
    told = refusal(reader(server, **settings))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with guarded(authority, elsewhere) as other:
        server.redirects_to = other.url
        told += refusal(reader(server, **settings))
        assert other.shown == []
    told += repr(MetricsServer(url=server.url, token="open-sesame", headers={"X": "open-sesame"}))  # type: ignore[arg-type]
    for hidden in ("open-sesame", basic("tidegate", "open-sesame").split()[1], SECRET, SESSION_TOKEN):
        assert hidden not in told + caplog.text
    assert "redirects" in told


def test_a_secret_of_two_lines_is_refused_unseen(server: Guarded, tmp_path: Path) -> None:
    token = written(tmp_path / "token", "open\nsesame")
    with pytest.raises(FixConfig, match="one line") as refused:
        sees(reader(server, token_file=token))
    assert "sesame" not in str(refused.value)
    assert server.shown == []


# -- servers that take no pattern for a name ---------------------------------------------------------------------------


def test_a_server_that_takes_exact_names_alone_is_asked_for_one_series_at_a_time(server: Guarded) -> None:
    server.admits = lambda shown: "__name__=~" not in shown.query
    assert "401" in refusal(reader(server))
    assert sees(reader(server, exact_names=True))


# -- what a person wrote -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"user": "tidegate"}, "TIDEGATE_PROMETHEUS_PASSWORD_FILE"),
        ({"cert_file": "/c"}, "TIDEGATE_PROMETHEUS_KEY_FILE"),
        ({"url": "http://host", "ca_file": "/ca"}, "TIDEGATE_PROMETHEUS_URL.*https"),
        ({"url": "https://a:b@host"}, "no user"),
        ({"url": "https://host:port"}, "https://HOST/PATH"),
        ({"url": "host:9090"}, "https://HOST/PATH"),
        ({"token_file": "/t", "sigv4_region": REGION}, "TOKEN_FILE and TIDEGATE_PROMETHEUS_SIGV4_REGION.*keep one"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(settings: dict[str, Any], message: str) -> None:
    given = {f"prometheus_{name}": value for name, value in {"url": "https://host", **settings}.items()}
    with pytest.raises(FixConfig, match=message):
        MetricsServer.of_settings(Configuration.model_validate(given))


def test_a_token_file_that_is_not_there_is_named(server: Guarded, tmp_path: Path) -> None:
    with pytest.raises(FixConfig, match="TIDEGATE_PROMETHEUS_TOKEN_FILE"):
        sees(reader(server, token_file=tmp_path / "none"))


def connection(**fields: Any) -> Any:
    blank = {"conn_id": "metrics", "host": None, "schema": None, "port": None, "login": None, "password": None}
    return SimpleNamespace(**{**blank, **fields})


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "prometheus", "port": 9090}, "http://prometheus:9090"),
        ({"host": "prometheus", "schema": "https"}, "https://prometheus"),
        ({"host": "https://mimir/prometheus", "port": 8443}, "https://mimir:8443/prometheus"),
        ({"host": "https://aps.example/workspaces/ws-1"}, "https://aps.example/workspaces/ws-1"),
    ],
)
def test_a_connection_names_its_server_as_airflows_http_hook_reads_it(fields: dict[str, Any], url: str) -> None:
    assert MetricsServer.of_connection(connection(**fields), {}).url == url


def test_a_connections_password_is_a_token_unless_a_login_stands_beside_it(server: Guarded) -> None:
    extra = {"ca_file": str(server.ca_file), "headers": {"X-Scope-OrgID": "moths"}}
    server.admits = lambda shown: shown.headers["Authorization"] == "Bearer opaque"
    assert sees(reader_of(MetricsServer.of_connection(connection(host=server.url, password="opaque"), extra)))
    server.admits = lambda shown: shown.headers["Authorization"] == basic("tidegate", "opaque")
    named = connection(host=server.url, login="tidegate", password="opaque")
    assert sees(reader_of(MetricsServer.of_connection(named, extra)))
    assert server.newest.headers["X-Scope-OrgID"] == "moths"


def test_a_word_that_a_connection_does_not_know_is_named_and_its_secrets_are_not() -> None:
    with pytest.raises(FixConfig, match="tokenfile in connection metrics") as refused:
        MetricsServer.of_connection(connection(host="https://host", password="opaque"), {"tokenfile": "opaque"})
    assert "opaque" not in str(refused.value)
