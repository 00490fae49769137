#!/usr/bin/env python3
"""Writes the tables of docs/settings.md from the worker's settings; the prose around them stays.

.venv/worker/bin/python docs/generate/settings_table.py            # write
.venv/worker/bin/python docs/generate/settings_table.py --check    # exit 1 where the file is not current
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from pathlib import Path
from typing import Final

from pydantic import ByteSize, SecretStr

from tidegate.core.contract import GIB, MIB
from tidegate_worker.environment import Group, names_of
from tidegate_worker.settings import GROUPS, WITHOUT_EFFECT

PAGE: Final = Path(__file__).parents[1] / "settings.md"
BEGIN: Final = "<!-- made by docs/generate/settings_table.py: begin -->"
END: Final = "<!-- made by docs/generate/settings_table.py: end -->"


def tables() -> str:
    return "\n\n".join([*map(table, GROUPS), without_effect()])


def table(group: type[Group]) -> str:
    """A heading from the first sentence of the group, the rest of its docstring, and a row a field."""
    heading, _, rest = inspect.cleandoc(group.__doc__ or "").partition(".")
    lines = [f"## {heading}", ""]
    if rest.strip():
        lines += [rest.strip(), ""]
    lines += ["| variable | default | what it controls |", "|---|---|---|"]
    for name, field in group.model_fields.items():
        variables = ", ".join(f"`{variable}`" for variable in names_of(group, name))
        lines.append(f"| {variables} | {shown(field.default)} | {field.description} |")
    return "\n".join(lines)


def shown(value: object) -> str:
    if value is None or value in ("", (), frozenset()) or isinstance(value, SecretStr):
        return ""
    if isinstance(value, ByteSize):
        size = int(value)
        return f"`{size // GIB}GiB`" if size and size % GIB == 0 else f"`{size // MIB}MiB`" if size else "`0`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def without_effect() -> str:
    rows = [f"| `{name}` | {why} |" for name, why in WITHOUT_EFFECT.items()]
    heading = ["## Names of the peer without effect", "", "Accepted, and said once when set.", ""]
    return "\n".join([*heading, "| variable | why |", "|---|---|", *rows])


def page() -> str:
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n\n{tables()}\n\n{END}", PAGE.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the page is not current")
    if parser.parse_args().check:
        if page() != PAGE.read_text(encoding="utf-8"):
            print(f"{PAGE.name} is not current: run docs/generate/settings_table.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
