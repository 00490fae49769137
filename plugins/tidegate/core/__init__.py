"""The policies: what to decide about memory, and the payloads that carry it; no IO, clock, environment or logging."""
