#!/usr/bin/env python3
"""Draws the breaker's table into docs/breaker.md: a Mermaid diagram and every row; the prose around them stays.

.venv/control/bin/python docs/generate/breaker_diagram.py            # write
.venv/control/bin/python docs/generate/breaker_diagram.py --check    # exit 1 where the file is not current
"""

from __future__ import annotations

import argparse
import sys
from itertools import groupby
from pathlib import Path
from typing import Final

from tidegate.core.answers import Answer
from tidegate.core.breaker import TABLE
from tidegate.core.slot import TERMINAL, Phase

PAGE: Final = Path(__file__).parents[1] / "breaker.md"
BEGIN: Final = "<!-- drawn from the table by docs/generate/breaker_diagram.py: begin -->"
END: Final = "<!-- drawn from the table by docs/generate/breaker_diagram.py: end -->"


def rows() -> list[tuple[Phase, str, Answer, Phase]]:
    """The table flat: phase, event, answer, next phase."""
    return [
        (phase, event.__name__, answer, after) for (phase, event), row in TABLE.items() for answer, after in row.items()
    ]


def group(phase: Phase) -> str:
    """The textbook state that a phase belongs to."""
    return {
        "closed": "CLOSED",
        "open": "OPEN",
        "half": "HALF_OPEN",
        "locking": "LOCKED_OUT",
        "locked": "LOCKED_OUT",
    }.get(phase.split("_")[0], "DONE")


def label(event: str, answer: Answer) -> str:
    return event if answer is Answer.ONWARD else f"{event} [{answer.replace('_', ' ')}]"


def diagram() -> str:
    """One arrow for each pair of phases, with every event that takes it; rows that stay where they are have none."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.CLOSED_WAITING}"]
    for name, phases in groupby(Phase, key=group):
        members = list(phases)
        if len(members) == 1:
            continue
        lines += [f'    state "{name}" as {name} {{', *(f"        {phase}" for phase in members), "    }"]
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for phase, event, answer, after in rows():
        if phase is not after:
            arrows.setdefault((phase, after), []).append(label(event, answer))
    lines += [f"    {before} --> {after}: {', '.join(labels)}" for (before, after), labels in arrows.items()]
    lines += [f"    {phase} --> [*]" for phase in Phase if phase in TERMINAL]
    return "\n".join(lines)


def table() -> str:
    head = ["| In | when | answered by | then |", "|---|---|---|---|"]
    return "\n".join(
        head + [f"| `{before}` | {event} | {answer} | `{after}` |" for before, event, answer, after in rows()]
    )


def page(text: str) -> str:
    """`text` with what stands between the marks drawn anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"{PAGE}: the marks '{BEGIN}' and '{END}' must both stand in it")
    return f"{before}{BEGIN}\n\n```mermaid\n{diagram()}\n```\n\n{table()}\n\n{END}{after}"


def main() -> int:
    options = argparse.ArgumentParser(description="Draw the breaker's table into docs/breaker.md.")
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is not current")
    check = options.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    drawn = page(text)
    if check and drawn != text:
        print(f"{PAGE} is not drawn from the present table: run docs/generate/breaker_diagram.py", file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
