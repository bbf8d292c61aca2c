"""Throughput of one reliable, ordered channel between two SCTP cores in memory: prints Mbit/s per message size.

No network, no loss, no DTLS: one CPU does the work of both ends. Run: python bench/sctp.py [megabytes]
"""

from __future__ import annotations

import sys
from random import Random
from time import perf_counter

from triosfu.sctp.core import Association, Message

HIGH_WATER = 1 << 20
BATCH = 32  # datagrams that a driver reads before it drains a core


def deliver(source: Association, destination: Association, now: float) -> int:
    datagrams = source.datagrams_to_send()
    for at in range(0, len(datagrams), BATCH):
        for datagram in datagrams[at : at + BATCH]:
            destination.receive_datagram(datagram, now)
    return len(datagrams)


def bench_channel(message_size: int, total: int) -> float:
    """Mbit/s of user data from one end to the other."""
    sender, receiver = Association(now=0.0, rng=Random(1)), Association(now=0.0, rng=Random(2))
    sender.connect(0.0)
    receiver.connect(0.0)
    message = bytes(message_size)
    now = received = sent = 0.0
    started = perf_counter()
    while received < total:
        while sent < total and sender.buffered(0) < HIGH_WATER:
            sender.send(0, message, ppid=53, now=now)
            sent += message_size
        moved = deliver(sender, receiver, now) + deliver(receiver, sender, now)
        received += sum(len(event.data) for event in receiver.events() if isinstance(event, Message))
        if not moved:  # only a delayed SACK is missing
            now = max(now, min(sender.next_timeout(), receiver.next_timeout()))
            sender.handle_timeout(now)
            receiver.handle_timeout(now)
    return received * 8 / (perf_counter() - started) / 1e6


def main() -> None:
    total = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 20_000_000
    for size in (100, 1_000, 16_000, 200_000):
        best = max(bench_channel(size, total if size > 100 else total // 8) for _ in range(3))
        print(f"sctp channel, {size:>6} byte messages: {best:8.1f} Mbit/s")


if __name__ == "__main__":
    main()
