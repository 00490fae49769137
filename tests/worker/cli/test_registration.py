from __future__ import annotations

from pathlib import Path

from tidegate_worker.cli.registration import antenna_pipeline
from tidegate_worker.jobs.antenna.pipeline import AntennaPipeline
from tidegate_worker.models.catalogue import Catalogue, catalogue_files

SHIPPED = Path(__file__).parents[3] / "worker_image" / "pipelines"


def registered(slug: str) -> AntennaPipeline:
    catalogue = Catalogue(catalogue_files([SHIPPED]))
    pipeline = catalogue.pipeline(slug)
    labels = {entry.key: (f"{entry.key} one", f"{entry.key} two") for entry in pipeline.classifiers}
    return antenna_pipeline(catalogue, pipeline, labels)


def test_every_pipeline_of_the_catalogue_registers_exactly_one_detector_and_a_map_for_each_classifier() -> None:
    for slug in Catalogue(catalogue_files([SHIPPED])).slugs:
        payload = registered(slug).payload()
        assert payload["slug"] == slug
        kinds = [algorithm["task_type"] for algorithm in payload["algorithms"]]
        assert kinds.count("localization") == 1
        for algorithm in payload["algorithms"]:
            if algorithm["task_type"] == "classification":
                assert len(algorithm["category_map"]["labels"]) == 2
            else:
                assert algorithm["category_map"] is None


def test_ranks_are_those_of_the_classifiers() -> None:
    algorithms = {each["key"]: each for each in registered("insect_orders_2025").payload()["algorithms"]}
    assert algorithms["insect_order_classifier"]["category_map"]["data"][0] == {
        "index": 0,
        "label": "insect_order_classifier one",
        "taxon_rank": "ORDER",
    }
    algorithms = {each["key"]: each for each in registered("panama_moths_2024").payload()["algorithms"]}
    ranks = {
        key: each["category_map"]["data"][0]["taxon_rank"] for key, each in algorithms.items() if each["category_map"]
    }
    assert ranks == {
        "moth_nonmoth_classifier": "SUPERFAMILY",
        "panama_species_classifier_apr_2024": "SPECIES",
    }


def test_the_pipeline_bears_the_name_of_its_classifier_as_the_peer_s_does() -> None:
    assert registered("panama_moths_2024").name == "Panama Species Classifier - Apr 2024"
