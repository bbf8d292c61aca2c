"""Data packets between participants: stamped with who sent them, fanned out, each delivered once.

Protocol reference, sections 6.2 to 6.7. Nothing here waits: a receiver that does not read loses what exceeds the hard
bound of its channel, counted, and nobody else notices. Unless the operator wants senders to wait (backlog.py).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from google.protobuf.message import DecodeError
from livekit.protocol import models

from triosfu.errors import UsageError
from triosfu.peer import ChannelState, PeerState
from triosfu.rooms.backlog import Backlog, Drain
from triosfu.rooms.sequence_gate import SequenceGate
from triosfu.rooms.server_calls import ServerCalls
from triosfu.rooms.session_shape import DATA_TRACK, LOSSY, RELIABLE

if TYPE_CHECKING:
    from collections.abc import Collection

    from triosfu.peer import DataChannel, PeerConnection
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.room import Room

HELD_BYTES = 100_000  # of reliable messages, for one who is still joining
REPLAY_BYTES, REPLAY_SECONDS = 100_000, 2.0
MAX_NONCES = 100
GAP = "missing messages"
Kind = models.DataPacket.Kind
LOSSY_KIND = Kind.LOSSY  # as a constant: to look it up in protobuf's wrapper is a call for each receiver


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent a packet, as far as the others may know."""

    sid: str
    identity: str
    hidden: bool = False
    agent: bool = False


@dataclass(frozen=True, slots=True)
class Destinations:
    """To whom a packet goes; nobody named means everybody but the sender."""

    identities: frozenset[str]
    sids: frozenset[str]

    def __contains__(self, receiver: tuple[str, str]) -> bool:
        sid, identity = receiver
        return not (self.identities or self.sids) or identity in self.identities or sid in self.sids


def stamp(packet: models.DataPacket, origin: Origin, kind: models.DataPacket.Kind) -> bool:
    """Overwrite in `packet` what says where it comes from (trap 30); False when it is not to be forwarded at all.

    The sequence number is left as it is (trap 31), and so is what we do not understand (trap 32).
    """
    value = packet.WhichOneof("value")
    if value == "transcription" and not origin.agent:
        return False
    packet.participant_sid = origin.sid
    packet.kind = kind
    foreign = origin.agent and packet.participant_identity not in {"", origin.identity}
    speaks_for_another = False
    if value == "chat_message":
        speaks_for_another = foreign
        if foreign:
            packet.chat_message.generated = True
    elif value == "stream_header" and packet.stream_header.HasField("text_header"):
        speaks_for_another = foreign
        if foreign:
            packet.stream_header.text_header.generated = True
    elif value == "user":
        _stamp_user(packet, origin)
    if not speaks_for_another:
        packet.participant_identity = "" if origin.hidden else origin.identity
    return True


def _stamp_user(packet: models.DataPacket, origin: Origin) -> None:
    user = packet.user
    user.participant_sid = "" if origin.hidden else origin.sid
    user.participant_identity = "" if origin.hidden else origin.identity
    named = list(dict.fromkeys([*packet.destination_identities, *user.destination_identities]))
    for field in (packet.destination_identities, user.destination_identities):
        del field[:]
        field.extend(named)


def destinations(packet: models.DataPacket) -> Destinations:
    """Return to whom a stamped packet goes."""
    sids = frozenset(packet.user.destination_sids) if packet.WhichOneof("value") == "user" else frozenset[str]()
    return Destinations(frozenset(packet.destination_identities), sids)


@dataclass(frozen=True, slots=True)
class Sent:
    """A reliable message that was fanned out."""

    at: float
    sender_sid: str
    sequence: int
    destinations: Destinations
    payload: bytes


class ReplayCache:
    """The reliable messages of the last two seconds, at most 100 kB, for receivers that may have missed some."""

    def __init__(self) -> None:
        self._sent: deque[Sent] = deque()
        self._bytes = 0

    def add(self, sent: Sent) -> None:
        """Remember a message."""
        self._sent.append(sent)
        self._bytes += len(sent.payload)
        while self._sent and (self._bytes > REPLAY_BYTES or self._sent[0].at < sent.at - REPLAY_SECONDS):
            self._bytes -= len(self._sent.popleft().payload)

    def after(self, last: dict[str, int], now: float) -> list[Sent]:
        """Return, in order, what came after the last sequence number known of each sender in `last`."""
        return [
            sent
            for sent in self._sent
            if sent.at >= now - REPLAY_SECONDS and sent.sequence > last.get(sent.sender_sid, sent.sequence)
        ]


