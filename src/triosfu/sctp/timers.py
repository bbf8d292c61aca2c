"""The deadlines of an association, by name."""

from __future__ import annotations

import math
from enum import Enum, auto


class Timer(Enum):
    """What an association may be waiting for (transport reference, section 2.7)."""

    T1_INIT = auto()  # the answer to our INIT
    T1_COOKIE = auto()  # the answer to our COOKIE ECHO
    T2_SHUTDOWN = auto()  # the answer to our SHUTDOWN or SHUTDOWN ACK
    T5_GUARD = auto()  # the end of the whole shutdown, whatever the peer does
    T3_RTX = auto()  # an acknowledgement of the earliest outstanding TSN
    DELAYED_SACK = auto()  # a second packet to acknowledge together with the first
    RECONFIG = auto()  # the answer to our RE-CONFIG request
    HEARTBEAT = auto()  # the next sign of life to send
    HEARTBEAT_ACK = auto()  # its answer
    PATH_MTU = auto()  # the answer to a probe of the path

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a call into Python for each look-up


class Timers(dict[Timer, float]):
    """Deadlines by name: assign to arm, pop to stop."""

    def next(self) -> float:
        """The earliest deadline, `math.inf` if none is armed."""
        return min(self.values(), default=math.inf)

    def pop_expired(self, now: float) -> list[Timer]:
        """Disarm and return what is due, earliest first."""
        due = sorted((timer for timer, at in self.items() if at <= now), key=self.__getitem__)
        for timer in due:
            del self[timer]
        return due
