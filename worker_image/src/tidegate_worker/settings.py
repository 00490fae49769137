"""Everything that the environment may say to a worker; read through `environment`, and by no other module.

Values come, first to last: from an assignment (`TIDEGATE_PLAN`, ingest only), from `TIDEGATE_*`, from the `AMI_*`
variables of ami-data-companion, from the defaults here; within each, the process environment before a `.env` file in
the working directory. docs/settings.md is the table of all names, made from this module.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import ByteSize, Field, SecretStr
from pydantic_settings import NoDecode

from tidegate.core.contract import METRICS_PORT, MIB
from tidegate_worker.environment import PREFIX, Group, names_of, peer, read, secret, temporary_folder, texts

ENV_FILE: Final = ".env"
#: In an image the catalogue is beside the package, in a checkout beside `src`.
_SHIPPED_CATALOGUE: Final = (Path(__file__).parent / "pipelines", Path(__file__).parents[2] / "pipelines")
_TERMINATION_LOG: Final = Path("/dev/termination-log")
_RESULTS: Final = Path("/results")


Words = Annotated[tuple[str, ...], NoDecode]
WordSet = Annotated[frozenset[str], NoDecode]
Count = Annotated[int, Field(ge=1)]


class ModelSettings(Group):
    """Models."""

    catalogue: str = Field("", description="More catalogue files or folders, separated by `:`; later ones win.")
    weights_dir: Path | None = Field(
        None,
        description="Cache of weights and category maps; may be shared by all pods. Default: `tidegate` under"
        " `AMI_USER_DATA_PATH`, else `~/.cache/tidegate`.",
    )
    weights_base: str | None = Field(None, description="A mirror in place of the catalogue's `base`.")
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`; auto takes CUDA where it is.")
    crop_batch_bytes: ByteSize = Field(
        ByteSize(4 * MIB), description="Crops that go through a classifier at once, in bytes; 21 of 128 x 128."
    )
    crop_batch_images: Count | None = Field(
        None,
        validation_alias=peer("CROP_BATCH_IMAGES", "CLASSIFICATION_BATCH_SIZE"),
        description="A further bound on crops at once, by number.",
    )
    user_data_path: Path | None = Field(
        None,
        validation_alias="AMI_USER_DATA_PATH",
        description="Holds the cache where `TIDEGATE_WEIGHTS_DIR` is unset.",
    )
    pipelines: Words = Field((), description="Pipelines to serve when polling for jobs and to register; default: all.")

    @property
    def catalogue_places(self) -> list[Path]:
        """The shipped catalogue, then the administrator's."""
        shipped = [place for place in _SHIPPED_CATALOGUE if place.is_dir()][:1]
        return shipped + [Path(place) for place in self.catalogue.split(os.pathsep) if place]

    @property
    def cache_dir(self) -> Path:
        if self.weights_dir is not None:
            return self.weights_dir
        if self.user_data_path is not None:
            return self.user_data_path / "tidegate"
        return Path.home() / ".cache" / "tidegate"


