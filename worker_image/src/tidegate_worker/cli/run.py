"""`run`: an assignment from Airflow, one job that a person names, or whatever jobs are open."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tidegate.core.contract import Assignment, ExitCode
from tidegate_worker.cli.targets import Target, add_target, assignment_of, target_of
from tidegate_worker.settings import Settings

if TYPE_CHECKING:
    from tidegate_worker.cli.composition import Parts
    from tidegate_worker.pipeline.drain import Drain


def arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("--no-probe", action="store_true", help="take ingest settings from the environment alone")
    parser.add_argument("--once", action="store_true", help="with no job named: end when no open job has work")
    parser.add_argument(
        "--profile", choices=["memray"], help="record allocations and draw a flame graph beside the results"
    )
    parser.epilog = """\
examples:
  tidegate-worker run                                          every open job of the pipelines in TIDEGATE_PIPELINES
  tidegate-worker run --pipeline moth_binary                   every open job of this one (repeatable)
  tidegate-worker run --antenna-job 88                         job 88, settings tuned on its first images
  tidegate-worker run --manifest s3://bucket/night.parquet --output s3://bucket/out --pipeline panama_moths_2024
"""


def execute(arguments: argparse.Namespace, settings: Settings) -> int:
    assignment, target = assignment_of(settings), target_of(arguments, settings)
    from tidegate_worker.cli.composition import Parts, begin
    from tidegate_worker.cli.last_words import told_in_last_words
    from tidegate_worker.cli.profiling import profiled
    from tidegate_worker.pipeline.drain import Drain

    begin(settings)
    drain = Drain()
    drain.on_signals()
    with profiled(arguments.profile, settings):
        if assignment is not None:
            with told_in_last_words(settings, assignment):
                return _assigned(assignment, settings, Parts(settings), drain)
        if target is not None:
            return _named(target, settings, Parts(settings), drain, probe=not arguments.no_probe)
        from tidegate_worker.cli.polling import serve_open_jobs

        parts = Parts(settings)
        return serve_open_jobs(
            settings, parts, drain, parts.slugs(arguments.pipeline), once=arguments.once, probe=not arguments.no_probe
        )


def _assigned(assignment: Assignment, settings: Settings, parts: Parts, drain: Drain) -> int:
    from tidegate_worker import app
    from tidegate_worker.cli.composition import engine_settings

    loaded = parts.load(assignment.pipeline)
    loaded.pin_memory(assignment.ingest.pin_memory)
    report = app.run(
        assignment,
        parts.job(assignment, loaded, settings.manifest.output),
        parts.fetcher(assignment),
        loaded.predictor,
        engine_settings(settings),
        drain,
    )
    return ExitCode.DONE if report.exit_code is None else report.exit_code


def _named(target: Target, settings: Settings, parts: Parts, drain: Drain, *, probe: bool) -> int:
    from tidegate_worker.cli.standalone import probed, tuned, unmeasured, work

    pace = tuned(settings, probed(target, settings, parts, drain)) if probe else unmeasured(settings)
    report = work(target, settings, parts, drain, pace, show_progress=sys.stderr.isatty())
    print(f"{report.acked} images answered, {report.failed} of them failed: {report.reason}")
    return ExitCode.DONE if report.exit_code is None else report.exit_code
