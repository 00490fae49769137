"""`weights`: bring files of pipelines into the cache ahead of runs, and name the hashes that nobody has pinned yet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from tidegate.core.contract import ExitCode
from tidegate.core.errors import FixConfig
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
        "--write-hashes", type=Path, metavar="FILE", help="trust what is there now: pin it in this catalogue file"
    )
    parser.epilog = """\
examples:
  tidegate-worker weights --pipeline panama_moths_2024
  tidegate-worker weights --pipeline panama_moths_2024 --write-hashes /etc/tidegate/hashes.yaml
      then set TIDEGATE_CATALOGUE=/etc/tidegate/hashes.yaml
"""


def execute(arguments: argparse.Namespace, settings: Settings) -> int:
    from tidegate_worker.models.artifacts import ArtifactCache
    from tidegate_worker.models.catalogue import Catalogue, catalogue_files

    models = settings.models
    catalogue = Catalogue(catalogue_files(models.catalogue_places), models.weights_base)
    cache = ArtifactCache(models.cache_dir)
    slugs = arguments.pipeline or models.pipelines or catalogue.slugs
    artifacts = {each.location: each for slug in slugs for each in catalogue.artifacts(slug)}
    unpinned = {}
    for each in artifacts.values():
        if each.sha256 is None:
            unpinned[each.location] = cache.fetch(each)
        else:
            cache.path(each)
    print(f"{len(artifacts)} files in {models.cache_dir}, {len(artifacts) - len(unpinned)} of them pinned")
    if not unpinned:
        return ExitCode.DONE
    if arguments.write_hashes:
        pin(arguments.write_hashes, unpinned)
        print(f"pinned in {arguments.write_hashes}; name it in TIDEGATE_CATALOGUE")
        return ExitCode.DONE
    print(
        "nobody has told these hashes; put them into a file named by TIDEGATE_CATALOGUE if you trust them:",
        file=sys.stderr,
    )
    print(yaml.safe_dump({"sha256": unpinned}, sort_keys=True), end="")
    return ExitCode.CONFIGURATION


def pin(path: Path, found: dict[str, str]) -> None:
    """Add hashes to a catalogue file that holds nothing else, so that no comment of a person is lost."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    known = content.get("sha256", {}) if isinstance(content, dict) else {}
    if content is not None and (not isinstance(content, dict) or set(content) - {"sha256"}):
        raise FixConfig(f"{path} holds more than hashes: write them to a file of their own")
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(yaml.safe_dump({"sha256": known | found}, sort_keys=True), encoding="utf-8")
    aside.replace(path)
