"""The answer log, kills and full disks included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tidegate.core.errors import FixConfig
from tidegate_worker.jobs.antenna.answer_log import AnswerLog, LogBounds, Post

MIB = 1024 * 1024


def opened(directory: Path, bounds: LogBounds | None = None, subjects_good_seconds: float = 300.0) -> AnswerLog:
    return AnswerLog.open(directory, bounds, subjects_good_seconds=subjects_good_seconds)


def append(log: AnswerLog, image: str, body: bytes = b"{}", failed: bool = False) -> Post:
    post = log.append(image, f"subject {image}", 7, failed, [body[:1], body[1:]], 100 * MIB)
    log.sync()
    assert post is not None
    return post


def body(log: AnswerLog, post: Post) -> bytes:
    return b"".join(log.read(post.answer))


def test_what_was_written_is_found_by_a_successor(tmp_path: Path) -> None:
    log = opened(tmp_path)
    first, second = append(log, "a", b"A" * 3_000_000), append(log, "b", b"B", failed=True)
    log.close_posts([first.number])
    log.close()
    log = opened(tmp_path)
    assert [post.answer.image_id for post in log.waiting] == ["b"]
    assert log.waiting[0].reply_subject == "subject b"
    assert log.waiting[0].number == second.number
    kept = log.kept("a")
    assert kept is not None
    assert kept.sequence == 7
    assert body(log, Post(0, kept, "")) == b"A" * 3_000_000
    assert log.kept("b") is not None
    assert log.kept("b").failed  # type: ignore[union-attr]


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    log = opened(tmp_path)
    before = append(log, "a")
    log.close()
    assert append(opened(tmp_path), "b").number > before.number


@pytest.mark.parametrize("cut", [1, 5, 24, 60])
def test_a_torn_tail_is_cut_off_and_the_rest_holds(tmp_path: Path, cut: int) -> None:
    log = opened(tmp_path)
    append(log, "whole", b"x" * 100)
    append(log, "torn", b"y" * 100)
    log.close()
    path = next(tmp_path.glob("answers-*.log"))
    os.truncate(path, path.stat().st_size - cut)
    log = opened(tmp_path)
    assert [post.answer.image_id for post in log.waiting] == ["whole"]
    assert body(log, append(log, "next", b"z")) == b"z"
    log.close()
    assert [post.answer.image_id for post in opened(tmp_path).waiting] == ["whole", "next"]


def test_a_damaged_body_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    log = opened(tmp_path)
    post = append(log, "a", b"x" * 100)
    log.close()
    with next(tmp_path.glob("answers-*.log")).open("r+b") as file:
        file.seek(post.answer.offset + 50)
        file.write(b"!")
    assert opened(tmp_path).waiting == []


def test_a_body_beyond_the_bound_leaves_no_trace(tmp_path: Path) -> None:
    log = opened(tmp_path)
    assert log.append("a", "", 0, False, [b"x" * 60, b"x" * 60], 100) is None
    append(log, "b")
    log.close()
    log = opened(tmp_path)
    assert log.kept("a") is None
    assert [post.answer.image_id for post in log.waiting] == ["b"]


def test_an_answer_is_posted_again_under_another_subject(tmp_path: Path) -> None:
    log = opened(tmp_path)
    first = append(log, "a", b"body")
    log.close_posts([first.number])
    again = log.again(first.answer, "second delivery")
    assert body(log, again) == b"body"
    log.sync()
    log.close()
    waiting = opened(tmp_path).waiting
    assert [(post.number, post.reply_subject) for post in waiting] == [(again.number, "second delivery")]


def test_disk_and_memory_are_bounded_and_what_waits_is_never_deleted(tmp_path: Path) -> None:
    log = opened(tmp_path, LogBounds(segment_bytes=10_000, kept_bytes=40_000, kept_answers=1000))
    waits = append(log, "waits", b"w" * 5000)
    for number in range(100):
        log.close_posts([append(log, str(number), b"x" * 5000).number])
    assert body(log, waits) == b"w" * 5000
    log.close_posts([waits.number])
    assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) < 60_000
    assert log.kept("waits") is None
    assert log.kept("99") is not None


def test_the_number_of_kept_answers_is_bounded_too(tmp_path: Path) -> None:
    log = opened(tmp_path, LogBounds(segment_answers=10, kept_answers=50))
    for number in range(300):
        log.close_posts([append(log, str(number)).number])
    assert sum(log.kept(str(number)) is not None for number in range(300)) <= 60
    assert log.kept("299") is not None


def test_forgotten_subjects_stay_forgotten_and_failures_may_be_tried_anew(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.close_posts([append(log, "failed", failed=True).number, append(log, "done").number])
    post = append(log, "waits")
    log.forget_subjects()
    assert log.current(post.number).reply_subject == ""  # type: ignore[union-attr]
    later = append(log, "later")
    log.close()
    log = opened(tmp_path)
    assert {post.answer.image_id: post.reply_subject for post in log.waiting} == {
        "waits": "",
        "later": later.reply_subject,
    }
    assert log.kept("failed") is None
    assert log.kept("done") is not None


def test_a_subject_older_than_a_lease_is_not_used_by_a_successor(tmp_path: Path) -> None:
    log = opened(tmp_path)
    append(log, "a")
    log.close()
    assert opened(tmp_path, subjects_good_seconds=-1).waiting[0].reply_subject == ""


def test_the_latest_accepted_success_is_found(tmp_path: Path) -> None:
    log = opened(tmp_path)
    assert log.latest_accepted() is None
    log.close_posts([append(log, "a").number, append(log, "bad", failed=True).number])
    append(log, "waits")
    assert log.latest_accepted().image_id == "a"  # type: ignore[union-attr]


def test_a_second_worker_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    log = opened(tmp_path)
    with pytest.raises(FixConfig, match="own"):
        opened(tmp_path)
    log.close()
    opened(tmp_path).close()


def test_a_segment_that_is_deleted_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    log = opened(tmp_path, LogBounds(segment_bytes=1000, kept_bytes=1000))
    post = append(log, "a", os.urandom(3 * MIB))
    reading = log.read(post.answer)
    got = len(next(reading))
    log.close_posts([post.number])
    for number in range(3):
        log.close_posts([append(log, str(number), b"x" * 2000).number])
    assert log.kept("a") is None
    assert got + sum(map(len, reading)) == 3 * MIB


def test_a_full_disk_drops_what_is_kept_and_then_takes_more(tmp_path: Path) -> None:
    """On a real file system of 4 MB, in namespaces of our own."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from tidegate.core.errors import RetryLater
        from tidegate_worker.jobs.antenna.answer_log import AnswerLog
        log = AnswerLog.open(Path(sys.argv[1]) / "log", subjects_good_seconds=300)
        refused = 0
        for number in range(12):
            try:
                post = log.append(str(number), "", 0, False, [b"x" * 1_000_000], 10**9)
            except RetryLater:
                refused += 1
            else:
                log.sync()
                log.close_posts([post.number])
        waits = [log.append("w", "", 0, False, [b"y" * 1_000_000], 10**9)]
        try:
            for _ in range(5):
                waits.append(log.append("w", "", 0, False, [b"y" * 1_000_000], 10**9))
        except RetryLater:
            pass
        assert all(b"".join(log.read(post.answer)) == b"y" * 1_000_000 for post in waits)
        print(refused, len(waits))
        """
    )
    mount = f'mount -t tmpfs -o size=4m tmpfs {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, script], capture_output=True, text=True, timeout=60, check=False
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace of our own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    refused, waiting = map(int, done.stdout.split())
    assert 1 <= refused <= 4
    assert waiting >= 2


def test_a_kill_between_any_two_lines_loses_nothing_that_was_synced(tmp_path: Path) -> None:
    """A writer reports each synced number; it is killed at arbitrary moments, and its successor must find them all."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from tidegate_worker.jobs.antenna.answer_log import AnswerLog, LogBounds
        log = AnswerLog.open(Path(sys.argv[1]), LogBounds(segment_bytes=50_000), subjects_good_seconds=300)
        number = int(sys.argv[2])
        while True:
            number += 1
            log.append(str(number), "s", 0, False, [b"%d," % number * 500, b"end"], 10**9)
            log.sync()
            print(number, flush=True)
        """
    )
    synced = 0
    for kill in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(synced)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(5 + kill * 7):
            synced = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        synced = max([synced, *map(int, writer.stdout.read().split())])
        writer.wait()
        log = opened(tmp_path)
        found = {int(post.answer.image_id): post for post in log.waiting}
        assert set(range(1, synced + 1)) <= set(found)
        for number in (1, synced // 2 or 1, synced):
            assert body(log, found[number]) == b"%d," % number * 500 + b"end"
        synced = max(found)
        log.close()


def test_a_directory_that_cannot_be_written_says_so() -> None:
    with pytest.raises(FixConfig, match="state directory"):
        opened(Path("/proc/nowhere"))
