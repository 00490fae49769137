"""`tune`: what to set for a job, and why; measured on its own images, which are answered, or read from a report."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from tidegate.core.contract import GIB, MIB, ExitCode, Plan, ProbeReport
from tidegate.core.errors import FixConfig
from tidegate_worker.cli.targets import add_target, needed_target
from tidegate_worker.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("--images", type=int, default=16, help="measure at most so many (default: %(default)s)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="plan from what `probe` printed; nothing is leased")
    parser.add_argument(
        "--write-env", type=Path, metavar="FILE", help="put the settings into this file, keeping its rest"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.epilog = """\
examples:
  tidegate-worker tune --antenna-job 88
  tidegate-worker tune --antenna-job 88 --write-env .env
  tidegate-worker probe --antenna-job 88 > report.json; tidegate-worker tune --report report.json
"""


def execute(arguments: argparse.Namespace, settings: Settings) -> int:
    from tidegate_worker.cli.tuning import planned

    report = _read(arguments.report) if arguments.report else _measured(arguments, settings)
    plan = planned(settings, report)
    chosen = variables(plan)
    if arguments.write_env:
        write_env(arguments.write_env, chosen)
    print(plan.to_json() if arguments.json else _shown(plan, report, chosen, arguments.write_env))
    return ExitCode.DONE


def variables(plan: Plan) -> dict[str, str]:
    """The plan's ingest settings by the names of their variables."""
    return {
        f"TIDEGATE_{name.upper()}": str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in plan.ingest.model_dump().items()
    }


def write_env(path: Path, chosen: Mapping[str, str]) -> None:
    """Replace the lines of these variables, keep all others, and never leave half a file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if line.removeprefix("export ").split("=", 1)[0].strip() not in chosen]
    text = "\n".join([*kept, *(f"{name}={value}" for name, value in chosen.items())]) + "\n"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # It may hold a token: nobody who could not read the old file shall read the new one.
        aside.touch(mode=path.stat().st_mode & 0o777 if path.exists() else 0o600)
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _measured(arguments: argparse.Namespace, settings: Settings) -> ProbeReport:
    target = needed_target(arguments, settings)
    from tidegate_worker.cli.composition import Parts, begin
    from tidegate_worker.cli.standalone import with_pipeline
    from tidegate_worker.cli.tuning import measure
    from tidegate_worker.pipeline.drain import Drain

    begin(settings)
    drain = Drain()
    drain.on_signals()
    target = with_pipeline(target, settings)
    assert target.pipeline is not None, "with_pipeline finds it or raises"
    parts = Parts(settings)
    loaded = parts.load(target.pipeline)
    return measure(settings, parts, target, loaded, target.run_id, drain, at_most_images=arguments.images)


def _read(path: Path) -> ProbeReport:
    try:
        return ProbeReport.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FixConfig(f"--report {path} cannot be read: {error.strerror}") from None


def _shown(plan: Plan, report: ProbeReport, chosen: Mapping[str, str], written: Path | None) -> str:
    credit = report.credit_bytes
    lines = [
        f"{report.images_measured} images measured, {report.images_sized} sized"
        + (f", {report.images_total} in all" if report.images_total is not None else ""),
        f"  models and process     {_size(report.floor_bytes)}",
        f"  highest while probing  {_size(report.peak_bytes)}",
        f"  an image costs         {_size(credit.p50)} at p50, {_size(credit.p90)} at p90, {_size(credit.max)} at most"
        if credit
        else "  an image costs         unknown: none was measured",
        f"  seconds an image       download {report.download_seconds:.2f}, decode {report.decode_seconds:.2f},"
        f" infer {report.infer_seconds:.2f}, post {report.post_seconds:.2f}",
        "",
        f"memory limit: {_size(plan.limit_bytes)} of {_size(plan.cap_bytes)} allowed; expected use"
        f" {_size(plan.target_bytes)}, at most {_size(plan.upper_bytes)}; {plan.images_per_second:.2f} images/s",
        *(f"  because: {reason}" for reason in plan.reasons),
    ]
    if plan.curve:
        lines += ["", "what memory buys:"]
        lines += [f"  {_size(each.limit_bytes):>9}  {each.images_per_second:.2f} images/s" for each in plan.curve]
    lines += ["", f"written to {written}:" if written else "settings (none is needed where `run` tunes itself):"]
    lines += [f"  {name}={value}" for name, value in chosen.items()]
    return "\n".join(lines)


def _size(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
