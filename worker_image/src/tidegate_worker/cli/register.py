"""`register`: tell Antenna which pipelines this worker serves; as often as one likes."""

from __future__ import annotations

import argparse

from tidegate.core.contract import ExitCode
from tidegate_worker.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pipeline",
        action="append",
        default=[],
        metavar="SLUG",
        help="repeatable; default: TIDEGATE_PIPELINES, or all",
    )
    parser.add_argument(
        "--project",
        action="append",
        default=[],
        type=int,
        metavar="ID",
        help="repeatable; default: all that the token sees",
    )
    parser.epilog = """\
Category maps are part of a registration, so the files of the pipelines are fetched and checked.

examples:
  tidegate-worker register --pipeline panama_moths_2024 --project 3
"""


def execute(arguments: argparse.Namespace, settings: Settings) -> int:
    from tidegate_worker.cli.antenna_access import antenna_api, service_name
    from tidegate_worker.cli.composition import Parts
    from tidegate_worker.jobs.antenna.registry import register

    parts = Parts(settings)
    pipelines = [parts.antenna_pipeline(slug) for slug in parts.slugs(arguments.pipeline)]
    api = antenna_api(settings)
    try:
        projects = register(api, service_name(settings), pipelines, arguments.project)
    finally:
        api.close()
    slugs = ", ".join(pipeline.slug for pipeline in pipelines)
    print(f"registered {slugs} with project{'s' if len(projects) > 1 else ''} {', '.join(map(str, projects))}")
    return ExitCode.DONE
