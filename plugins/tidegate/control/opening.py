"""The beginning of a run: from what was asked for to a stored record, and whether to begin at all."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Final

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.run_store import Run, RunStore
from tidegate.adapters.sources import JobCount, JobStanding
from tidegate.control.runs import Request
from tidegate.core.baseline import BaselineKey
from tidegate.core.contract import Source, SourceKind
from tidegate.core.errors import FixConfig, NeedsHuman
from tidegate.core.volume import Judgement, Verdict, judge_volume

#: Before a probe or a run has told the version of a pipeline's weights.
UNKNOWN_VERSION: Final = "unknown"
_LONGEST_URI: Final = 253
_SCHEMES: Final = re.compile(r"(file|https?|s3|gs|gcs|abfs)://")


def source_of(text: str, configuration: Configuration) -> Source:
    """The source that a person named: an Antenna job's number, or the URI of a manifest."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        if not configuration.antenna_url:
            raise FixConfig("an Antenna job was named, but TIDEGATE_ANTENNA_URL is not set")
        return Source(kind=SourceKind.ANTENNA, uri=configuration.antenna_url, job=text)
    if not _SCHEMES.match(text) or "::" in text:
        raise FixConfig(f"{text!r} is neither the number of an Antenna job nor a manifest's URI (file, http, s3, gs)")
    if "?" in text or "@" in text.split("/")[2]:
        raise FixConfig("a manifest's URI must carry no query and no user: it is stored and shown; use a secret")
    if len(text) > _LONGEST_URI:
        raise FixConfig(f"a manifest's URI of {len(text)} characters: give it a shorter place, {_LONGEST_URI} at most")
    # Files of one name in two folders are two jobs: tonight's list must not find last night's answered.
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Source(kind=SourceKind.MANIFEST, uri=text, job=f"{PurePosixPath(text).name[:200]}-{digest}")


def run_id_of(dag_id: str, dag_run_id: str) -> str:
    """Our name of a run in Airflow: its own id is unique within its DAG alone. As long as its column takes."""
    return f"{dag_id}/{dag_run_id}"[:250]


def open_run(
    store: RunStore,
    *,
    run_id: str,
    dag_run_id: str,
    source: Source,
    pipeline: str,
    slots: int,
    request: Request,
    resume_of: str | None,
    now: float,
    configuration: Configuration,
) -> Run:
    """The stored run; a Clear finds the one it made before and goes on with it."""
    if request.cap_bytes is not None and request.cap_bytes > configuration.cap_bytes:
        raise FixConfig(
            f"a cap of {request.cap_bytes} bytes was asked for; the administrator's is {configuration.cap_bytes}"
            " (TIDEGATE_CAP_BYTES)"
        )
    if request.limit_bytes is not None and request.limit_bytes > (request.cap_bytes or configuration.cap_bytes):
        raise FixConfig(f"a first limit of {request.limit_bytes} bytes is above the cap: lower it, or raise the cap")
    if resume_of is not None:
        # People copy the id that Airflow shows, which is the last part of ours.
        before = store.run(resume_of) or store.run(f"{run_id.partition('/')[0]}/{resume_of}")
        if before is None or before.source != source:
            raise FixConfig(f"resume_of names {resume_of}, which is no run of this job; `tidegate runs` lists them")
        resume_of = before.run_id
    versions = (run.model_version for run in store.runs(pipeline=pipeline) if run.model_version != UNKNOWN_VERSION)
    return store.enter_run(
        Run(
            run_id=run_id,
            dag_run_id=dag_run_id,
            source=source,
            pipeline=pipeline,
            model_version=next(versions, UNKNOWN_VERSION),
            slots=slots,
            request=request.to_json(),
            created_at=now,
            resume_of=resume_of,
        )
    )


def judge_input(run: Run, count: JobCount, store: RunStore, now: float) -> Judgement:
    """Whether the job is as large as such jobs are; raises where a person has to look first."""
    if count.standing is JobStanding.CLOSED:
        raise NeedsHuman(
            f"{count.words}: job {run.source.job} is final upstream and serves nothing; retry it there, then clear this"
            " run"
        )
    baseline = store.baseline(baseline_key(run))
    if count.total is None or baseline is None:
        return Judgement(Verdict.UNKNOWN, "no history of this kind of job" if baseline is None else "size not told")
    judgement = judge_volume(count.total, now, baseline.recent)
    if judgement.verdict is not Verdict.UNUSUAL:
        return judgement
    chosen = Request.from_json(run.request).on_volume_anomaly
    action = chosen or ("hold" if run.source.kind is SourceKind.MANIFEST else "alert")
    if action != "alert":
        raise NeedsHuman(
            f"held before the first image: {judgement.reason}. If it is meant to be so, start again with"
            ' on_volume_anomaly = "alert"; if not, mend the list upstream'
        )
    return judgement


def baseline_key(run: Run) -> BaselineKey:
    return BaselineKey(pipeline=run.pipeline, model_version=run.model_version, job_kind=run.source.kind.value)
