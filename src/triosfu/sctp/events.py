"""What an association reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Established:
    """The association is up; what was queued goes out now."""


@dataclass(frozen=True, slots=True)
class Message:
    """One whole user message arrived."""

    stream_id: int
    ppid: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer has reset its side of the stream: nothing more arrives on it until it starts anew."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class ResetDone:
    """Our own `reset_stream` is over: the peer performed it (`ok`), or refused or cannot do it."""

    stream_id: int
    ok: bool


@dataclass(frozen=True, slots=True)
class Restarted:
    """The peer lost its state and set the association up anew: all streams are reset, all that was queued is gone."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The association is over. Reported once, and nothing after it."""

    reason: str


Event = Established | Message | StreamReset | ResetDone | Restarted | Ended
