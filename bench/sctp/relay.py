"""A wire between two peers that takes its time and loses some: `python -m bench.sctp.relay DELAY LOSS`.

DELAY is seconds one way, LOSS a share of the datagrams, each way. It writes the two ports that it stands at, and reads
the two that the peers have: what comes in at its first port goes to the second peer, from the second port, and back.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque
from random import Random

from bench.sctp.wire import hear, tell

HOST = "127.0.0.1"
SIZE = 65_535
BATCH = 64


def port() -> socket.socket:
    """A socket with room for a burst."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    sock.bind((HOST, 0))
    sock.setblocking(False)
    return sock


def main(delay: float, loss: float) -> None:
    """Carry until killed."""
    ends = port(), port()
    tell(ports=[end.getsockname()[1] for end in ends])
    peers = [(HOST, number) for number in hear()["ports"]]
    rng = Random(1)
    ways: tuple[deque[tuple[float, bytes]], ...] = deque(), deque()  # from an end to the other one's peer
    while True:
        due = min((way[0][0] for way in ways if way), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select(ends, (), (), wait)
        now = time.monotonic()
        for end in readable:
            way = ways[ends.index(end)]
            try:
                for _ in range(BATCH):
                    data = end.recv(SIZE)
                    if rng.random() >= loss:
                        way.append((now + delay, data))
            except BlockingIOError:
                pass
        for number, way in enumerate(ways):
            while way and way[0][0] <= now:
                ends[1 - number].sendto(way.popleft()[1], peers[1 - number])


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
