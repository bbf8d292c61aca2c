"""What must hold for the DTLS record parser and for two connections, whatever the bytes and the network do."""

from __future__ import annotations

import math
from functools import cache

from fuzz.script import Script
from triosfu.dtls.certificate import Certificate
from triosfu.dtls.core import ApplicationData, Closed, Connected, DtlsConnection, Event, Fingerprint, Role, State
from triosfu.dtls.records import PlaintextNumbers, pack, split
from triosfu.errors import MalformedPacket, UsageError

MTU = 1200


def check_records(data: bytes) -> None:
    """Records are a cut of the front of the datagram; packing and renumbering lose nothing."""
    try:
        records = split(data)
    except MalformedPacket:
        return
    joined = b"".join(record.data for record in records)
    assert data.startswith(joined)
    datagrams = pack(records, MTU)
    assert b"".join(datagrams) == joined
    assert all(len(datagram) <= MTU or len(split(datagram)) == 1 for datagram in datagrams)
    numbers = PlaintextNumbers()
    for record in records:
        renumbered = numbers.renumber(record)
        assert len(renumbered.data) == len(record.data)
        assert split(renumbered.data) == [renumbered]


# --- two real connections and a network that a script commands -------------------------------------------------------

HANDSHAKE_TIMEOUT = 15.0
FLIGHT = 12  # datagrams that one datagram or one expiry may cause, at most


@cache
def _certificates() -> tuple[Certificate, Certificate]:
    return Certificate.generate(), Certificate.generate()


class End:
    """One connection, what is on its way to it, and what it has told."""

    def __init__(self, number: int, *, expects: int, role: Role) -> None:
        certificates = _certificates()
        self.core = DtlsConnection(
            certificate=certificates[number],
            role=role,
            remote_fingerprints=[Fingerprint("sha-256", certificates[expects].fingerprint)],
            now=0.0,
            handshake_timeout=HANDSHAKE_TIMEOUT,
        )
        self.state = self.core.state
        self.coming: list[bytes] = []
        self.said: set[bytes] = set()
        self.told: list[Event] = []

    def look(self, other: End) -> int:
        """Drain the core, check what it tells, and count what it sends."""
        for event in self.core.events():
            assert not any(isinstance(before, Closed) for before in self.told), "nothing follows the end"
            if isinstance(event, Connected):
                assert event not in self.told
            elif isinstance(event, ApplicationData):
                assert event.data in other.said, "what arrives is what was sent"
            self.told.append(event)
        order = list(State)
        assert order.index(self.state) <= order.index(self.core.state)
        self.state = self.core.state
        sent = self.core.datagrams_to_send()
        other.coming += sent
        return len(sent)


def check_dtls(data: bytes) -> None:
    """Records split, joined, repeated, reordered, lost, damaged and made up between two real connections."""
    script = Script(data)
    what = script.number()
    ends = (End(0, expects=1, role=Role.CLIENT), End(1, expects=1 if what & 1 else 0, role=Role.SERVER))
    harmless, now = not what & 1, 0.0
    for end in ends:
        end.core.start(now)
    while script:
        step, which = script.number(), script.number()
        here = ends[which & 1]
        there = ends[1 - (which & 1)]
        if step & 0x0F == 0x0F:
            now += (step >> 4) / 10
            for end, other in (ends, ends[::-1]):
                end.core.handle_timeout(now)
                assert end.core.next_timeout() > now
                assert end.look(other) <= FLIGHT
        elif step & 0x0F == 0x0E:
            _say(here, script.chunk())
        elif step & 0x0F == 0x0D and step > 0xF0:
            here.core.close("enough")
            harmless = False
        else:
            arriving, kept = _meddle(script, step, here)
            harmless = harmless and kept
            for datagram in arriving:
                here.core.receive_datagram(datagram, now)
                assert here.look(there) <= FLIGHT
        for end, other in (ends, ends[::-1]):
            end.look(other)
            del end.coming[64:]
    _finish(ends, now, must_connect=harmless and now < HANDSHAKE_TIMEOUT / 3)


def _say(end: End, text: bytes) -> None:
    try:
        end.core.send(text)
    except UsageError:
        assert end.core.state not in (State.CONNECTED, State.CLOSED)
    else:
        end.said.add(text)


def _meddle(script: Script, step: int, end: End) -> tuple[list[bytes], bool]:
    """What reaches `end` now, and whether a handshake has to succeed in spite of it."""
    if step & 0x0F == 0x0C:
        return [script.chunk(2)], False
    if not end.coming:
        return [], True
    first = end.coming.pop(step >> 4 & 3 if len(end.coming) > step >> 4 & 3 else 0)  # not always the oldest
    records = [record.data for record in split(first)]
    match step & 0x0F:
        case 0x0B:
            return [], True  # lost
        case 0x0A:
            return [first, first], True
        case 0x09:
            return records, True
        case 0x08:
            return records[::-1], True
        case 0x07:
            return [first + b"".join(end.coming[:1])], True
        case 0x06:
            damaged = bytearray(first)
            damaged[script.number(2) % len(damaged)] ^= script.number()
            return [bytes(damaged)], False
        case 0x05:
            return [first[: script.number(2)]], False
        case _:
            return [first], True


def _finish(ends: tuple[End, End], now: float, *, must_connect: bool) -> None:
    """An honest network from here on: who can connect does, and nobody waits for ever."""
    for _ in range(200):
        for end, other in (ends, ends[::-1]):
            coming, end.coming = end.coming, []
            for datagram in coming:
                end.core.receive_datagram(datagram, now)
                assert end.look(other) <= FLIGHT
        if not any(end.coming for end in ends):
            due = min(end.core.next_timeout() for end in ends)
            if due == math.inf:
                break
            now = max(now, due)
            for end, other in (ends, ends[::-1]):
                end.core.handle_timeout(now)
                assert end.core.next_timeout() > now
                end.look(other)
    assert all(end.core.state in (State.CONNECTED, State.CLOSED) for end in ends)
    if must_connect:
        assert [end.core.state for end in ends] == [State.CONNECTED, State.CONNECTED]
        for end, other in (ends, ends[::-1]):
            _say(end, b"can you hear me?")
            end.look(other)
            for datagram in other.coming:
                other.core.receive_datagram(datagram, now)
            other.look(end)
            assert ApplicationData(b"can you hear me?") in other.told
