"""The store alone: what is kept over a kill, who is told what, and who is cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tidegate_local.podapi.kinds import CONFIG_MAPS, PODS
from tidegate_local.podapi.refusals import Refusal
from tidegate_local.podapi.store import Change, Store, Stored
from tidegate_local.podapi.watching import WatchRequest, watch


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "data": data}


def printed(stored: Stored, _: bool) -> str:
    return stored.text


def request(since: int | None, timeout_seconds: float = 0.05, **options: Any) -> WatchRequest:
    return WatchRequest(CONFIG_MAPS, None, None, since, timeout_seconds, **options)


async def collected(store: Store, asked: WatchRequest) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in watch(store, asked, printed)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "objects.sqlite")
    yield opened
    opened.close()


def test_everything_written_is_there_for_the_next_process_with_a_higher_revision(tmp_path: Path) -> None:
    first = Store(tmp_path / "objects.sqlite")
    first.create(CONFIG_MAPS, config_map("a", x="1"))
    kept = first.create(CONFIG_MAPS, config_map("b"))
    first.delete(CONFIG_MAPS, "default", "a")
    # Not closed: a killed process closes nothing.
    second = Store(tmp_path / "objects.sqlite")
    assert second.find(CONFIG_MAPS, "default", "a") is None
    assert second.find(CONFIG_MAPS, "default", "b") == kept
    assert second.revision > first.revision
    second.close()
    first.close()


def test_a_name_used_again_is_another_object(store: Store) -> None:
    first = store.create(CONFIG_MAPS, config_map("a"))
    store.delete(CONFIG_MAPS, "default", "a")
    second = store.create(CONFIG_MAPS, config_map("a"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]


def test_what_only_the_server_sets_is_not_taken_from_clients(store: Store) -> None:
    given = config_map("a")
    given["metadata"] |= {"uid": "mine", "resourceVersion": "7", "deletionTimestamp": "2020-01-01T00:00:00Z"}
    made = store.create(CONFIG_MAPS, given)["metadata"]
    assert made["uid"] != "mine"
    assert made["resourceVersion"] != "7"
    assert "deletionTimestamp" not in made


def test_a_write_of_an_older_version_is_refused_and_changes_nothing(store: Store) -> None:
    old = store.create(CONFIG_MAPS, config_map("a", x="1"))
    new = store.replace(CONFIG_MAPS, {**old, "data": {"x": "2"}})
    with pytest.raises(Refusal) as refusal:
        store.replace(CONFIG_MAPS, {**old, "data": {"x": "3"}})
    assert refusal.value.code == 409
    assert store.get(CONFIG_MAPS, "default", "a") == new


def test_the_generation_counts_changes_of_the_spec_alone(store: Store) -> None:
    pod = store.create(PODS, {"metadata": {"name": "p", "namespace": "default"}, "spec": {"a": 1}, "status": {}})
    told = store.replace(PODS, {**pod, "status": {"phase": "Running"}})
    changed = store.replace(PODS, {**told, "spec": {"a": 2}})
    assert [each["metadata"]["generation"] for each in (pod, told, changed)] == [1, 1, 2]


def test_a_write_that_changes_nothing_is_told_to_nobody(store: Store) -> None:
    made = store.create(CONFIG_MAPS, config_map("a"))
    heard: list[Change] = []
    store.listen(heard.append)
    store.replace(CONFIG_MAPS, dict(made))
    assert heard == []


def test_a_watch_resumes_where_another_stopped(store: Store) -> None:
    made = store.create(CONFIG_MAPS, config_map("a"))
    since = int(made["metadata"]["resourceVersion"])
    store.replace(CONFIG_MAPS, {**made, "data": {"x": "1"}})
    store.delete(CONFIG_MAPS, "default", "a")
    events = asyncio.run(collected(store, request(since)))
    assert [event["type"] for event in events] == ["MODIFIED", "DELETED"]


def test_the_initial_objects_end_with_a_bookmark_that_says_so(store: Store) -> None:
    store.create(CONFIG_MAPS, config_map("a"))
    added, bookmark = asyncio.run(collected(store, request(None, marks_initial_end=True)))
    assert added["type"] == "ADDED"
    assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_watch_of_an_earlier_life_is_gone(tmp_path: Path) -> None:
    first = Store(tmp_path / "objects.sqlite")
    since = first.revision
    first.close()
    second = Store(tmp_path / "objects.sqlite")
    [event] = asyncio.run(collected(second, request(since)))
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    second.close()


def test_a_watcher_too_slow_to_keep_up_is_told_to_list_again(store: Store) -> None:
    async def slow() -> list[str]:
        lines = watch(store, request(store.revision, timeout_seconds=5), printed)
        reading = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        for number in range(5_000):
            store.create(CONFIG_MAPS, config_map(f"c{number}"))
        types = [json.loads(await reading)["type"]]
        types += [json.loads(line)["type"] async for line in lines]
        return types

    types = asyncio.run(slow())
    assert types[-1] == "ERROR"
    assert types.count("ERROR") == 1
    assert len(types) < 5_000
