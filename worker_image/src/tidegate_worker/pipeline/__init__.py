"""The runtime under the stages: leases, queues, byte credits, the gate and the drain; nothing of HTTP or decoders."""
