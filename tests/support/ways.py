"""What the network may do to whole peer connections: the generators that the properties of the driver share."""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st

from tests.support.virtual import NEVER, Kind, Way

if TYPE_CHECKING:
    from tests.support.virtual import Joined

seeds = st.integers(0, 2**32 - 1)
errnos = st.sampled_from([errno.ENETUNREACH, errno.ECONNREFUSED, errno.EPERM, errno.EAGAIN, errno.ENOBUFS])


def windows(latest: float) -> st.SearchStrategy[tuple[float, float]]:
    """From when until when: mostly never, at times from the start, at times for ever."""
    starts = st.one_of(st.just(0.0), st.floats(0, latest))
    lengths = st.sampled_from([0.05, 1.0, 5.0, math.inf])
    return st.one_of(st.just(NEVER), st.builds(lambda start, length: (start, start + length), starts, lengths))


def ways(latest: float = 3.0) -> st.SearchStrategy[Way]:
    """One direction; its windows open at `latest` if at all. Slow enough that nothing large is computed."""
    fates = st.lists(st.sampled_from([(0.0,), (), (0.0, 0.0), (0.3,), (0.0, 1.0)]), max_size=20)
    return st.builds(
        Way,
        latency=st.sampled_from([0.0, 0.01, 0.1, 0.4]),
        rate=st.just(100_000.0),
        loss=st.sampled_from([0.0, 0.05, 0.3]),
        duplicate=st.sampled_from([0.0, 0.2]),
        jitter=st.sampled_from([0.0, 0.05]),
        dark=windows(latest),
        script=st.one_of(st.just([]), fates),
        unwritable=windows(latest),
        unreadable=windows(latest),
        errno=errnos,
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """The `which`-th datagram of a kind is lost alone; or it arrives, and nothing behind it, in these directions."""

    kind: Kind
    which: int
    directions: tuple[int, ...]
    dark: bool

    def apply(self, both: Joined) -> None:
        chosen = [both.ways[direction] for direction in self.directions]
        if self.dark:
            both.network.darken_behind(self.kind, self.which, both.ways, chosen)
        else:
            both.network.lose(self.kind, self.which, chosen)


faults = st.builds(
    Fault,
    kind=st.sampled_from(Kind),
    which=st.integers(1, 3),
    directions=st.sampled_from([(0,), (1,), (0, 1)]),
    dark=st.booleans(),
)


def some(part: int) -> settings:
    """One in `part` of the examples that the profile in force asks for: an example here is a hundred of a core's."""
    return settings(max_examples=max(1, settings().max_examples // part))
