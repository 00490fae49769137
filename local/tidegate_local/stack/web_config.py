"""`tidegate-local web-config`: the file that makes a Prometheus or Alertmanager elsewhere ask for a password."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from tidegate.core.errors import FixConfig
from tidegate_local.stack.metrics_config import USER, web_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--password-file", type=Path, required=True, help=f"file with the password of {USER}")
    parser.add_argument("--to", type=Path, required=True, help="file to write; it holds a hash, not the password")


def run(arguments: argparse.Namespace) -> int:
    try:
        password = arguments.password_file.read_text().strip()
    except OSError as error:
        raise FixConfig(f"{arguments.password_file} cannot be read ({error.strerror})") from None
    draft = arguments.to.with_suffix(".draft")
    draft.write_text(yaml.safe_dump(web_config(password)))
    draft.replace(arguments.to)
    return 0
