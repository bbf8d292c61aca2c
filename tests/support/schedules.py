"""What the network may do to two associations: the generators that the properties share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from tests.support.network import Network, Path
from triosfu.sctp.core import Association
from triosfu.sctp.wire import PACKET_HEADER_SIZE, ChunkType

if TYPE_CHECKING:
    from collections.abc import Callable

seeds = st.integers(0, 2**32 - 1)
near_the_wrap = st.one_of(seeds, st.integers(2**32 - 50, 2**32 - 1))
mtus = st.sampled_from([1191, 1191, 1500, 20_000])
bad_paths = st.builds(Path, loss=st.floats(0, 0.2), duplicate=st.floats(0, 0.3), jitter=st.floats(0, 0.2), mtu=mtus)
tight_windows = st.sampled_from([0, 1, 1190])  # closed, one byte, and one less than the MTU
chunk_types = st.sampled_from(sorted(ChunkType))
HANDSHAKE = (ChunkType.INIT, ChunkType.INIT_ACK, ChunkType.COOKIE_ECHO, ChunkType.COOKIE_ACK)


def holds(data: bytes, kind: int) -> bool:
    """Has the packet a chunk of this type?"""
    at = PACKET_HEADER_SIZE
    while at + 4 <= len(data):
        if data[at] == kind:
            return True
        at += max(4, (int.from_bytes(data[at + 2 : at + 4], "big") + 3) & ~3)
    return False


def lose(kind: int, which: int) -> Callable[[bytes, float], bool]:
    """For `Path.swallow`: only the `which`-th packet with a chunk of this type is lost; the first is 1."""
    seen = 0

    def swallow(data: bytes, _now: float) -> bool:
        nonlocal seen
        if not holds(data, kind):
            return False
        seen += 1
        return seen == which

    return swallow


def darken_behind(network: Network, kind: int, which: int, directions: tuple[int, ...]) -> None:
    """A black hole in these directions from when the `which`-th packet with a chunk of this type has been sent."""
    seen = 0

    def swallow(data: bytes, now: float) -> bool:
        nonlocal seen
        if holds(data, kind):
            seen += 1
            if seen == which:
                for direction in directions:
                    network.paths[direction].dark = (math.nextafter(now, math.inf), math.inf)
        return False

    network.paths[0].swallow = network.paths[1].swallow = swallow


def both(network: Network) -> tuple[Association, Association]:
    """The two ends, of a network of associations."""
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    return left, right
