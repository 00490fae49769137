"""`probe`: measure a few images of a job, answer them, and say so on stdout and in the termination message."""

from __future__ import annotations

import argparse
from typing import Final

from tidegate_worker.cli.targets import Target, add_target, assignment_of, needed_target
from tidegate_worker.settings import Settings

_IMAGES: Final = 16
_SECONDS: Final = 30.0


def arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("--images", type=int, default=_IMAGES, help="at most so many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="lease for so long (default: %(default)s)")


def execute(arguments: argparse.Namespace, settings: Settings) -> int:
    assignment = assignment_of(settings)
    target = (
        Target(assignment.source, assignment.pipeline, settings.manifest.output)
        if assignment is not None
        else needed_target(arguments, settings)
    )
    from contextlib import nullcontext

    from tidegate.core.contract import ExitCode
    from tidegate_worker import app
    from tidegate_worker.cli.composition import Parts, begin, engine_settings
    from tidegate_worker.cli.last_words import report_probe, told_in_last_words
    from tidegate_worker.cli.standalone import with_pipeline
    from tidegate_worker.cli.tuning import PROBE_INGEST, assign
    from tidegate_worker.pipeline.drain import Drain

    begin(settings)
    drain = Drain()
    drain.on_signals()
    with told_in_last_words(settings, assignment) if assignment is not None else nullcontext():
        parts = Parts(settings)
        target = with_pipeline(target, settings)
        assert target.pipeline is not None, "with_pipeline finds it or raises"
        loaded = parts.load(target.pipeline)
        asked = assignment or assign(settings, target, loaded, target.run_id, PROBE_INGEST)
        report = app.probe(
            asked,
            parts.job(asked, loaded, target.output),
            parts.fetcher(asked),
            loaded.predictor,
            engine_settings(settings),
            drain,
            model_load_seconds=loaded.seconds,
            at_most_images=arguments.images,
            at_most_seconds=arguments.seconds,
        )
    report_probe(settings, report)
    print(report.to_json())
    return ExitCode.DRAINED if drain.asked else ExitCode.DONE
