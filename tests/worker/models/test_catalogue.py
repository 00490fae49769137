from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tidegate.core.errors import FixConfig
from tidegate_worker.models.catalogue import Catalogue, catalogue_files, key_of

SHIPPED = Path(__file__).parents[3] / "worker_image" / "pipelines"

SMALL = {
    "base": "https://models.example/here/",
    "detectors": {"d": {"name": "Det", "architecture": "tiny_detector", "seed": 1, "score_above": 0.5}},
    "classifiers": {
        "c": {
            "name": "Cls 2",
            "architecture": "torchvision_resnet50",
            "weights": "a/c.pt",
            "category_map": "a/c.json",
            "input_size": 64,
        }
    },
    "pipelines": {"p": {"detector": "d", "classifier": "c"}},
    "sha256": {"a/c.pt": "0" * 64},
}


def written(folder: Path, content: object, name: str = "a.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def refused(folder: Path, content: object) -> str:
    with pytest.raises(FixConfig) as refusal:
        Catalogue([written(folder, content)])
    return str(refusal.value)


def test_the_shipped_catalogue_has_the_ten_public_pipelines_and_the_demo() -> None:
    catalogue = Catalogue(catalogue_files([SHIPPED]))
    assert {slug for slug in catalogue.slugs if not slug.startswith("tidegate_demo_")} == {
        "panama_moths_2023",
        "panama_moths_2024",
        "quebec_vermont_moths_2023",
        "uk_denmark_moths_2023",
        "costa_rica_moths_turing_2024",
        "anguilla_moths_turing_2024",
        "kenya-uganda_moths_turing_2024",
        "global_moths_2024",
        "moth_binary",
        "insect_orders_2025",
        "tidegate_demo",
    }


def test_every_public_pipeline_filters_first_but_the_filter_itself_and_the_orders() -> None:
    catalogue = Catalogue(catalogue_files([SHIPPED]))
    unfiltered = {slug for slug in catalogue.slugs if catalogue.pipeline(slug).filter is None}
    assert unfiltered == {"moth_binary", "insect_orders_2025"}


def test_every_file_of_the_shipped_catalogue_is_listed_among_the_hashes() -> None:
    content = yaml.safe_load((SHIPPED / "ami.yaml").read_text())
    catalogue = Catalogue(catalogue_files([SHIPPED]))
    used = {artifact.location for slug in catalogue.slugs for artifact in catalogue.artifacts(slug)}
    assert used <= set(content["sha256"])


def test_demos_alone_may_misbehave() -> None:
    catalogue = Catalogue(catalogue_files([SHIPPED]))
    demos = {slug for slug in catalogue.slugs if catalogue.pipeline(slug).entry.demo}
    assert demos == {slug for slug in catalogue.slugs if slug.startswith("tidegate_demo")}


def test_the_twins_of_the_demo_are_the_same_networks() -> None:
    catalogue = Catalogue(catalogue_files([SHIPPED]))
    twins = [slug for slug in catalogue.slugs if slug.startswith("tidegate_demo_")]
    own = catalogue.pipeline("tidegate_demo")
    assert len(twins) == 6
    assert all(catalogue.pipeline(slug).algorithms == own.algorithms for slug in twins)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("FasterRCNN for AMI Moth Traps 2023", "fasterrcnn_for_ami_moth_traps_2023"),
        ("Moth / Non-Moth Classifier", "moth_nonmoth_classifier"),
        ("Quebec & Vermont Species Classifier - Apr 2024", "quebec_vermont_species_classifier_apr_2024"),
        ("Turing Kenya and Uganda Species Classifier", "turing_kenya_and_uganda_species_classifier"),
    ],
)
def test_keys_are_those_under_which_the_peer_registers_the_same_algorithms(name: str, key: str) -> None:
    assert key_of(name) == key


def test_a_field_of_the_wrong_kind_is_named_with_its_file(tmp_path: Path) -> None:
    wrong = SMALL | {"classifiers": {"c": SMALL["classifiers"]["c"] | {"input_size": "large"}}}
    told = refused(tmp_path, wrong)
    assert str(tmp_path / "a.yaml") in told
    assert "classifiers.c.input_size" in told


def test_an_unknown_field_is_refused_for_it_may_be_a_typo(tmp_path: Path) -> None:
    assert "pipelines.p.clasifier" in refused(
        tmp_path, SMALL | {"pipelines": {"p": {"detector": "d", "clasifier": "c"}}}
    )


def test_a_pipeline_of_a_classifier_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    told = refused(tmp_path, SMALL | {"pipelines": {"p": {"detector": "d", "classifier": "x"}}})
    assert "pipelines.p.classifier: there is no 'x'; there are: c" in told


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n", "\x00"])
def test_what_is_no_catalogue_is_refused_by_name(tmp_path: Path, text: str) -> None:
    assert str(tmp_path / "a.yaml") in refused(tmp_path, text)


def test_weights_and_seed_together_are_refused(tmp_path: Path) -> None:
    both = SMALL | {"detectors": {"d": SMALL["detectors"]["d"] | {"weights": "d.pt"}}}
    assert "either weights" in refused(tmp_path, both)


def test_a_later_file_replaces_an_entry_and_pins_a_hash(tmp_path: Path) -> None:
    first = written(tmp_path, SMALL)
    later = written(
        tmp_path,
        {
            "classifiers": {"c": SMALL["classifiers"]["c"] | {"input_size": 128}},
            "sha256": {"a/c.json": "1" * 64},
        },
        "b.yaml",
    )
    catalogue = Catalogue([first, later])
    assert catalogue.pipeline("p").classifier.input_size == 128
    assert [artifact.sha256 for artifact in catalogue.artifacts("p")] == ["0" * 64, "1" * 64]


def test_relative_locations_lie_under_the_base_and_whole_uris_stay(tmp_path: Path) -> None:
    catalogue = Catalogue([written(tmp_path, SMALL)])
    assert catalogue.artifact("a/c.pt").uri == "https://models.example/here/a/c.pt"
    assert catalogue.artifact("s3://bucket/c.pt").uri == "s3://bucket/c.pt"


def test_a_mirror_stands_in_for_the_base(tmp_path: Path) -> None:
    catalogue = Catalogue([written(tmp_path, SMALL)], base="file:///srv/models")
    assert catalogue.artifact("a/c.pt").uri == "file:///srv/models/a/c.pt"


def test_the_model_version_changes_with_a_hash_and_not_with_a_description(tmp_path: Path) -> None:
    version = Catalogue([written(tmp_path, SMALL)]).model_version("p")
    described = SMALL | {"classifiers": {"c": SMALL["classifiers"]["c"] | {"description": "better words"}}}
    assert Catalogue([written(tmp_path, described)]).model_version("p") == version
    assert Catalogue([written(tmp_path, SMALL | {"sha256": {"a/c.pt": "2" * 64}})]).model_version("p") != version


def test_an_unknown_pipeline_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(FixConfig, match="'q'; the catalogue has: p"):
        Catalogue([written(tmp_path, SMALL)]).pipeline("q")


def test_a_folder_stands_for_its_yaml_files_and_a_missing_place_is_refused(tmp_path: Path) -> None:
    second, first = written(tmp_path, SMALL, "b.yaml"), written(tmp_path, SMALL, "a.yaml")
    written(tmp_path, "not yaml: [", "notes.txt")
    assert catalogue_files([tmp_path]) == [first, second]
    with pytest.raises(FixConfig, match="TIDEGATE_CATALOGUE"):
        catalogue_files([tmp_path / "nowhere"])
