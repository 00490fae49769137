"""Staging: budgets that hold, files that survive only whole, disks that fill up."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from tidegate.core.contract import KIB, MIB
from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.staging import StagedFile, Staging, StagingFull, file_key, filesystem_of


def writes(size_bytes: int) -> Callable[[BinaryIO], int]:
    def write(sink: BinaryIO) -> int:
        for _ in range(size_bytes // KIB):
            sink.write(bytes(KIB))
        return size_bytes

    return write


def never() -> bool:
    return False


def stored(staging: Staging, key: str, size_bytes: int = 64 * KIB) -> StagedFile:
    file = staging.store(key, writes(size_bytes), never)
    assert file is not None
    return file


def test_a_complete_file_has_its_size_in_its_name_and_a_partial_one_is_gone(tmp_path: Path) -> None:
    staging = Staging(tmp_path, MIB, 4)
    assert stored(staging, "a").path.name == f"a-{64 * KIB}"

    def break_off(sink: BinaryIO) -> int:
        sink.write(bytes(100))
        raise RetryLater("cut")

    with pytest.raises(RetryLater):
        staging.store("b", break_off, never)
    directory = stored(staging, "c").path.parent
    assert sorted(path.name for path in directory.iterdir()) == [f"a-{64 * KIB}", f"c-{64 * KIB}"]


def test_a_fetch_that_starts_over_leaves_one_whole_body(tmp_path: Path) -> None:
    def twice(sink: BinaryIO) -> int:
        sink.write(b"half of it")
        sink.seek(0)
        sink.truncate()
        return sink.write(b"all")

    file = Staging(tmp_path, MIB, 4).store("a", twice, never)
    assert file is not None
    assert file.path.read_bytes() == b"all"
    assert file.size_bytes == 3


def test_no_more_images_are_staged_ahead_than_allowed(tmp_path: Path) -> None:
    staging = Staging(tmp_path, 64 * MIB, 2)
    first = stored(staging, "a")
    stored(staging, "b")
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    assert staging.store("c", writes(KIB), cancelled.is_set) is None
    staging.started(first)
    assert stored(staging, "c").size_bytes


def test_bytes_on_disk_stay_within_the_budget_and_spent_files_make_room(tmp_path: Path) -> None:
    staging = Staging(tmp_path, 20 * MIB, 100)
    files = [stored(staging, str(number), 5 * MIB) for number in range(2)]
    for file in files:
        staging.spent(file)
    more = [stored(staging, f"more-{number}", 5 * MIB) for number in range(3)]
    assert staging.used_bytes <= 20 * MIB
    assert all(file.path.exists() for file in more)
    assert sum(file.path.exists() for file in files) < 2


def test_a_file_that_grows_beyond_the_room_is_given_up_and_fits_later(tmp_path: Path) -> None:
    staging = Staging(tmp_path, 20 * MIB, 100)
    first = stored(staging, "a", 7 * MIB)
    with pytest.raises(StagingFull):
        staging.store("b", writes(18 * MIB), never)
    assert not list(tmp_path.rglob("b*"))
    staging.remove(first)
    assert stored(staging, "b", 18 * MIB).size_bytes == 18 * MIB


def test_a_successor_finds_whole_files_and_nothing_else(tmp_path: Path) -> None:
    staging = Staging(tmp_path, MIB, 4)
    kept = stored(staging, "kept")
    cut = stored(staging, "cut")
    cut.path.write_bytes(b"short")
    (kept.path.parent / "loose.part").write_bytes(b"half")
    other_boot = tmp_path / "another-boot-id"
    other_boot.mkdir()
    (other_boot / f"old-{64 * KIB}").write_bytes(bytes(64 * KIB))
    staging._lock_file.close()

    successor = Staging(tmp_path, MIB, 4)
    assert successor.used_bytes == kept.size_bytes

    def refuse(sink: BinaryIO) -> int:
        raise AssertionError("it was there already")

    found = successor.store("kept", refuse, never)
    assert found is not None
    assert found.found
    assert not stored(successor, "cut").found
    assert not other_boot.exists()
    assert not list(tmp_path.rglob("loose*"))


def test_two_workers_cannot_share_a_directory(tmp_path: Path) -> None:
    first = Staging(tmp_path, MIB, 4)
    with pytest.raises(FixConfig, match="in use by another worker"):
        Staging(tmp_path, MIB, 4)
    first.close()
    Staging(tmp_path, MIB, 4).close()


def test_one_image_under_two_leases_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    staging = Staging(tmp_path, 64 * MIB, 8)
    first = stored(staging, "a")
    threading.Timer(0.3, staging.remove, (first,)).start()
    started_at = time.monotonic()
    assert stored(staging, "a").path.exists()
    assert time.monotonic() - started_at > 0.2


def test_the_key_ignores_signatures_and_tells_images_and_addresses_apart() -> None:
    key = file_key("1", "https://host/a.jpg?X-Signature=1")
    assert key == file_key("1", "https://host/a.jpg?X-Signature=2")
    assert key != file_key("2", "https://host/a.jpg?X-Signature=1")
    assert key != file_key("1", "https://host/b.jpg?X-Signature=1")


def test_a_memory_backed_volume_is_refused() -> None:
    shared = Path("/dev/shm/tidegate-test")
    if not shared.parent.is_dir() or filesystem_of(shared.parent) != "tmpfs":
        pytest.skip("no memory-backed volume here")
    with pytest.raises(FixConfig, match="memory-backed"):
        Staging(shared, MIB, 4)
    shared.rmdir()


def test_a_full_disk_is_a_pause_and_not_an_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, mount = tmp_path / "disk", tmp_path / "mounted"
    mount.mkdir()
    image.write_bytes(b"")
    with image.open("r+b") as file:
        file.truncate(100 * MIB)
    for command in (["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(mount)]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
    try:
        staging = Staging(mount / "staging", 64 * MIB, 8)
        filler = mount / "filler"
        filler.write_bytes(bytes(28 * MIB))
        cancelled = threading.Event()
        threading.Timer(0.5, cancelled.set).start()
        assert staging.store("a", writes(MIB), cancelled.is_set) is None
        assert "staging disk is full" in caplog.text
        filler.unlink()
        assert stored(staging, "a", MIB).size_bytes == MIB
        staging.close()
    finally:
        subprocess.run(["umount", str(mount)], check=True)