class IngestChoices(Group):
    """Ingest. What is set here stands; what is not is planned from a probe, or is the plan's. All are bounds."""

    budget_bytes: ByteSize | None = Field(None, description="Byte credits admitted to decoding at once.")
    micro_batch_images: Count | None = Field(
        None,
        validation_alias=peer("MICRO_BATCH_IMAGES", "LOCALIZATION_BATCH_SIZE"),
        description="Images per forward pass of the detector; batches form by bytes first.",
    )
    downloads_in_flight: Count | None = Field(
        None,
        validation_alias=peer("DOWNLOADS_IN_FLIGHT", "ANTENNA_API_DATALOADER_DOWNLOAD_THREADS"),
        description="Concurrent downloads of this process; each streams to disk and holds 256 KiB.",
    )
    staged_images: Count | None = Field(None, description="Images kept on disk ahead of decoding.")
    staging_bytes: ByteSize | None = Field(None, description="Disk that staged files may take.")
    decode_threads: Count | None = Field(
        None,
        validation_alias=peer("DECODE_THREADS", "NUM_WORKERS"),
        description="Decoding threads of this process. `AMI_NUM_WORKERS` meant processes on GPUs and loaders at once:"
        " here a process has one GPU, more GPUs are more pods, and this is the other half.",
    )
    lease_images: Count | None = Field(
        None,
        validation_alias=peer("LEASE_IMAGES", "ANTENNA_API_BATCH_SIZE"),
        description="Tasks held at once; fewer where the measured rate could not answer them within a third of the"
        " lease. Has no part in memory any more: leased images wait on disk.",
    )
    pin_memory: bool | None = Field(
        None,
        validation_alias=peer("PIN_MEMORY", "ANTENNA_API_DATALOADER_PIN_MEMORY"),
        description="One page-locked copy of the batch that goes to a CUDA device; nothing on a CPU.",
    )
    one_at_a_time: bool | None = Field(None, description="One image in memory at any moment.")
    prefetch_factor: Count | None = Field(
        None,
        validation_alias="AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR",
        description="Times `AMI_ANTENNA_API_BATCH_SIZE` (24 if unset): images staged on disk, where"
        " `TIDEGATE_STAGED_IMAGES` is unset. Costs disk, not memory.",
    )
    cap_bytes: ByteSize | None = Field(
        None, description="Memory that a plan made by `run` and `tune` may use; default: the cgroup's limit."
    )
    grace_seconds: Annotated[float, Field(ge=30)] = Field(
        120.0, description="Time between SIGTERM and the kill, for runs without an assignment."
    )

    @property
    def staged(self) -> int | None:
        if self.staged_images is None and self.prefetch_factor is not None:
            return self.prefetch_factor * (self.lease_images or 24)
        return self.staged_images


class StorageSettings(Group):
    """Places on disk."""

    staging_dir: Path = Field(
        temporary_folder() / "tidegate",
        description="Staged images, on a disk, never on a memory-backed volume. Private to one worker.",
    )
    state_dir: Path | None = Field(
        None, description="Answers that wait or may be asked for again. Default: `state` under the staging folder."
    )
    termination_log: Path | None = Field(
        None, description=f"Last words. Default: `{_TERMINATION_LOG}` where it exists."
    )
    profile_dir: Path | None = Field(None, description="Where `run --profile` writes. Default: the state folder.")

    @property
    def image_dir(self) -> Path:
        return self.staging_dir / "images"

    @property
    def answer_dir(self) -> Path:
        return self.state_dir or self.staging_dir / "state"

    @property
    def last_words(self) -> Path | None:
        return self.termination_log or (_TERMINATION_LOG if _TERMINATION_LOG.exists() else None)


class AntennaSettings(Group):
    """Antenna."""

    antenna_url: str = Field(
        "http://localhost:8000/api/v2",
        validation_alias=peer("ANTENNA_URL", "ANTENNA_API_BASE_URL"),
        description="The API, up to and with `/api/v2`.",
    )
    antenna_token: SecretStr | None = Field(None, description="Token of a user who may lease and answer tasks.")
    antenna_token_file: Path | None = Field(None, description="A file with that token.")
    antenna_api_auth_token: SecretStr | None = Field(
        None, validation_alias="AMI_ANTENNA_API_AUTH_TOKEN", description="That token, where neither of ours is set."
    )
    service_name: str = Field(
        "AMI Data Companion",
        validation_alias=peer("SERVICE_NAME", "ANTENNA_SERVICE_NAME"),
        description="Name of the processing service; the host's name is added in brackets.",
    )
    antenna_lease_seconds: Annotated[float, Field(ge=1)] = Field(
        300.0, description="The server's `NATS_TASK_TTR`: after it a task is delivered again."
    )
    posts_waiting: Count | None = Field(
        None,
        validation_alias=peer("POSTS_WAITING", "ANTENNA_MAX_PENDING_POSTS"),
        description="Requests of results in flight. Answers beyond them wait on disk and are never dropped.",
    )
    poll_seconds: Annotated[float, Field(gt=0)] = Field(
        5.0,
        validation_alias=peer("POLL_SECONDS", "ANTENNA_IDLE_SLEEP_SECONDS"),
        description="Pause after a poll that brought nothing.",
    )
    antenna_ca_certs: Path | None = Field(None, description="Certificates of the authority that signed the API's.")
    antenna_proxy: SecretStr | None = Field(None, description="Proxy for the API; images never go through one.")

    @property
    def token(self) -> str | None:
        return secret(self.antenna_token, self.antenna_token_file, f"{PREFIX}ANTENNA_TOKEN_FILE") or secret(
            self.antenna_api_auth_token
        )


