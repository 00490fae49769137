"""The lease queue against a model of it, through any order of reserving, acking, waiting and publishing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tidegate_local.jobserver.database import Database
from tidegate_local.jobserver.leases import LeaseQueue

LEASE_SECONDS, MAX_DELIVER, MAX_ACK_PENDING = 10.0, 2, 6


class LeasesAgainstModel(RuleBasedStateMachine):
    """The model knows each image's deliveries, the end of its lease and whether it was acked."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.db = Database(Path(self.folder.name) / "state.sqlite")
        self.now = 1000.0
        self.queue = LeaseQueue(self.db, clock=lambda: self.now)
        self.db.execute("INSERT INTO projects (name) VALUES ('p')")
        self.db.execute(
            "INSERT INTO jobs (name, project_id, dispatch_mode, status, shuffle, lease_seconds, max_deliver, "
            "max_ack_pending, save_delay_seconds, created_at, updated_at) "
            "VALUES ('j', 1, 'async_api', 'STARTED', 1, ?, ?, ?, 0, 0, 0)",
            LEASE_SECONDS, MAX_DELIVER, MAX_ACK_PENDING,
        )  # fmt: skip
        self.deliveries: dict[int, int] = {}
        self.leased_until: dict[int, float] = {}
        self.acked: set[int] = set()
        self.replies: list[tuple[int, str]] = []

    def teardown(self) -> None:
        self.db.close()
        self.folder.cleanup()

    def deliverable(self) -> tuple[set[int], set[int]]:
        """What may be delivered again, and what for the first time."""
        open_images = set(self.deliveries) - self.acked
        expired = {
            image
            for image in open_images
            if 0 < self.deliveries[image] < MAX_DELIVER and self.leased_until[image] <= self.now
        }
        return expired, {image for image in open_images if self.deliveries[image] == 0}

    @rule(count=st.integers(1, 8), shuffle=st.booleans())
    def publish(self, count: int, shuffle: bool) -> None:
        images = list(range(len(self.deliveries) + 1, len(self.deliveries) + 1 + count))
        self.queue.publish(1, images, shuffle=shuffle)
        self.deliveries |= dict.fromkeys(images, 0)

    @rule(count=st.integers(1, 10))
    def reserve(self, count: int) -> None:
        expired, fresh = self.deliverable()
        out = sum(self.deliveries[image] > 0 for image in set(self.deliveries) - self.acked)
        job = self.db.one("SELECT * FROM jobs")
        assert job is not None
        leases = self.queue.reserve(job, count)
        images = [lease.image_id for lease in leases]
        again = set(images) & expired
        assert len(images) == len(set(images))
        assert set(images) <= expired | fresh
        assert len(again) == min(count, len(expired)), "what expired comes first"
        assert len(images) - len(again) == max(0, min(count - len(again), len(fresh), MAX_ACK_PENDING - out))
        for lease in leases:
            self.deliveries[lease.image_id] += 1
            self.leased_until[lease.image_id] = self.now + LEASE_SECONDS
            assert f"-consumer.{self.deliveries[lease.image_id]}." in lease.reply_subject
            self.replies.append((lease.image_id, lease.reply_subject))

    @precondition(lambda self: self.replies)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        image, reply = data.draw(st.sampled_from(self.replies))
        self.queue.ack(reply)
        self.acked.add(image)

    @rule(reply=st.text(max_size=40))
    def ack_nonsense(self, reply: str) -> None:
        self.queue.ack(reply)

    @rule(seconds=st.sampled_from([1.0, LEASE_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def nothing_is_delivered_more_often_than_allowed(self) -> None:
        assert all(count <= MAX_DELIVER for count in self.deliveries.values())


TestLeasesAgainstModel = LeasesAgainstModel.TestCase
TestLeasesAgainstModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
