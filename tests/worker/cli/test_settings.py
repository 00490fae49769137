from __future__ import annotations

import re
from pathlib import Path

import pytest

from tidegate.core.errors import FixConfig
from tidegate_worker.environment import names_of
from tidegate_worker.settings import GROUPS, WITHOUT_EFFECT, Settings, known_names

ROOT = Path(__file__).parents[3]
#: Every variable of the peer that an existing .env may hold, as its documentation and proposals list them.
PEER = {
    "AMI_DATABASE_URL",
    "AMI_USER_DATA_PATH",
    "AMI_IMAGE_BASE_PATH",
    "AMI_LOCALIZATION_MODEL",
    "AMI_BINARY_CLASSIFICATION_MODEL",
    "AMI_SPECIES_CLASSIFICATION_MODEL",
    "AMI_FEATURE_EXTRACTOR",
    "AMI_CLASSIFICATION_THRESHOLD",
    "AMI_LOCALIZATION_BATCH_SIZE",
    "AMI_CLASSIFICATION_BATCH_SIZE",
    "AMI_NUM_WORKERS",
    "AMI_ANTENNA_API_BASE_URL",
    "AMI_ANTENNA_API_AUTH_TOKEN",
    "AMI_ANTENNA_SERVICE_NAME",
    "AMI_ANTENNA_API_BATCH_SIZE",
    "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY",
    "AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR",
    "AMI_ANTENNA_API_DATALOADER_DOWNLOAD_THREADS",
    "AMI_ANTENNA_MAX_PENDING_POSTS",
    "AMI_ANTENNA_IDLE_SLEEP_SECONDS",
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in known_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def read(text: str) -> Settings:
    Path(".env").write_text(text)
    return Settings.read()


def test_every_variable_of_the_peer_has_a_meaning_here() -> None:
    assert known_names() >= PEER


def test_the_env_of_an_existing_worker_is_understood_without_a_change() -> None:
    settings = read(
        "AMI_ANTENNA_API_BASE_URL=https://antenna.example/api/v2\n"
        "AMI_ANTENNA_API_AUTH_TOKEN=feed\n"
        'AMI_ANTENNA_SERVICE_NAME="Trap 7"\n'
        "AMI_ANTENNA_API_BATCH_SIZE=4\n"
        "AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR=3\n"
        "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY=false\n"
        "AMI_ANTENNA_API_DATALOADER_DOWNLOAD_THREADS=6\n"
        "AMI_ANTENNA_MAX_PENDING_POSTS=5\n"
        "AMI_ANTENNA_IDLE_SLEEP_SECONDS=7\n"
        "AMI_LOCALIZATION_BATCH_SIZE=2\n"
        "AMI_CLASSIFICATION_BATCH_SIZE=20\n"
        "AMI_NUM_WORKERS=1\n"
        "AMI_USER_DATA_PATH=/srv/ami\n"
    )
    assert settings.antenna.antenna_url == "https://antenna.example/api/v2"
    assert settings.antenna.token == "feed"
    assert settings.antenna.service_name == "Trap 7"
    assert (settings.antenna.posts_waiting, settings.antenna.poll_seconds) == (5, 7)
    ingest = settings.ingest
    assert (ingest.lease_images, ingest.staged, ingest.pin_memory) == (4, 12, False)
    assert (ingest.downloads_in_flight, ingest.micro_batch_images, ingest.decode_threads) == (6, 2, 1)
    assert settings.models.crop_batch_images == 20
    assert settings.models.cache_dir == Path("/srv/ami/tidegate")
    assert settings.warnings == ()


def test_our_names_win_over_the_peer_s_wherever_each_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMI_ANTENNA_API_BATCH_SIZE", "4")
    assert read("TIDEGATE_LEASE_IMAGES=9\n").ingest.lease_images == 9


def test_the_process_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_LEASE_IMAGES", "5")
    assert read("TIDEGATE_LEASE_IMAGES=9\n").ingest.lease_images == 5


def test_an_empty_value_counts_as_none() -> None:
    settings = read("AMI_NUM_WORKERS=\nAMI_ANTENNA_API_AUTH_TOKEN=\n")
    assert settings.ingest.decode_threads is None
    assert settings.antenna.token is None


def test_nothing_set_leaves_ingest_to_the_plan() -> None:
    ingest = read("").ingest
    chosen = {name: value for name, value in ingest.model_dump().items() if value is not None}
    assert chosen == {"grace_seconds": 120.0}
    assert ingest.staged is None


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("TIDEGATE_ANTENNA_TOKEN=ours\nTIDEGATE_ANTENNA_TOKEN_FILE=token\nAMI_ANTENNA_API_AUTH_TOKEN=theirs\n", "ours"),
        ("TIDEGATE_ANTENNA_TOKEN_FILE=token\nAMI_ANTENNA_API_AUTH_TOKEN=theirs\n", "filed"),
        ("AMI_ANTENNA_API_AUTH_TOKEN=theirs\n", "theirs"),
    ],
)
def test_a_token_comes_from_our_variable_then_our_file_then_the_peer_s(text: str, token: str) -> None:
    Path("token").write_text("filed\n")
    assert read(text).antenna.token == token


