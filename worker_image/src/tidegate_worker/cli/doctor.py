"""`doctor`: every finding in a line, worst last in the exit code; `--json` for machines."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from tidegate.core.contract import ExitCode
from tidegate_worker.cli.checks import Grade, findings
from tidegate_worker.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def execute(arguments: argparse.Namespace, settings: Settings) -> int:
    found = []
    for each in findings(settings):
        found.append(each)
        if not arguments.json:
            print(f"{each.grade:<4}  {each.subject}: {each.found}", flush=True)
            if each.advice:
                print(f"      -> {each.advice}")
    if arguments.json:
        print(json.dumps([asdict(each) for each in found], indent=1))
    return ExitCode.CONFIGURATION if any(each.grade is Grade.FAIL for each in found) else ExitCode.DONE
