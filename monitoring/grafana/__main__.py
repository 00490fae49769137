"""Writes monitoring/dashboards/*.json from the views; Grafana, the chart and docker-compose take them as they are.

.venv/control/bin/python -m monitoring.grafana            # write
.venv/control/bin/python -m monitoring.grafana --check    # exit 1 where a file is not current
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from monitoring.grafana import baseline_view, fleet_view, run_view

FOLDER: Final = Path(__file__).parents[1] / "dashboards"


def dashboards() -> dict[str, str]:
    """The text of each file, by its name."""
    views = {
        run_view.UID: run_view.run_view(),
        fleet_view.UID: fleet_view.fleet_view(),
        baseline_view.UID: baseline_view.baseline_view(),
    }
    return {
        f"{uid}.json": JSONEncoder(sort_keys=True, indent=2).encode(view.build()) + "\n" for uid, view in views.items()
    }


def main() -> int:
    options = argparse.ArgumentParser(description="Write the Grafana dashboards.")
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is not current")
    check = options.parse_args().check
    stale = []
    for name, text in dashboards().items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"not current: {', '.join(stale)}; run python -m monitoring.grafana", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
