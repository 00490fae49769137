#!/usr/bin/env python3
"""Writes the table of helm/tidegate/README.md from the comments of the chart's values.yaml; the prose around it stays.

A comment that begins with `# --` describes the key beneath it and all that it holds.

.venv/control/bin/python docs/generate/chart_values.py            # write
.venv/control/bin/python docs/generate/chart_values.py --check    # exit 1 where the file is not current
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

CHART: Final = Path(__file__).parents[2] / "helm" / "tidegate"
PAGE: Final = CHART / "README.md"
VALUES: Final = CHART / "values.yaml"
BEGIN: Final = "<!-- made by docs/generate/chart_values.py: begin -->"
END: Final = "<!-- made by docs/generate/chart_values.py: end -->"
MARK: Final = "# --"


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Key, default and description of every value, in the order of the file; one without description is an error."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise TypeError("values.yaml must be a mapping")
    yield from _rows(root, (), text.splitlines())


def _rows(mapping: yaml.MappingNode, above: tuple[str, ...], lines: list[str]) -> Iterator[tuple[str, str, str]]:
    for key, value in mapping.value:
        path = (*above, key.value)
        described = _description(lines, key.start_mark.line)
        if described is not None:
            shown = json.dumps(yaml.SafeLoader("").construct_document(value), ensure_ascii=False)
            yield ".".join(path), shown, described
        elif isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            yield from _rows(value, path, lines)
        else:
            raise ValueError(f"values.yaml: nothing describes {'.'.join(path)}; write `{MARK} ...` above it")


def _description(lines: list[str], at: int) -> str | None:
    comment: list[str] = []
    for line in reversed(lines[:at]):
        if not line.strip().startswith("#"):
            break
        comment.insert(0, line.strip())
    starts = [index for index, line in enumerate(comment) if line.startswith(MARK)]
    if not starts:
        return None
    first, *rest = comment[starts[-1] :]
    return " ".join([first.removeprefix(MARK).strip(), *(line.removeprefix("#").strip() for line in rest)])


def table() -> str:
    lines = ["| value | default | what it controls |", "|---|---|---|"]
    lines += [
        f"| `{key}` | `{default}` | {description.replace('|', chr(92) + '|')} |"
        for key, default, description in rows(VALUES.read_text(encoding="utf-8"))
    ]
    return "\n".join(lines)


def page() -> str:
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n\n{table()}\n\n{END}", PAGE.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the page is not current")
    if parser.parse_args().check:
        if page() != PAGE.read_text(encoding="utf-8"):
            print(f"{PAGE.name} is not current: run docs/generate/chart_values.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