class DataPort:
    """One participant's data channels: where its packets come from, and where those for it go."""

    def __init__(self, owner: Participant) -> None:
        self._owner = owner
        self._channels: dict[str, DataChannel] = {}  # towards the client, by label
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._established = False
        self._opening = False  # channels of ours, which have a deadline
        self.missed = False  # a reliable message was dropped while the client was out of reach
        self._backlog = Backlog(owner)
        self._drain = Drain(owner.settings.data_slow_threshold)
        self._sent = 0  # bytes, on the reliable channel
        self.gate: SequenceGate[models.DataPacket] = SequenceGate()
        self.counters: Counter[str] = Counter()

    @property
    def ready(self) -> bool:
        """Whether reliable messages can be delivered now; before that they are held."""
        if self._established:
            return True
        if self._owner.shape.primary.state is not PeerState.CONNECTED:
            return False
        return all(
            (channel := self._channels.get(label)) is not None and channel.state is ChannelState.OPEN
            for label in (RELIABLE, LOSSY)
        )

    def connected(self) -> None:
        """The primary transport came up for the first time."""
        self._opening = self._owner.shape.open_channels()

    def opened(self, peer: PeerConnection, channel: DataChannel) -> None:
        """A channel is open; those of the primary side carry data to the client, whoever opened them."""
        if peer is self._owner.shape.primary:
            self._channels[channel.label] = channel
            self.look()

    def closed(self, peer: PeerConnection, channel: DataChannel) -> None:
        """A channel is over; one of ours that never opened leaves the client without data, so it has to begin anew."""
        if self._channels.get(channel.label) is channel:
            del self._channels[channel.label]
        elif self._opening and not self._established and peer is self._owner.shape.primary:
            self._owner.negotiation_failed("the data channels did not open")

    def look(self) -> None:
        """Deliver what was held, if that is possible by now."""
        if self.ready:
            self._established = True
            held, self._held, self._held_bytes = self._held, deque(), 0
            for payload in held:
                self._send(RELIABLE, payload)

    def receive(self, channel: DataChannel, data: bytes) -> None:
        """Take one message from the client and pass it on to the room, at once unless a reader holds its sender up."""
        if channel.label != RELIABLE or not self._backlog.keep(channel, data):
            self.take(channel, data)

    def holds_up(self) -> bool:
        """Tell whether those who send reliable messages are to wait for this reader."""
        channel = self._channels.get(RELIABLE)
        if channel is None:
            return False
        return self._drain.holds_up(sent=self._sent, buffered=channel.buffered, now=trio.current_time())

    def close(self) -> None:
        """Let go of what is large; the participant is gone."""
        self._backlog.close()
        self._held.clear()

    def take(self, channel: DataChannel, data: bytes) -> None:
        """Pass one message of the client on to the room now."""
        owner = self._owner
        if not owner.permission.can_publish_data:
            self.counters["not_allowed"] += 1
            return
        if channel.label == DATA_TRACK:
            owner.data_tracks.receive(data)
            return
        if channel.label in {RELIABLE, LOSSY}:
            packet = models.DataPacket()
            try:
                packet.ParseFromString(data)
            except DecodeError:
                self.counters["malformed"] += 1
                return
            kind = Kind.RELIABLE if channel.label == RELIABLE else Kind.LOSSY
        else:
            packet, kind = models.DataPacket(user=models.UserPacket(payload=data)), Kind.RELIABLE
        if kind == Kind.LOSSY:
            owner.room.data.publish(owner, packet, kind)
            return
        before = self.gate.last
        self._pass_on(self.gate.take(packet.sequence, packet, len(data)))
        if 0 < packet.sequence <= before:
            self.counters["repeated"] += 1
        if self.gate.holds and GAP not in owner.deadlines:
            owner.deadlines.arm(GAP, trio.current_time() + owner.settings.times.gap, self.settle)

    def expect_repeats(self) -> None:
        """The client's signalling is lost, or it is back: what is missing of its messages may come late."""
        self.gate.patient = True
        self._owner.deadlines.disarm(GAP)

    def resumed(self) -> None:
        """The client is back, and sends again what it must; from some time on nothing more will come late."""
        self._owner.deadlines.arm(GAP, trio.current_time() + self._owner.settings.times.gap, self.settle)

    def settle(self) -> None:
        """Take what is missing of the client's messages for lost."""
        self._owner.deadlines.disarm(GAP)
        self._pass_on(self.gate.settle())

    def _pass_on(self, packets: list[models.DataPacket]) -> None:
        for packet in packets:
            self._owner.room.data.publish(self._owner, packet, Kind.RELIABLE)

    def leave_room(self) -> None:
        """Forget what was held for the participant, and pass on what was held of it: both were said in this room."""
        self._backlog.leave_room()
        # What is missing between these was said here as well: when it comes late, it is not for the other room either.
        patient = self.gate.patient
        self._pass_on(self.gate.settle())
        self.gate.patient = patient
        self._held.clear()
        self._held_bytes = 0

    def deliver(self, kind: models.DataPacket.Kind, payload: bytes) -> None:
        """Send a serialized packet to the client: held while it is joining, dropped when lossy or too much."""
        if self._owner.shape.primary.closed:
            self.counters["no_channel"] += 1
        elif kind == LOSSY_KIND:
            if self._owner.active:
                self._send(LOSSY, payload)
        elif self.ready:
            if self._held or not self._established:
                self.look()
            self._send(RELIABLE, payload)
        elif not self._owner.shape.publisher.negotiation.remote or self._owner.shape.expects_data:
            self._held.append(payload)
            self._held_bytes += len(payload)
            while self._held_bytes > HELD_BYTES:
                self._held_bytes -= len(self._held.popleft())
                self.counters["held_dropped"] += 1

    def deliver_track(self, payload: bytes) -> None:
        """Send one packet of a data track."""
        self._send(DATA_TRACK, payload)

    def _send(self, label: str, payload: bytes) -> None:
        channel = self._channels.get(label)
        if channel is None:
            self.counters["no_channel"] += 1
            return
        try:
            sent = channel.send_nowait(payload)  # binary: clients ignore strings (trap 34)
        except UsageError:
            self.counters["too_large"] += 1  # for this receiver's max-message-size
            return
        if not sent:
            self.counters["dropped"] += 1
            self.missed |= label == RELIABLE and channel.state is ChannelState.OPEN and not self._in_reach
        elif label == RELIABLE:
            self._sent += len(payload)

    @property
    def _in_reach(self) -> bool:
        return self._owner.linked and self._owner.shape.primary.state is PeerState.CONNECTED


