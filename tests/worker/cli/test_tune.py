from __future__ import annotations

import json
import stat
from pathlib import Path

from tests.worker.cli.shell import worker

from tidegate.core.contract import MIB, Plan, ProbeReport, Quantiles, Source, SourceKind
from tidegate_worker.cli.tune import write_env


def report() -> ProbeReport:
    size = 151.0 * MIB
    return ProbeReport(
        run_id="run-1",
        source=Source(kind=SourceKind.ANTENNA, uri="http://h/api/v2", job="88"),
        pipeline="panama_moths_2024",
        model_version="1",
        images_measured=16,
        images_sized=16,
        images_total=914,
        decoded_bytes=Quantiles(p50=38e6, p90=38e6, p99=38e6, max=38e6),
        credit_bytes=Quantiles(p50=size, p90=size, p99=size, max=size),
        file_bytes=Quantiles(p50=22e6, p90=23e6, p99=24e6, max=24e6),
        floor_bytes=900 * MIB,
        peak_bytes=1100 * MIB,
        download_seconds=0.8,
        decode_seconds=0.2,
        infer_seconds=0.5,
        cores=4.0,
        acked=16,
        duration_seconds=20.0,
    )


def test_settings_are_recommended_from_a_report_with_their_mathematics(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report().to_json())
    told = worker("tune", "--report", "report.json", folder=tmp_path, environment={"TIDEGATE_CAP_BYTES": "8GiB"})
    assert told.returncode == 0
    assert "TIDEGATE_BUDGET_BYTES=" in told.stdout
    assert "within 0.70 of the limit" in told.stdout
    assert "what memory buys:" in told.stdout


def test_what_a_person_has_set_stands_in_the_recommendation(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report().to_json())
    told = worker(
        "tune",
        "--report",
        "report.json",
        "--json",
        folder=tmp_path,
        environment={"TIDEGATE_CAP_BYTES": "8GiB", "AMI_ANTENNA_API_BATCH_SIZE": "3"},
    )
    plan = Plan.from_json(told.stdout)
    assert plan.ingest.lease_images == 3
    assert plan.limit_bytes <= plan.cap_bytes == 8 * 1024 * MIB


def test_the_written_file_sets_what_was_recommended_and_keeps_all_else(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report().to_json())
    env = tmp_path / "own.env"
    env.write_text("# mine\nAMI_NUM_WORKERS=1\nexport TIDEGATE_LEASE_IMAGES=500\nTIDEGATE_ANTENNA_TOKEN=feed\n")
    env.chmod(0o600)
    told = worker("tune", "--report", "report.json", "--write-env", "own.env", folder=tmp_path)
    assert told.returncode == 0
    lines = env.read_text().splitlines()
    assert lines[:2] == ["# mine", "AMI_NUM_WORKERS=1"]
    assert "TIDEGATE_ANTENNA_TOKEN=feed" in lines
    assert "export TIDEGATE_LEASE_IMAGES=500" not in lines
    assert len([line for line in lines if line.startswith("TIDEGATE_LEASE_IMAGES=")]) == 1
    assert stat.S_IMODE(env.stat().st_mode) == 0o600


def test_writing_twice_changes_nothing(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    write_env(env, {"TIDEGATE_LEASE_IMAGES": "4"})
    before = env.read_text()
    write_env(env, {"TIDEGATE_LEASE_IMAGES": "4"})
    assert env.read_text() == before == "TIDEGATE_LEASE_IMAGES=4\n"
    assert list(tmp_path.iterdir()) == [env]


def test_a_report_of_another_version_is_refused_by_its_field(tmp_path: Path) -> None:
    content = json.loads(report().to_json()) | {"schema_version": 99}
    (tmp_path / "report.json").write_text(json.dumps(content))
    told = worker("tune", "--report", "report.json", folder=tmp_path)
    assert told.returncode == 78
    assert "ProbeReport.schema_version" in told.stderr
