"""A home for Airflow that nobody else uses; import it before anything of Airflow, which reads its home once."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import Final

_home = tempfile.TemporaryDirectory(prefix="tidegate-airflow-")
HOME: Final = Path(_home.name)
os.environ["AIRFLOW_HOME"] = _home.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(Path(__file__).parents[1] / "plugins")
os.environ["AIRFLOW__API_AUTH__JWT_SECRET"] = secrets.token_hex(64)
