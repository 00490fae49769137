"""From settings to the parts of a worker: catalogue, predictor, job, fetcher and the engine's settings."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tidegate.core.contract import Assignment, Source, SourceKind
from tidegate.core.errors import FixConfig
from tidegate_worker import logs
from tidegate_worker.app import prepare_process
from tidegate_worker.cli.antenna_access import antenna_access
from tidegate_worker.cli.registration import antenna_pipeline
from tidegate_worker.jobs.antenna.job import AntennaJob, AntennaLimits
from tidegate_worker.jobs.antenna.pipeline import AntennaPipeline
from tidegate_worker.jobs.antenna.poster import PostLimits
from tidegate_worker.jobs.manifest.job import ManifestJob, ManifestLimits
from tidegate_worker.models.artifacts import ArtifactCache
from tidegate_worker.models.catalogue import Catalogue, catalogue_files
from tidegate_worker.models.demo import Misbehaviour, Poison
from tidegate_worker.models.load import PipelineLoader
from tidegate_worker.models.predictor import CropBatch, PipelinePredictor
from tidegate_worker.net.addresses import AddressRules
from tidegate_worker.net.http_fetcher import FetchLimits, HttpFetcher
from tidegate_worker.net.uri_fetcher import UriFetcher
from tidegate_worker.net.uris import UriRules, absolute
from tidegate_worker.pipeline.settings import DecodeMode, EngineSettings
from tidegate_worker.ports import Fetcher, Job, Predictor
from tidegate_worker.settings import Settings

_log = logging.getLogger(__name__)


def begin(settings: Settings) -> None:
    """What must happen before anything large is loaded: logging, malloc, threads, file handles."""
    logs.set_up(level=logging.getLevelNamesMapping()[settings.run.log_level])
    for warning in settings.warnings:
        _log.warning(warning)
    prepare_process()


@dataclass(frozen=True, slots=True)
class Loaded:
    predictor: Predictor
    antenna: AntennaPipeline
    seconds: float

    def pin_memory(self, wanted: bool) -> None:
        """As the plan says; predictors of other makers see to it themselves."""
        if isinstance(self.predictor, PipelinePredictor):
            self.predictor.pin_memory = wanted


class Parts:
    """Makes the parts as settings say; keeps the pipeline that was loaded last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        models = settings.models
        self.catalogue = Catalogue(catalogue_files(models.catalogue_places), models.weights_base)
        self.cache = ArtifactCache(models.cache_dir)
        self._loaded: Loaded | None = None

    def load(self, slug: str) -> Loaded:
        """The pipeline's predictor; one is held at a time."""
        if self._loaded is not None and self._loaded.predictor.pipeline == slug:
            return self._loaded
        self._loaded = None
        began = time.monotonic()
        loader = self.loader(device(self._settings.models.device))
        predictor = loader.load(slug, self._misbehaviour())
        seconds = time.monotonic() - began
        _log.info(
            "loaded pipeline %s, version %s, on %s in %.1f s", slug, predictor.model_version, predictor.device, seconds
        )
        self._loaded = Loaded(predictor, self.antenna_pipeline(slug), seconds)
        return self._loaded

    def loader(self, on: torch.device) -> PipelineLoader:
        models = self._settings.models
        return PipelineLoader(
            self.catalogue, self.cache, on, CropBatch(models.crop_batch_bytes, models.crop_batch_images)
        )

    def antenna_pipeline(self, slug: str) -> AntennaPipeline:
        pipeline = self.catalogue.pipeline(slug)
        loader = self.loader(torch.device("cpu"))
        maps = {entry.key: loader.category_map(entry).labels for entry in pipeline.classifiers}
        return antenna_pipeline(self.catalogue, pipeline, maps)

    def slugs(self, named: Sequence[str]) -> tuple[str, ...]:
        """The pipelines named, else those of the settings, else all but demos."""
        chosen = tuple(named) or self._settings.models.pipelines
        if chosen:
            return tuple(self.catalogue.pipeline(slug).slug for slug in chosen)
        return tuple(slug for slug in self.catalogue.slugs if not self.catalogue.pipeline(slug).entry.demo)

    def job(self, assignment: Assignment, loaded: Loaded, output: str | None = None) -> Job:
        """The job that is assigned; `output` is where a manifest's results go."""
        if assignment.source.kind is SourceKind.ANTENNA:
            return self._antenna_job(assignment.source, loaded)
        return self._manifest_job(assignment, loaded, output)

    def _manifest_job(self, assignment: Assignment, loaded: Loaded, output: str | None) -> ManifestJob:
        source = assignment.source
        if source.uri is None:
            raise FixConfig(f"manifest job {source.job} names no manifest")
        if output is None:
            raise FixConfig("say where results go: --output FOLDER, or TIDEGATE_OUTPUT_URI")
        manifest = self._settings.manifest
        return ManifestJob(
            source.job,
            source.uri,
            manifest.ledger or _ledger_beside(output, assignment.slots),
            output,
            owner=f"{assignment.run_id[-150:]}/{assignment.slot}",
            pipeline=loaded.predictor.pipeline,
            model_version=loaded.predictor.model_version,
            rules=self._uri_rules,
            http=self._http(connections=2),
            limits=ManifestLimits(part_format=manifest.part_format, chunk_rows=manifest.chunk_rows),
        )

    def _antenna_job(self, source: Source, loaded: Loaded) -> AntennaJob:
        antenna = self._settings.antenna
        post = PostLimits() if antenna.posts_waiting is None else PostLimits(threads=antenna.posts_waiting)
        return AntennaJob(
            antenna_access(self._settings, source.uri),
            source.job,
            loaded.antenna,
            self._settings.storage.answer_dir,
            model_version=loaded.predictor.model_version,
            limits=AntennaLimits(lease_seconds=antenna.antenna_lease_seconds, post=post),
        )

    def fetcher(self, assignment: Assignment) -> Fetcher:
        """The way to the images of this job: its server may name http(s) alone, a manifest what the roots allow."""
        http = self._http(connections=assignment.ingest.downloads_in_flight)
        return http if assignment.source.kind is SourceKind.ANTENNA else UriFetcher(self._uri_rules, http)

    def _http(self, connections: int) -> HttpFetcher:
        fetch = self._settings.fetch
        return HttpFetcher(
            AddressRules.parse(fetch.allowed_networks),
            FetchLimits(connections=connections),
            str(fetch.image_ca_certs) if fetch.image_ca_certs else None,
        )

    @property
    def _uri_rules(self) -> UriRules:
        return UriRules.parse(self._settings.fetch.roots)

    def _misbehaviour(self) -> Misbehaviour:
        demo = self._settings.demo
        return Misbehaviour(
            leak_bytes_per_image=demo.demo_leak_bytes_per_image,
            infer_seconds_per_image=demo.demo_infer_seconds_per_image,
            workspace_bytes=demo.demo_workspace_bytes,
            model_bytes=demo.demo_model_bytes,
            burst_bytes=demo.demo_burst_bytes,
            burst_every_images=demo.demo_burst_every_images,
            crash_on=demo.demo_crash_on,
            poison=Poison(demo.demo_poison),
            poison_bytes=demo.demo_poison_bytes,
        )


