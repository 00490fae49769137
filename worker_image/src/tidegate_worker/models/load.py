"""A pipeline of the catalogue made ready to predict: networks built, weights checked and loaded onto the device."""

from __future__ import annotations

import gc
import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tidegate.core.errors import FixConfig
from tidegate_worker.models.artifacts import ArtifactCache
from tidegate_worker.models.catalogue import Algorithm, Catalogue, Classifier, Detector, Pipeline
from tidegate_worker.models.category_map import CategoryMap
from tidegate_worker.models.classifier import CropClassifier
from tidegate_worker.models.demo import DemoPredictor, Misbehaviour
from tidegate_worker.models.detector import BoxDetector
from tidegate_worker.models.fold import fold_norms
from tidegate_worker.models.networks import classifier_network, detector_network
from tidegate_worker.models.predictor import BinaryFilter, CropBatch, PipelinePredictor
from tidegate_worker.models.workspace import ACTIVATION_BYTES, Workspace
from tidegate_worker.ports import Predictor

#: Where training scripts put the weights when a checkpoint holds more than them.
_NESTED_UNDER = "model_state_dict"
#: A detector sees an image at no more than this (800 x 1333, padded to whole strides of 32).
_DETECTOR_PIXELS = 800 * 1344


class PipelineLoader:
    """Loads pipelines of one catalogue from one cache onto one device."""

    def __init__(
        self, catalogue: Catalogue, cache: ArtifactCache, device: torch.device, crop_batch: CropBatch | None = None
    ) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self._device = device
        self._crop_batch = crop_batch or CropBatch()

    def load(self, slug: str, misbehaviour: Misbehaviour | None = None) -> Predictor:
        """`misbehaviour` reaches pipelines marked as demo alone."""
        pipeline = self._catalogue.pipeline(slug)
        if pipeline.entry.factory is not None:
            return _made_by(pipeline.entry.factory, pipeline, self._device)
        predictor = self._assemble(pipeline)
        # Building drew random weights that loading replaced.
        gc.collect()
        if pipeline.entry.demo and misbehaviour is not None:
            return DemoPredictor(predictor, misbehaviour)
        return predictor

    def category_map(self, entry: Classifier) -> CategoryMap:
        if entry.category_map is None:
            return CategoryMap(entry.labels)
        path = self._cache.path(self._catalogue.artifact(entry.category_map))
        return CategoryMap.from_json(path.read_bytes(), entry.category_map)

    def _assemble(self, pipeline: Pipeline) -> PipelinePredictor:
        binary = None
        if pipeline.filter is not None and pipeline.entry.filter is not None:
            binary = BinaryFilter(self._classifier(pipeline.filter), pipeline.entry.filter.keep)
            if binary.keep not in binary.classifier.labels:
                raise FixConfig(
                    f"{pipeline.filter.category_map} has no label {binary.keep!r}: correct"
                    f" pipelines.{pipeline.slug}.filter.keep"
                )
        return PipelinePredictor(
            pipeline=pipeline.slug,
            model_version=self._catalogue.model_version(pipeline.slug),
            device=self._device,
            detector=self._detector(pipeline.detector),
            detector_key=pipeline.detector.key,
            binary_filter=binary,
            classifier=self._classifier(pipeline.classifier),
            crop_batch=self._crop_batch,
            workspace=self._workspace(pipeline),
        )

    def _detector(self, entry: Detector) -> BoxDetector:
        return BoxDetector(self._ready(entry, lambda: detector_network(entry)), entry.score_above)

    def _classifier(self, entry: Classifier) -> CropClassifier:
        labels = self.category_map(entry).labels
        return CropClassifier(self._ready(entry, lambda: classifier_network(entry, len(labels))), entry, labels)

    def _ready(self, entry: Algorithm, build: Callable[[], nn.Module]) -> nn.Module:
        # Networks draw their first weights from the global generator, which stays as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(entry.seed or 0)
            network = build()
        if entry.weights is not None:
            load_weights(network, self._cache.path(self._catalogue.artifact(entry.weights)), entry.weights)
        network.requires_grad_(False).eval()
        fold_norms(network)
        # Where oneDNN is at home, a fifth faster than planes; on a GPU it buys nothing in float32.
        if self._device.type == "cpu":
            network.to(memory_format=torch.channels_last)
        return network.to(self._device)

    def _workspace(self, pipeline: Pipeline) -> Workspace:
        return Workspace(
            on_host=self._device.type == "cpu",
            detector_pixels=_DETECTOR_PIXELS if pipeline.detector.architecture in ACTIVATION_BYTES else 0,
            detector_bytes_per_pixel=ACTIVATION_BYTES.get(pipeline.detector.architecture, 0),
            crop_pixels=max(entry.input_size for entry in pipeline.classifiers) ** 2,
            crop_bytes_per_pixel=max(ACTIVATION_BYTES.get(entry.architecture, 64) for entry in pipeline.classifiers),
            most_boxes=pipeline.detector.most_boxes,
            classes=sum(len(self.category_map(entry)) for entry in pipeline.classifiers),
        )


def load_weights(network: nn.Module, path: Path, name: str) -> None:
    """Fill `network` strictly from a state dict, or from a checkpoint that nests one under `model_state_dict`."""
    state = _state_dict(path, name)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise FixConfig(
            f"{name} does not fit its architecture: {' '.join(line.strip() for line in lines[1:3])[:300]}; correct the"
            " architecture or the category map of its entry"
        ) from None


def _state_dict(path: Path, name: str) -> dict[str, Any]:
    try:
        checkpoint = _read(path)
    except pickle.UnpicklingError:
        raise FixConfig(
            f"{name} holds more than tensors, which may run code when read: save its state dict alone"
            " (torch.save(model.state_dict(), ...)) on a machine that trusts it, and put that file's hash into the"
            " catalogue"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise FixConfig(f"{name} is not a checkpoint: {' '.join(str(error).split())[:200]}") from None
    state = checkpoint.get(_NESTED_UNDER, checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise FixConfig(f"{name} is not a checkpoint: it holds no state dict")
    return state


def _read(path: Path) -> Any:
    # Mapped, so that the file and the network are never both in memory; checkpoints older than torch 1.6 cannot be.
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        return torch.load(path, map_location="cpu", weights_only=True)


def _made_by(factory: str, pipeline: Pipeline, device: torch.device) -> Predictor:
    module, name = factory.split(":")
    where = f"pipelines.{pipeline.slug}.factory"
    try:
        make = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise FixConfig(f"{where}: {error}; install the package that holds it beside the worker") from None
    except AttributeError:
        raise FixConfig(f"{where}: {module} has no {name}") from None
    predictor: Predictor = make(pipeline, device)
    return predictor
