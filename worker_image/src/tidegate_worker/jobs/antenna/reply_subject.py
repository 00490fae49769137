"""What a NATS reply subject tells of its delivery; read only, and nothing is trusted to be there.

`$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<timestamp>.<pending>`, and since NATS 2.11 with
`<domain>.<account hash>` after `$JS.ACK` and a random token at the end.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delivery:
    delivered: int = 1
    #: Which message of the stream: the same for every delivery of it; zero where it is not told.
    stream_sequence: int = 0
    #: Rises with every delivery of the consumer; starts anew when the stream is made anew.
    consumer_sequence: int = 0

    @classmethod
    def of(cls, reply_subject: str | None) -> Delivery:
        tokens = (reply_subject or "").split(".")
        if tokens[:2] != ["$JS", "ACK"]:
            return cls()
        counts = tokens[4:] if len(tokens) < 11 else tokens[6:]
        try:
            delivered, stream_sequence, consumer_sequence = (int(token) for token in counts[:3])
        except ValueError:
            return cls()
        return cls(max(1, delivered), stream_sequence, consumer_sequence)
