"""The job stream: which task may be handed out now, and what an ack on a reply subject does.

Follows NATS JetStream with a durable pull consumer and explicit acks, as Antenna sets it up: an expired lease is handed
out again before anything new, `max_deliver` times in all, and is then dead without a signal; a dead task still counts
against `max_ack_pending`; an ack names a stream and a sequence number only, so that after a stream's name is used again
an old reply subject acks whatever now has that number.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from tidegate_local.jobserver.database import Database, Row

_REPLY_SUBJECT = re.compile(r"\$JS\.ACK\.job_(\d+)\.[^.]+\.\d+\.(\d+)\.\d+\.\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Lease:
    """One task handed out."""

    image_id: int
    published_at: float
    reply_subject: str


class LeaseQueue:
    """The streams of all jobs."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    def publish(self, job_id: int, image_ids: list[int], *, shuffle: bool) -> None:
        """Append one message an image, creating the stream where there is none; an existing one is not purged."""
        first = self._db.scalar("SELECT coalesce(stream_next_seq, 1) FROM jobs WHERE id = ?", job_id)
        ordered = random.sample(image_ids, len(image_ids)) if shuffle else image_ids
        now = self._clock()
        self._db.execute_many(
            "INSERT INTO messages (job_id, seq, image_id, published_at) VALUES (?, ?, ?, ?)",
            [(job_id, first + offset, image_id, now) for offset, image_id in enumerate(ordered)],
        )
        self._db.execute("UPDATE jobs SET stream_next_seq = ? WHERE id = ?", first + len(ordered), job_id)

    def delete_stream(self, job_id: int) -> None:
        """Forget the stream; the next one of this job starts at sequence number 1 under the same name."""
        self._db.execute("DELETE FROM messages WHERE job_id = ?", job_id)
        self._db.execute("UPDATE jobs SET stream_next_seq = NULL, consumer_next_seq = 1 WHERE id = ?", job_id)

    def reserve(self, job: Row, count: int) -> list[Lease]:
        """Lease up to `count` tasks of `job`: the expired first, then new ones while the consumer's bound allows."""
        job_id, now = job["id"], self._clock()
        expired = self._db.all(
            "SELECT seq, image_id, published_at, delivered FROM messages WHERE job_id = ? AND leased_until <= ? "
            "AND delivered > 0 AND acked = 0 AND delivered < ? ORDER BY leased_until, seq LIMIT ?",
            job_id, now, job["max_deliver"], count,
        )  # fmt: skip
        outstanding = self._db.scalar(
            "SELECT count(*) FROM messages WHERE job_id = ? AND delivered > 0 AND acked = 0", job_id
        )
        room = max(0, min(count - len(expired), job["max_ack_pending"] - outstanding))
        fresh = self._db.all(
            "SELECT seq, image_id, published_at, delivered FROM messages "
            "WHERE job_id = ? AND delivered = 0 AND acked = 0 ORDER BY seq LIMIT ?",
            job_id, room,
        )  # fmt: skip
        chosen = expired + fresh
        if not chosen:
            return []
        waiting = self._db.scalar(
            "SELECT count(*) FROM messages WHERE job_id = ? AND delivered = 0 AND acked = 0", job_id
        )
        consumer_seq = self._db.scalar("SELECT consumer_next_seq FROM jobs WHERE id = ?", job_id)
        until = now + job["lease_seconds"]
        leases: list[Lease] = []
        for offset, message in enumerate(chosen):
            delivered = message["delivered"] + 1
            waiting -= delivered == 1
            leases.append(
                Lease(
                    image_id=message["image_id"],
                    published_at=message["published_at"],
                    reply_subject=f"$JS.ACK.job_{job_id}.job-{job_id}-consumer.{delivered}.{message['seq']}"
                    f".{consumer_seq + offset}.{int(message['published_at'] * 1e9)}.{waiting}",
                )
            )
        self._db.execute_many(
            "UPDATE messages SET delivered = delivered + 1, leased_until = ? WHERE job_id = ? AND seq = ?",
            [(until, job_id, message["seq"]) for message in chosen],
        )
        self._db.execute_many(
            "INSERT INTO deliveries (job_id, image_id, reply_subject, delivered, at, leased_until) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [
                (job_id, lease.image_id, lease.reply_subject, message["delivered"] + 1, now, until)
                for lease, message in zip(leases, chosen, strict=True)
            ],
        )
        self._db.execute("UPDATE jobs SET consumer_next_seq = ? WHERE id = ?", consumer_seq + len(chosen), job_id)
        return leases

    def ack(self, reply_subject: str) -> None:
        """Take the message out of the queue; a made-up subject, a dead or a deleted message is accepted in silence."""
        if match := _REPLY_SUBJECT.fullmatch(reply_subject):
            self._db.execute("UPDATE messages SET acked = 1 WHERE job_id = ? AND seq = ?", int(match[1]), int(match[2]))
