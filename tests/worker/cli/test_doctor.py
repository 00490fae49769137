from __future__ import annotations

import json
from pathlib import Path

from tests.worker.cli.shell import worker

ROOT = Path(__file__).parents[3]


def graded(folder: Path, **environment: str) -> tuple[dict[str, dict[str, str]], int]:
    ran = worker("doctor", "--json", folder=folder, environment=environment)
    return {each["subject"]: each for each in json.loads(ran.stdout)}, ran.returncode


def test_a_sound_place_has_no_failure_and_every_subject_is_looked_at(tmp_path: Path) -> None:
    found, code = graded(tmp_path, TIDEGATE_PIPELINES="tidegate_demo")
    assert code == 0
    assert set(found) >= {
        "versions", "settings", "open files", "memory", "staging",
        "answers", "catalogue", "weights", "Antenna", "device",
    }  # fmt: skip
    assert "fail" not in {each["grade"] for each in found.values()}
    assert "torch " in found["versions"]["found"]


def test_what_is_wrong_is_found_and_each_finding_says_what_to_do(tmp_path: Path) -> None:
    found, code = graded(
        tmp_path,
        TIDEGATE_STAGING_DIR="/dev/shm/tidegate",
        TIDEGATE_ANTENNA_URL="http://127.0.0.1:9/api/v2",
        TIDEGATE_ANTENNA_TOKEN="feed",
        TIDEGATE_STAGNG_BYTES="1",
        TIDEGATE_PIPELINES="panama_moths_2024",
    )
    assert code == 78
    assert (found["staging"]["grade"], found["Antenna"]["grade"]) == ("fail", "fail")
    assert "TIDEGATE_STAGING_DIR" in found["staging"]["advice"]
    assert found["settings"]["grade"] == "warn"
    assert "TIDEGATE_STAGING_BYTES" in found["settings"]["found"]
    assert "panama_moths_2024" in found["hashes"]["found"]
    assert "feed" not in json.dumps(found)


def test_a_broken_catalogue_is_one_failure_among_the_other_findings(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("pipelines: {p: {detector: d}}")
    found, code = graded(tmp_path, TIDEGATE_CATALOGUE=str(tmp_path / "own.yaml"))
    assert code == 78
    assert found["catalogue"]["grade"] == "fail"
    assert "pipelines.p.classifier" in found["catalogue"]["found"]
    assert found["device"]["grade"] == "ok"
