"""The receiving half of an association alone, and DATA chunks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.sctp.inbound import Inbound
from triosfu.sctp.wire import BEGIN, END, Data

if TYPE_CHECKING:
    from triosfu.sctp.core import Event

BUFFER = 100_000


def make(*, partial_reliability: bool = True, max_message_size: int = 20_000) -> tuple[Inbound, list[Event]]:
    events: list[Event] = []
    inbound = Inbound(
        initial_tsn=0,
        buffer=BUFFER,
        max_message_size=max_message_size,
        streams=10,
        partial_reliability=partial_reliability,
        events=events,
    )
    return inbound, events


def data(tsn: int, flags: int = BEGIN | END, *, ssn: int = 0, stream: int = 0, payload: bytes = b"x") -> Data:
    return Data(flags, tsn & 0xFFFFFFFF, stream, ssn, 53, payload)


def feed(inbound: Inbound, chunks: list[Data]) -> None:
    for chunk in chunks:
        inbound.receive(chunk)
