"""Stamping, deduplication and replay of data packets (protocol reference, section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models

from triosfu.rooms.data import (
    REPLAY_BYTES,
    REPLAY_SECONDS,
    Destinations,
    Origin,
    ReplayCache,
    Sent,
    destinations,
    stamp,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

RELIABLE, LOSSY = models.DataPacket.RELIABLE, models.DataPacket.LOSSY
ALICE = Origin("PA_alice", "alice")
AGENT = Origin("PA_agent", "agent", agent=True)
HIDDEN = Origin("PA_ghost", "ghost", hidden=True)


def lying(packet: models.DataPacket) -> models.DataPacket:
    """A packet that claims to be of somebody else."""
    packet.participant_sid, packet.participant_identity, packet.sequence = "PA_bob", "bob", 41
    return packet


def values() -> list[models.DataPacket]:
    user = models.UserPacket(payload=b"x", participant_sid="PA_bob", participant_identity="bob")
    packets = [
        models.DataPacket(user=user),
        models.DataPacket(chat_message=models.ChatMessage(message="x")),
        models.DataPacket(rpc_request=models.RpcRequest(id="1")),
        models.DataPacket(rpc_response=models.RpcResponse(request_id="1")),
        models.DataPacket(stream_header=models.DataStream.Header(stream_id="1")),
        models.DataPacket(stream_chunk=models.DataStream.Chunk(stream_id="1")),
        models.DataPacket(encrypted_packet=models.EncryptedPacket(key_index=1)),
        models.DataPacket(),
    ]
    return [lying(packet) for packet in packets]


@pytest.mark.parametrize("packet", values(), ids=lambda packet: packet.WhichOneof("value"))
def test_trap_30_the_stamp_overwrites_what_the_client_says(packet: models.DataPacket) -> None:
    packet.kind = LOSSY
    assert stamp(packet, ALICE, RELIABLE)
    assert (packet.participant_sid, packet.participant_identity, packet.kind) == ("PA_alice", "alice", RELIABLE)
    if packet.WhichOneof("value") == "user":
        assert (packet.user.participant_sid, packet.user.participant_identity) == ("PA_alice", "alice")


@pytest.mark.parametrize("packet", values(), ids=lambda packet: packet.WhichOneof("value"))
def test_trap_31_the_sequence_stays(packet: models.DataPacket) -> None:
    stamp(packet, ALICE, RELIABLE)
    assert packet.sequence == 41


def test_trap_32_transcriptions_come_from_agents_only() -> None:
    packet = models.DataPacket(transcription=models.Transcription(track_id="TR_1"))
    assert not stamp(packet, ALICE, RELIABLE)
    assert stamp(packet, AGENT, RELIABLE)


def test_trap_32_what_is_unknown_is_forwarded_whole() -> None:
    strange = b"\xfa\x7d\x03abc"  # field 2015
    packet = models.DataPacket.FromString(strange)
    assert stamp(packet, ALICE, RELIABLE)
    assert strange in packet.SerializeToString()


def test_agents_may_speak_for_others_in_text() -> None:
    chat = models.DataPacket(chat_message=models.ChatMessage(message="x"), participant_identity="bob")
    header = models.DataPacket(participant_identity="bob")
    header.stream_header.text_header.SetInParent()
    for packet in (chat, header):
        assert stamp(packet, AGENT, RELIABLE)
        assert packet.participant_identity == "bob"
        assert packet.participant_sid == "PA_agent"
    assert chat.chat_message.generated
    assert header.stream_header.text_header.generated
    stamp(chat, ALICE, RELIABLE)
    assert chat.participant_identity == "alice"


def test_the_hidden_have_no_identity() -> None:
    packet = models.DataPacket(user=models.UserPacket(payload=b"x"))
    stamp(packet, HIDDEN, LOSSY)
    assert packet.participant_identity == packet.user.participant_identity == packet.user.participant_sid == ""


names = st.lists(st.sampled_from(["alice", "bob", "carol"]), max_size=3)


@given(names, names, st.lists(st.sampled_from(["PA_a", "PA_b"]), max_size=2))
def test_a_packet_goes_to_whom_it_names_or_to_all(outer: list[str], inner: list[str], sids: list[str]) -> None:
    packet = models.DataPacket(
        destination_identities=outer,
        user=models.UserPacket(destination_identities=inner, destination_sids=sids),
    )
    stamp(packet, ALICE, RELIABLE)
    to = destinations(packet)
    assert list(packet.destination_identities) == list(packet.user.destination_identities)
    for sid, identity in [("PA_a", "x"), ("PA_z", "bob"), ("PA_z", "x")]:
        named = identity in outer + inner or sid in sids
        assert ((sid, identity) in to) == (named or not (outer or inner or sids))


def everybody(at: float, sequence: int, payload: bytes = b"x") -> Sent:
    return Sent(at, "PA_a", sequence, Destinations(frozenset(), frozenset()), payload)


def sequences(sent: Sequence[Sent]) -> list[int]:
    return [one.sequence for one in sent]


def test_the_cache_replays_what_came_after() -> None:
    cache = ReplayCache()
    for number in (1, 2, 3):
        cache.add(everybody(0.1 * number, number))
    assert sequences(cache.after({"PA_a": 1}, 0.4)) == [2, 3]
    assert sequences(cache.after({"PA_other": 0}, 0.4)) == []
    assert sequences(cache.after({"PA_a": 0}, 0.25 + REPLAY_SECONDS)) == [3]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 60_000)), max_size=20))
def test_the_cache_is_bounded(steps: list[tuple[float, int]]) -> None:
    cache, now = ReplayCache(), 0.0
    for number, (step, size) in enumerate(steps, start=1):
        now += step
        cache.add(everybody(now, number, bytes(size)))
        kept = cache.after({"PA_a": 0}, now)
        assert sum(len(sent.payload) for sent in kept) <= REPLAY_BYTES
        assert all(now - sent.at <= REPLAY_SECONDS for sent in kept)
