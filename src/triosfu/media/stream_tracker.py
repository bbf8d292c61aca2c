"""Is a layer alive, and how many bits per second does it carry?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from triosfu.grid import on_grid


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """How many packets in how many cycles make a stopped layer active again."""

    samples: int  # packets that a cycle needs
    cycle: float  # seconds
    cycles: int  # in a row, until a layer that had stopped is active again
    bitrate_every: float  # seconds


BASE_LAYER = TrackerSettings(samples=1, cycle=0.5, cycles=4, bitrate_every=1.0)
UPPER_LAYER = TrackerSettings(samples=5, cycle=0.5, cycles=20, bitrate_every=1.0)
SCREENSHARE = TrackerSettings(samples=1, cycle=2.0, cycles=1, bitrate_every=4.0)


def settings_for(spatial: int, *, screenshare: bool) -> TrackerSettings:
    """The usual settings of layer `spatial`."""
    if screenshare:
        return SCREENSHARE
    return BASE_LAYER if spatial == 0 else UPPER_LAYER


ENOUGH_TO_STAY = 2  # packets in a cycle that keep a layer active: small pictures, five a second, are no more
TRUST_AFTER = 2.0  # seconds of silence: a publisher that stopped on purpose, and not one that cannot keep up


class StreamTracker:
    """Follows one layer by the totals of its packets and bytes.

    The first packet makes it active at once, one quiet cycle stops it. After that it must show itself steady before it
    counts again, unless it was silent for long or was `reset`: it was muted then, or not wanted.
    """

    __slots__ = (
        "_bitrate_at",
        "_bytes",
        "_cycle_at",
        "_good_cycles",
        "_measured_from",
        "_packets",
        "_settings",
        "_silent_since",
        "active",
        "bitrate",
        "waiting",
    )

    def __init__(self, settings: TrackerSettings) -> None:
        self.active = False
        self.waiting = True  # for a packet: the stream calls `started` on the next one
        self.bitrate = 0
        self._settings = settings
        self._silent_since = -math.inf
        self._good_cycles = 0
        self._packets = 0  # total at the start of this cycle
        self._bytes = 0  # total at the start of this measurement
        self._measured_from = 0.0
        self._cycle_at = self._bitrate_at = math.inf

    def started(self, packets: int, received_bytes: int, now: float) -> None:
        """A packet came after silence; the totals are those before it."""
        self.waiting = False
        self.active = now - self._silent_since >= TRUST_AFTER
        self._good_cycles = 0
        self._packets, self._bytes = packets, received_bytes
        self._measured_from = now
        self._cycle_at = on_grid(now + self._settings.cycle)
        self._bitrate_at = on_grid(now + self._settings.bitrate_every)

    def reset(self) -> None:
        """Stop, and trust the next packet: the publisher said that it stops, or was asked to begin."""
        self._stop(-math.inf)

    def next_timeout(self) -> float:
        """The end of the cycle, or of the measurement."""
        return min(self._cycle_at, self._bitrate_at)

    def handle_timeout(self, packets: int, received_bytes: int, now: float) -> bool:
        """Close what is due, given the totals; whether activity or bitrate changed."""
        before = self.active, self.bitrate
        if now >= self._bitrate_at:
            self.bitrate = round((received_bytes - self._bytes) * 8 / (now - self._measured_from))
            self._bytes, self._measured_from = received_bytes, now
            self._bitrate_at = _following(self._bitrate_at, self._settings.bitrate_every, now)
        if now >= self._cycle_at:
            seen = packets - self._packets
            self._packets = packets
            self._cycle_at = _following(self._cycle_at, self._settings.cycle, now)
            if seen >= self._settings.samples:
                self._good_cycles += 1
                self.active = self.active or self._good_cycles >= self._settings.cycles
            else:
                self._good_cycles = 0
                self.active = self.active and seen >= min(self._settings.samples, ENOUGH_TO_STAY)
            if not seen:
                self._stop(now - self._settings.cycle)
        return before != (self.active, self.bitrate)

    def _stop(self, silent_since: float) -> None:
        self._silent_since = silent_since
        self.waiting = True
        self.active = False
        self.bitrate = 0
        self._cycle_at = self._bitrate_at = math.inf


def _following(due: float, every: float, now: float) -> float:
    """The time after `due`, which has come."""
    return due + every if due + every > now else on_grid(now + every)