class FetchSettings(Group):
    """Fetching and decoding of images."""

    allowed_networks: Words = Field(
        (), description="Private networks (CIDR) that images may come from; link-local is always refused."
    )
    image_roots: Words = Field(
        (),
        description="Folders and bucket prefixes (`/data`, `s3://bucket/prefix`) from which manifests may name images"
        " and be read; http(s) needs none.",
    )
    image_base_path: Path | None = Field(
        None, validation_alias="AMI_IMAGE_BASE_PATH", description="One more such folder."
    )
    image_ca_certs: Path | None = Field(None, description="Certificates of the authority that signed image hosts'.")
    decode: Literal["exact", "fast"] = Field(
        "exact", description="`fast` decodes JPEGs at 1/2, 1/4 or 1/8: less memory, other pixels."
    )
    fast_edge_pixels: Count = Field(1024, description="Shorter edge that fast decoding leaves.")
    nvjpeg: bool = Field(False, description="Decode JPEGs on the GPU; differs from libjpeg by a rounding step.")
    max_pixels: Count = Field(250_000_000, description="Larger images are refused before decoding.")
    max_file_bytes: ByteSize = Field(ByteSize(512 * MIB), description="Larger files are refused while downloading.")

    @property
    def roots(self) -> tuple[str, ...]:
        return self.image_roots + ((str(self.image_base_path.resolve()),) if self.image_base_path else ())


class ManifestSettings(Group):
    """Manifest jobs."""

    output_uri: str | None = Field(None, description="Where part files go. Default: `/results` where that is mounted.")
    ledger_url: SecretStr | None = Field(
        None,
        validation_alias=peer("LEDGER_URL", "DATABASE_URL"),
        description="SQLAlchemy URL of the ledger: SQLite on one host only, PostgreSQL in a cluster. Default: a SQLite"
        " file in the output folder.",
    )
    ledger_url_file: Path | None = Field(None, description="A file with that URL, for one that holds a password.")
    part_format: Literal["jsonl", "parquet"] = Field("jsonl", description="Format of the part files.")
    chunk_rows: Count = Field(256, description="Images a part holds; fixed with a job's first start.")

    @property
    def ledger(self) -> str | None:
        return secret(None, self.ledger_url_file, f"{PREFIX}LEDGER_URL_FILE") or secret(self.ledger_url)

    @property
    def output(self) -> str | None:
        return self.output_uri or (str(_RESULTS) if _RESULTS.is_dir() else None)