class DataRouter:
    """Fans the packets of one room out."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.calls = ServerCalls(room)
        self._nonces: deque[bytes] = deque()
        self._replay = ReplayCache()

    def publish(self, sender: Participant, packet: models.DataPacket, kind: models.DataPacket.Kind) -> None:
        """Stamp a participant's packet and send it to everybody whom it is for, never back (section 6.3)."""
        if self.calls.take(sender, packet):
            return
        origin = Origin(sender.sid, sender.identity, hidden=sender.permission.hidden, agent=sender.is_agent)
        if not stamp(packet, origin, kind) or self._seen(packet):
            return
        value = packet.WhichOneof("value")
        if value == "stream_header":
            sender.tally.streams.opened(packet.stream_header, len(packet.destination_identities))
        if value == "metrics":
            readers = [one for one in self._room.others(sender) if one.permission.can_subscribe_metrics]
        else:
            readers = self._room.others(sender)
        self._fan_out(sender.sid, packet, kind, readers)

    def send(self, packet: models.DataPacket, kind: models.DataPacket.Kind) -> None:
        """Send a packet of the server itself, which has no origin and no sequence number (section 6.5)."""
        if packet.WhichOneof("value") == "user" and not packet.user.destination_identities:
            packet.user.destination_identities.extend(packet.destination_identities)
        packet.kind = kind
        packet.ClearField("sequence")
        if not self._seen(packet):
            self._fan_out("", packet, kind, list(self._room.participants.values()))

    def replay(self, receiver: Participant, last: dict[str, int]) -> None:
        """Send again what `receiver` has missed, by the last sequence number that it has of each sender's sid."""
        for sent in self._replay.after(last, trio.current_time()):
            if (receiver.sid, receiver.identity) in sent.destinations and receiver.sid != sent.sender_sid:
                receiver.data.deliver(Kind.RELIABLE, sent.payload)

    def _fan_out(
        self,
        sender_sid: str,
        packet: models.DataPacket,
        kind: models.DataPacket.Kind,
        readers: Collection[Participant],
    ) -> None:
        to = destinations(packet)
        payload = packet.SerializeToString()
        if kind == Kind.RELIABLE and packet.sequence:
            self._replay.add(Sent(trio.current_time(), sender_sid, packet.sequence, to, payload))
        for reader in readers:
            if (reader.sid, reader.identity) in to:
                with reader.guard("data"):
                    reader.data.deliver(kind, payload)

    def _seen(self, packet: models.DataPacket) -> bool:
        """Tell whether a packet with this nonce has come before; the server API may be asked twice."""
        nonce = packet.user.nonce if packet.WhichOneof("value") == "user" else b""
        if len(nonce) != 16:
            return False
        if nonce in self._nonces:
            return True
        self._nonces.append(nonce)
        if len(self._nonces) > MAX_NONCES:
            self._nonces.popleft()
        return False
