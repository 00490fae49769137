"""What Antenna is told of a pipeline: its catalogue entry in the words of the registration, under the peer's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tidegate_worker.jobs.antenna.pipeline import AntennaAlgorithm, AntennaPipeline
from tidegate_worker.models.catalogue import Catalogue, Classifier, Detector, Pipeline
from tidegate_worker.redact import redact_url


def antenna_pipeline(catalogue: Catalogue, pipeline: Pipeline, labels: Mapping[str, Sequence[str]]) -> AntennaPipeline:
    """`labels` by the key of each classifier, in the order of its outputs."""
    return AntennaPipeline(
        slug=pipeline.slug,
        name=pipeline.name,
        version=pipeline.entry.version,
        description=pipeline.entry.description or pipeline.classifier.description,
        algorithms=tuple(
            AntennaAlgorithm(
                key=entry.key,
                name=entry.name,
                task_type="localization" if isinstance(entry, Detector) else "classification",
                version=entry.version,
                description=entry.description,
                uri=redact_url(catalogue.artifact(entry.weights).uri) if entry.weights else "",
                labels=tuple(labels[entry.key]) if isinstance(entry, Classifier) else (),
                taxon_rank=entry.taxon_rank if isinstance(entry, Classifier) else "",
            )
            for entry in pipeline.algorithms
        ),
    )