class RunSettings(Group):
    """Runs and what they show."""

    plan: str | None = Field(None, description="The assignment of a worker that Airflow launched (JSON).")
    metrics_host: str = Field("127.0.0.1", description="Address on which metrics are served.")
    metrics_port: Annotated[int, Field(ge=-1, le=65535)] = Field(
        METRICS_PORT, description="Its port; 0 takes any free one, -1 serves none."
    )
    node_name: str = Field("", description="For the run's info metric; set by the pod spec.")
    pod_name: str = Field("", description="For logs; set by the pod spec.")
    failure_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Above this share of failed images the run stops with exit 65, ..."
    )
    failure_minimum: Count = Field(20, description="... once so many have failed.")
    upstream_silence_seconds: Annotated[float, Field(gt=0)] = Field(
        900.0, description="The job's owner may be away this long before exit 69."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")


class DemoSettings(Group):
    """The demo pipeline, for demos and tests only: how `tidegate_demo` misbehaves. No other pipeline reads these."""

    demo_leak_bytes_per_image: ByteSize = Field(ByteSize(0), description="Memory written and never freed, per image.")
    demo_infer_seconds_per_image: Annotated[float, Field(ge=0)] = Field(0.0, description="Least time of a prediction.")
    demo_workspace_bytes: ByteSize = Field(
        ByteSize(0), description="Memory held while an image is predicted; counted in its credits."
    )
    demo_model_bytes: ByteSize = Field(ByteSize(0), description="Memory held from the start, as weights are.")
    demo_burst_bytes: ByteSize = Field(
        ByteSize(0), description="Memory held while a burst image is predicted; counted by nobody."
    )
    demo_burst_every_images: Count = Field(50, description="Every so manieth image of a process is a burst image.")
    demo_crash_on: WordSet = Field(frozenset(), description="Image ids that kill the process.")
    demo_poison: Literal["segfault", "abort", "memory"] = Field(
        "segfault", description="How: a signal, or allocating until killed."
    )
    demo_poison_bytes: ByteSize = Field(
        ByteSize(32 * 1024 * MIB), description="Where a `memory` poison that nothing killed aborts."
    )


#: Names of the peer that are read by nobody, and why; said once when one is set.
WITHOUT_EFFECT: Final = {
    "AMI_LOCALIZATION_MODEL": "the job's pipeline names its detector, as it does for the peer's Antenna worker;"
    " change the catalogue entry",
    "AMI_BINARY_CLASSIFICATION_MODEL": "the job's pipeline names its filter; change the catalogue entry",
    "AMI_SPECIES_CLASSIFICATION_MODEL": "the job's pipeline names its classifier; change the catalogue entry",
    "AMI_FEATURE_EXTRACTOR": "no features are computed: Antenna takes none from workers",
    "AMI_CLASSIFICATION_THRESHOLD": "every detection is answered with its full scores; thresholds are Antenna's to set",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """All groups, and what of the environment was not understood."""

    models: ModelSettings
    ingest: IngestChoices
    storage: StorageSettings
    antenna: AntennaSettings
    fetch: FetchSettings
    manifest: ManifestSettings
    run: RunSettings
    demo: DemoSettings
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, env_file: Path | None = None) -> Self:
        """From the environment and `env_file` (default: `.env` in the working directory, if there is one)."""
        file = env_file or Path(ENV_FILE)
        return cls(
            models=read(ModelSettings, file),
            ingest=read(IngestChoices, file),
            storage=read(StorageSettings, file),
            antenna=read(AntennaSettings, file),
            fetch=read(FetchSettings, file),
            manifest=read(ManifestSettings, file),
            run=read(RunSettings, file),
            demo=read(DemoSettings, file),
            warnings=tuple(_warnings(set(texts(file)))),
        )


GROUPS: Final[tuple[type[Group], ...]] = (
    ModelSettings,
    IngestChoices,
    StorageSettings,
    AntennaSettings,
    FetchSettings,
    ManifestSettings,
    RunSettings,
    DemoSettings,
)


def known_names() -> frozenset[str]:
    """Every variable that has a meaning here, the peer's without effect included."""
    return frozenset(name for group in GROUPS for field in group.model_fields for name in names_of(group, field)) | set(
        WITHOUT_EFFECT
    )


def _warnings(present: set[str]) -> Iterator[str]:
    known = known_names()
    for name in sorted(present):
        if name in WITHOUT_EFFECT:
            yield f"{name} has no effect: {WITHOUT_EFFECT[name]}"
        elif name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            yield f"{name} is not a setting{f'; did you mean {close[0]}?' if close else ''}"