def test_a_secret_file_that_is_missing_is_named_with_its_variable() -> None:
    with pytest.raises(FixConfig, match="TIDEGATE_ANTENNA_TOKEN_FILE: nowhere"):
        _ = read("TIDEGATE_ANTENNA_TOKEN_FILE=nowhere\n").antenna.token


def test_a_secret_is_not_shown() -> None:
    settings = read("TIDEGATE_ANTENNA_TOKEN=feedbeef\nTIDEGATE_LEDGER_URL=postgresql://u:feedbeef@h/d\n")
    assert "feedbeef" not in repr(settings)
    assert settings.manifest.ledger == "postgresql://u:feedbeef@h/d"


def test_a_value_of_the_wrong_kind_is_told_by_the_name_that_was_set() -> None:
    with pytest.raises(FixConfig, match=r"AMI_ANTENNA_API_BATCH_SIZE: .*integer"):
        read("AMI_ANTENNA_API_BATCH_SIZE=many\n")


@pytest.mark.parametrize("text", ["TIDEGATE_LEASE_IMAGES=0", "TIDEGATE_FAILURE_RATIO=2", "TIDEGATE_DECODE=rough"])
def test_a_value_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(FixConfig, match=text.split("=")[0]):
        read(text)


def test_sizes_take_units_and_lists_take_commas() -> None:
    settings = read("TIDEGATE_STAGING_BYTES=4GiB\nTIDEGATE_ALLOWED_NETWORKS=10.0.0.0/8, 127.0.0.1\n")
    assert settings.ingest.staging_bytes == 4 * 1024**3
    assert settings.fetch.allowed_networks == ("10.0.0.0/8", "127.0.0.1")


def test_a_misspelt_name_is_warned_about_with_the_one_that_was_meant() -> None:
    assert read("TIDEGATE_LEASE_IMAGE=9\n").warnings == (
        "TIDEGATE_LEASE_IMAGE is not a setting; did you mean TIDEGATE_LEASE_IMAGES?",
    )


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_a_name_without_effect_says_why_when_it_is_set(name: str) -> None:
    (warning,) = read(f"{name}=x\n").warnings
    assert warning.startswith(f"{name} has no effect: ")


def test_names_of_others_are_left_alone() -> None:
    assert read("PATH_TO_SOMETHING=1\nAMI_UNHEARD_OF=2\n").warnings == ()


def test_no_variable_sets_two_fields() -> None:
    names = [name for group in GROUPS for field in group.model_fields for name in names_of(group, field)]
    assert len(names) == len(set(names))


def test_every_setting_says_what_it_controls() -> None:
    silent = [field for group in GROUPS for field, info in group.model_fields.items() if not info.description]
    assert silent == []


def test_each_name_in_the_example_is_known_and_its_value_is_taken() -> None:
    example = (ROOT / ".env.example").read_text()
    names = re.findall(r"^#?([A-Z]+_[A-Z_]+)=", example, re.MULTILINE)
    # The last part is docker compose's; tests/compose holds it to docker-compose.yaml.
    assert {name for name in names if not name.startswith(("STACK_", "COMPOSE_"))} <= known_names()
    uncommented = re.sub(r"^#([A-Z]+_[A-Z_]+=)", r"\1", example, flags=re.MULTILINE)
    assert read(uncommented).warnings == ()


def test_the_example_names_every_setting_but_those_of_pods_and_demos() -> None:
    example = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"^#?([A-Z]+_[A-Z_]+)=", example, re.MULTILINE))
    set_by_pods = {"TIDEGATE_PLAN", "TIDEGATE_NODE_NAME", "TIDEGATE_POD_NAME", "TIDEGATE_TERMINATION_LOG"}
    missing = known_names() - named - set_by_pods - set(WITHOUT_EFFECT)
    assert {name for name in missing if not name.startswith("TIDEGATE_DEMO_")} <= {"TIDEGATE_LEDGER_URL"}
