"""One channel between two SCTP cores in memory: no network, no loss, no DTLS; one CPU does the work of both ends."""

from __future__ import annotations

from random import Random
from time import process_time

from triosfu.sctp.core import Association, Message

HIGH_WATER = 1 << 20
BATCH = 32  # datagrams that a driver reads before it drains a core


def deliver(source: Association, destination: Association, now: float) -> int:
    """Carry all that `source` has to send; returns the number of datagrams."""
    datagrams = source.datagrams_to_send()
    for at in range(0, len(datagrams), BATCH):
        for datagram in datagrams[at : at + BATCH]:
            destination.receive_datagram(datagram, now)
    return len(datagrams)


def bench_memory(message_size: int, total: int) -> float:
    """Mbit of user data from one end to the other, for each second of CPU time."""
    sender, receiver = Association(now=0.0, rng=Random(1)), Association(now=0.0, rng=Random(2))
    sender.connect(0.0)
    receiver.connect(0.0)
    message = bytes(message_size)
    now = received = sent = 0.0
    started = process_time()
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
    return received * 8 / (process_time() - started) / 1e6
