"""How a pod's end is judged: a row for each thing that a cluster has been seen to say."""

from __future__ import annotations

import pytest

from tidegate.core.contract import GIB, MIB, Character, ExitCode, JournalEntry, Suspect, TripCause, WorkerReport
from tidegate.core.slot import End
from tidegate.core.verdict import PodEvidence, judge, memory_trip, struck


def report(**fields: object) -> WorkerReport:
    return WorkerReport(**{"run_id": "r", "slot": 0, "generation": 1, "phase": "running", **fields})  # type: ignore[arg-type]


FINISHED = report(phase="finished", exit_code=ExitCode.DONE, reason="all answered")

ENDS = [
    ("done", PodEvidence("p", exit_code=0, container_reason="Completed"), FINISHED, End.FINISHED),
    ("drained", PodEvidence("p", exit_code=75, pod_reason="DeadlineExceeded"), None, End.DRAINED),
    ("data", PodEvidence("p", exit_code=65), None, End.FAILURE_BUDGET_SPENT),
    ("upstream", PodEvidence("p", exit_code=69), None, End.UPSTREAM_UNAVAILABLE),
    ("configuration", PodEvidence("p", exit_code=78), None, End.CONFIGURATION),
    ("OOM", PodEvidence("p", exit_code=137, container_reason="OOMKilled"), report(), End.MEMORY),
    (
        "OOM of a child while PID 1 exits 0",
        PodEvidence("p", exit_code=0, container_reason="OOMKilled"),
        report(),
        End.MEMORY,
    ),
    (
        "OOM of a stray child after the last word",
        PodEvidence("p", exit_code=0, container_reason="OOMKilled"),
        FINISHED,
        End.FINISHED,
    ),
    (
        "OOM while it drained",
        PodEvidence("p", exit_code=137, container_reason="OOMKilled", was_told_to_end=True),
        report(),
        End.MEMORY,
    ),
    ("grace ran out", PodEvidence("p", exit_code=137, pod_reason="DeadlineExceeded"), report(), End.DRAINED),
    ("ended before its handler stood", PodEvidence("p", exit_code=143, was_told_to_end=True), None, End.DRAINED),
    ("killed by others", PodEvidence("p", exit_code=137), report(), End.INFRASTRUCTURE),
    ("evicted", PodEvidence("p", exit_code=137, pod_reason="Evicted"), report(), End.INFRASTRUCTURE),
    ("evicted with an OOM of the node", PodEvidence("p", pod_reason="Evicted"), report(), End.INFRASTRUCTURE),
    (
        "node restarted",
        PodEvidence("p", exit_code=137, container_reason="ContainerStatusUnknown"),
        None,
        End.INFRASTRUCTURE,
    ),
    ("segmentation fault", PodEvidence("p", exit_code=139), report(), End.CRASHED),
    ("abort", PodEvidence("p", exit_code=134), report(), End.CRASHED),
    ("an exception at import", PodEvidence("p", exit_code=1), None, End.CRASHED),
    ("no image", PodEvidence("p", waiting_reason="ImagePullBackOff"), None, End.INFRASTRUCTURE),
    ("no secret", PodEvidence("p", waiting_reason="CreateContainerConfigError"), None, End.CONFIGURATION),
    ("no such command", PodEvidence("p", exit_code=128, container_reason="StartError"), None, End.CONFIGURATION),
    ("no node", PodEvidence("p", waiting_reason="Unschedulable"), None, End.INFRASTRUCTURE),
    ("gone", PodEvidence("p", exists=False), None, End.INFRASTRUCTURE),
]


@pytest.mark.parametrize(("evidence", "last_words", "end"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
def test_an_end_is_judged_by_reason_first_and_exit_code_second(
    evidence: PodEvidence, last_words: WorkerReport | None, end: End
) -> None:
    assert judge(evidence, last_words).end is end


def test_the_cluster_s_own_words_are_passed_on() -> None:
    words = 'Usage of EmptyDir volume "staging" exceeds the limit "20Gi".'
    assert words in judge(PodEvidence("p", exit_code=137, pod_reason="Evicted", message=words), None).detail


def test_only_memory_kills_and_native_crashes_make_suspects() -> None:
    suspicious = {row[0] for row in ENDS if judge(row[1], row[2]).makes_suspects}
    assert suspicious == {
        "OOM",
        "OOM of a child while PID 1 exits 0",
        "OOM while it drained",
        "segmentation fault",
        "abort",
    }


def test_each_image_in_flight_gets_one_strike_and_keeps_its_reply_subject() -> None:
    last_words = report(in_flight=(JournalEntry(image_id="a", reply_subject="s"), JournalEntry(image_id="b")))
    first = struck(last_words, [])
    assert [(each.image_id, each.strikes, each.strikes_alone, each.reply_subject) for each in first] == [
        ("a", 1, 0, "s"),
        ("b", 1, 0, None),
    ]
    alone = report(in_flight=(JournalEntry(image_id="a", alone=True),))
    assert struck(alone, first) == (Suspect(image_id="a", reply_subject="s", strikes=2, strikes_alone=1),)


def test_a_strike_among_entries_that_the_journal_had_to_omit_is_not_counted_as_alone() -> None:
    crowded = report(in_flight=(JournalEntry(image_id="a", alone=True),), in_flight_omitted=3)
    assert struck(crowded, [])[0].strikes_alone == 0


def test_a_kill_without_last_words_strikes_nobody() -> None:
    assert struck(None, [Suspect(image_id="a")]) == ()


@pytest.mark.parametrize(
    ("last_words", "character"),
    [
        (report(floor_bytes=400 * MIB, peak_bytes=GIB, growth_bytes_per_image=MIB, acked=600), Character.LEAK),
        (report(floor_bytes=400 * MIB, peak_bytes=GIB, growth_bytes_per_image=1024, acked=600), Character.LOAD),
        (None, Character.UNKNOWN),
    ],
)
def test_a_kill_is_a_leak_where_growth_per_image_explains_most_of_what_was_used(
    last_words: WorkerReport | None, character: Character
) -> None:
    trip = memory_trip(last_words, run_id="r", slot=0, generation=1, pod_uid="u", limit_bytes=GIB, at=1.0)
    assert trip.cause is TripCause.OOM
    assert trip.character is character
    assert trip.peak_bytes == GIB