def device(wish: str) -> torch.device:
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(wish)
    except RuntimeError:
        raise FixConfig(f"TIDEGATE_DEVICE is {wish!r}; set it to auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise FixConfig("TIDEGATE_DEVICE asks for CUDA, which this process does not see: check driver and GPU request")
    return chosen


def _ledger_beside(output: str, slots: int) -> str:
    """SQLite in the output folder, which outlives a pod; of use to one worker only."""
    uri = absolute(output)
    if slots > 1 or not uri.startswith("file://"):
        raise FixConfig(
            "several workers, or results in a bucket, need a ledger that all reach: set TIDEGATE_LEDGER_URL to a"
            " PostgreSQL database"
        )
    folder = Path(uri.removeprefix("file://"))
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'ledger.sqlite'}"


def engine_settings(settings: Settings, *, show_progress: bool = False) -> EngineSettings:
    run, fetch = settings.run, settings.fetch
    return EngineSettings(
        staging_dir=settings.storage.image_dir,
        termination_log=settings.storage.last_words,
        metrics_address=run.metrics_host,
        metrics_port=None if run.metrics_port < 0 else run.metrics_port,
        node=run.node_name,
        decode_mode=DecodeMode(fetch.decode),
        fast_edge_pixels=fetch.fast_edge_pixels,
        nvjpeg=fetch.nvjpeg,
        max_pixels=fetch.max_pixels,
        max_file_bytes=fetch.max_file_bytes,
        failure_ratio=run.failure_ratio,
        failure_minimum=run.failure_minimum,
        upstream_silence_seconds=run.upstream_silence_seconds,
        poll_seconds=settings.antenna.poll_seconds,
        show_progress=show_progress,
    )
