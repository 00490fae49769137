"""Which job a command line names: an assignment, an Antenna job, a manifest, or none."""

from __future__ import annotations

import argparse
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.core.contract import PLAN_ENV, Assignment, Source, SourceKind
from tidegate.core.errors import FixConfig
from tidegate_worker.settings import Settings


def add_target(parser: argparse.ArgumentParser) -> None:
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--antenna-job", metavar="NUMBER", help="an Antenna job, by its number")
    target.add_argument("--manifest", metavar="URI", help="a CSV, JSONL or Parquet file of image URIs")
    parser.add_argument("--output", metavar="URI", help="where a manifest job's part files go (TIDEGATE_OUTPUT_URI)")
    parser.add_argument(
        "--pipeline", action="append", default=[], metavar="SLUG", help="the pipeline; an Antenna job names its own"
    )


@dataclass(frozen=True, slots=True)
class Target:
    """A job that a person named on a command line."""

    source: Source
    pipeline: str | None
    output: str | None
    named_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def run_id(self) -> str:
        """Says who ran what when; the same for a probe and the run that follows it, and nobody else's."""
        return f"{socket.gethostname()}-{self.source.kind}-{self.source.job[-100:]}-{self.named_at}-{os.getpid()}"


def assignment_of(settings: Settings) -> Assignment | None:
    """The assignment that Airflow gave, if it did."""
    return Assignment.from_json(settings.run.plan) if settings.run.plan else None


def target_of(arguments: argparse.Namespace, settings: Settings) -> Target | None:
    """The job named by the arguments, if they name one."""
    if settings.run.plan and (arguments.antenna_job or arguments.manifest):
        raise FixConfig(f"{PLAN_ENV} names a job already: unset it, or name none on the command line")
    if arguments.antenna_job is None and arguments.manifest is None:
        return None
    if len(arguments.pipeline) > 1:
        raise FixConfig(f"a job has one pipeline, not {len(arguments.pipeline)}: give --pipeline once")
    pipeline = next(iter(arguments.pipeline), None)
    if arguments.antenna_job is not None:
        if not arguments.antenna_job.isdigit():
            raise FixConfig(f"--antenna-job wants a number, not {arguments.antenna_job!r}")
        source = Source(kind=SourceKind.ANTENNA, uri=settings.antenna.antenna_url, job=arguments.antenna_job)
        return Target(source, pipeline, None)
    if pipeline is None:
        raise FixConfig("a manifest names no pipeline: add --pipeline SLUG")
    output = arguments.output or settings.manifest.output
    if output is None:
        raise FixConfig("say where results go: --output FOLDER, or TIDEGATE_OUTPUT_URI")
    uri = arguments.manifest if "://" in arguments.manifest else f"file://{Path(arguments.manifest).resolve()}"
    if "://" not in output:
        output = str(Path(output).resolve())
    source = Source(kind=SourceKind.MANIFEST, uri=uri, job=uri.rsplit("/", 1)[-1][:253])
    return Target(source, pipeline, output)


def needed_target(arguments: argparse.Namespace, settings: Settings) -> Target:
    target = target_of(arguments, settings)
    if target is None:
        raise FixConfig("name a job: --antenna-job NUMBER or --manifest URI")
    return target
