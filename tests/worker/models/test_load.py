"""Checkpoints that tests save themselves, in the layouts that are published, through cache and loader."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.worker.models.pictures import decoded, sheet

from tidegate.core.errors import FixConfig
from tidegate_worker.models.artifacts import ArtifactCache
from tidegate_worker.models.catalogue import Catalogue, Classifier, Pipeline
from tidegate_worker.models.load import PipelineLoader
from tidegate_worker.models.networks import classifier_network
from tidegate_worker.ports import Predictor

LABELS = ["moth", "nonmoth"]
DETECTOR = {"name": "Tiny", "architecture": "tiny_detector", "seed": 0, "score_above": 0.5, "most_boxes": 32}


def loader(folder: Path, checkpoint: object, **changes: Any) -> PipelineLoader:
    """A pipeline whose classifier's weights and map are files, pinned by their hashes."""
    torch.save(checkpoint, folder / "c.pt")
    (folder / "c.json").write_text(json.dumps({label: index for index, label in enumerate(LABELS)}))
    entry = {
        "name": "Cls",
        "architecture": "tiny_classifier",
        "weights": "c.pt",
        "category_map": "c.json",
        "input_size": 16,
    } | changes
    content = {
        "base": f"file://{folder}",
        "detectors": {"d": DETECTOR},
        "classifiers": {"c": entry},
        "pipelines": {"p": {"detector": "d", "classifier": "c"}},
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("c.pt", "c.json")},
    }
    (folder / "catalogue.yaml").write_text(yaml.safe_dump(content))
    return PipelineLoader(Catalogue([folder / "catalogue.yaml"]), ArtifactCache(folder / "cache"), torch.device("cpu"))


def tiny_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(11)
    entry = Classifier(name="c", architecture="tiny_classifier", seed=0, labels=tuple(LABELS), input_size=16)
    return dict(classifier_network(entry, 2).state_dict())


def words(predictor: Predictor) -> list[tuple[str, float]]:
    detections = predictor.predict([decoded(sheet(320, 240))])[0].detections
    return [(each.classifications[-1].label, float(each.classifications[-1].scores.max())) for each in detections]


def test_a_bare_state_dict_and_one_nested_in_a_checkpoint_give_the_same_words(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "nested").mkdir()
    bare = words(loader(tmp_path / "bare", tiny_state()).load("p"))
    checkpoint = {"model_state_dict": tiny_state(), "epoch": 30, "loss": 0.25}
    assert words(loader(tmp_path / "nested", checkpoint).load("p")) == bare
    assert bare


def test_a_checkpoint_in_the_format_before_zip_files_loads(tmp_path: Path) -> None:
    loading = loader(tmp_path, tiny_state())
    torch.save(tiny_state(), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    content = yaml.safe_load((tmp_path / "catalogue.yaml").read_text())
    content["sha256"]["c.pt"] = hashlib.sha256((tmp_path / "c.pt").read_bytes()).hexdigest()
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump(content))
    loading = PipelineLoader(
        Catalogue([tmp_path / "catalogue.yaml"]), ArtifactCache(tmp_path / "cache"), torch.device("cpu")
    )
    assert words(loading.load("p"))


class Touch:
    """What an attacker would put into a checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))


def test_a_checkpoint_that_runs_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(FixConfig, match="more than tensors"):
        loader(tmp_path, {"model_state_dict": tiny_state(), "x": Touch(mark)}).load("p")
    assert not mark.exists()


def test_weights_of_another_architecture_are_refused_with_the_entry_to_mend(tmp_path: Path) -> None:
    state = {f"backbone.{key}": value for key, value in tiny_state().items()}
    with pytest.raises(FixConfig, match=r"c\.pt does not fit its architecture: .*features\.weight"):
        loader(tmp_path, state).load("p")


def test_weights_with_another_number_of_classes_than_the_map_are_refused(tmp_path: Path) -> None:
    state = tiny_state() | {"classes.weight": torch.zeros(5, 8), "classes.bias": torch.zeros(5)}
    with pytest.raises(FixConfig, match="category map"):
        loader(tmp_path, state).load("p")


@pytest.mark.parametrize("checkpoint", [["a", "list"], torch.zeros(3), {"model_state_dict": None}])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, checkpoint: object) -> None:
    with pytest.raises(FixConfig, match="not a checkpoint"):
        loader(tmp_path, checkpoint).load("p")


def test_a_file_that_is_no_torch_file_is_refused(tmp_path: Path) -> None:
    loading = loader(tmp_path, tiny_state())
    (tmp_path / "c.pt").write_bytes(b"<html>not found</html>")
    content = yaml.safe_load((tmp_path / "catalogue.yaml").read_text())
    content["sha256"]["c.pt"] = hashlib.sha256(b"<html>not found</html>").hexdigest()
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump(content))
    loading = PipelineLoader(
        Catalogue([tmp_path / "catalogue.yaml"]), ArtifactCache(tmp_path / "cache"), torch.device("cpu")
    )
    with pytest.raises(FixConfig, match=r"c\.pt"):
        loading.load("p")


def test_loading_leaves_the_global_generator_as_it_was(tmp_path: Path) -> None:
    loading = loader(tmp_path, tiny_state())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    loading.load("p")
    assert torch.equal(torch.rand(3), expected)


class Echo:
    """A predictor of an administrator's own."""

    def __init__(self, pipeline: str, device: torch.device) -> None:
        self.pipeline, self.model_version, self.device = pipeline, "custom", device


def make_echo(pipeline: Pipeline, device: torch.device) -> Echo:
    return Echo(pipeline.slug, device)


def custom(folder: Path, factory: str) -> PipelineLoader:
    content = {
        "detectors": {"d": DETECTOR},
        "classifiers": {
            "c": {"name": "C", "architecture": "tiny_classifier", "seed": 1, "labels": LABELS, "input_size": 16}
        },
        "pipelines": {"own": {"detector": "d", "classifier": "c", "factory": factory}},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(content))
    return PipelineLoader(Catalogue([folder / "own.yaml"]), ArtifactCache(folder), torch.device("cpu"))


def test_a_factory_named_in_the_catalogue_makes_the_predictor(tmp_path: Path) -> None:
    predictor = custom(tmp_path, f"{__name__}:make_echo").load("own")
    assert (predictor.pipeline, predictor.model_version) == ("own", "custom")


@pytest.mark.parametrize(
    ("factory", "told"), [("no_such_module:make", "install"), (f"{__name__}:make_nothing", "has no make_nothing")]
)
def test_a_factory_that_is_not_there_is_told_with_its_entry(tmp_path: Path, factory: str, told: str) -> None:
    with pytest.raises(FixConfig, match=rf"pipelines\.own\.factory: .*{told}"):
        custom(tmp_path, factory).load("own")
