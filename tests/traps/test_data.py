"""Traps of data channels (protocol reference, sections 6.1 and 6.2)."""

from __future__ import annotations

import pytest
from livekit.protocol import models, rtc

from tests.sdp.client import corpus, corpus_names, negotiation, parsed, sender
from tests.signalling.world import dual, running

LEAST = 65535  # what the reference announces; clients send at most 64000
OFFERS = [name for name in corpus_names() if "m=application" in corpus(name) and name != "chromium_answer"]


async def test_trap_34_packets_are_binary_on_every_channel() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        alice.publisher.peer.open_channel("_data_track", ordered=False, max_retransmits=0)
        await alice.open_data()
        await alice.publisher.until(lambda side: "_data_track" in side.channels)
        alice.send_data(user=models.UserPacket(payload=b"plain text"), sequence=1)
        await bob.subscriber.until(lambda side: len(side.messages) == 1)
        alice.send_data("_lossy", user=models.UserPacket(payload=b"also text"))
        await bob.subscriber.until(lambda side: len(side.messages) == 2)
        request = rtc.PublishDataTrackRequest(pub_handle=7, name="numbers")
        await alice.client.send(publish_data_track_request=request)
        info = (await alice.client.expect("publish_data_track_response")).info
        update = rtc.UpdateDataSubscription.Update(track_sid=info.sid, subscribe=True)
        await bob.client.send(update_data_subscription=rtc.UpdateDataSubscription(updates=[update]))
        await bob.client.expect("data_track_subscriber_handles", lambda message: message.sub_handles)
        packet = bytes([0x18, 0, 0, 7]) + bytes(8) + b"text again"
        assert alice.publisher.channels["_data_track"].send_nowait(packet)
        await bob.subscriber.until(lambda side: len(side.messages) == 3)
        assert [label for label, _ in bob.subscriber.messages] == ["_reliable", "_lossy", "_data_track"]
        assert bob.subscriber.strings == 0


async def test_trap_34_a_packet_that_comes_as_a_string_goes_out_binary() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        await alice.open_data()
        packet = models.DataPacket(user=models.UserPacket(payload=b"x")).SerializeToString()
        assert alice.publisher.channels["_reliable"].send_nowait(packet, binary=False)
        await bob.subscriber.until(lambda side: len(side.messages) == 1)
        assert (bob.subscriber.packets()[0].user.payload, bob.subscriber.strings) == (b"x", 0)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("name", OFFERS)
def test_trap_35_answers_tell_how_large_a_message_may_be(name: str, single: bool) -> None:
    server = negotiation(single=single)
    server.accept_offer(corpus(name))
    sizes = [media.max_message_size for media in parsed(server.create_answer()).media if media.is_data]
    assert len(sizes) == 1
    assert sizes[0] is not None
    assert sizes[0] >= LEAST


def test_trap_35_offers_tell_how_large_a_message_may_be() -> None:
    server = negotiation()
    server.enable_data()
    server.add_sender(sender("audio"))
    for _ in range(2):
        sdp = server.create_offer()
        (size,) = [media.max_message_size for media in parsed(sdp).media if media.is_data]
        assert size is not None
        assert size >= LEAST
        assert f"a=max-message-size:{size}\r\n" in sdp
        server.rollback()


async def test_trap_35_the_largest_messages_that_clients_send_arrive() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        await alice.open_data()
        payload = bytes(range(250)) * 256  # 64000
        alice.send_data(user=models.UserPacket(payload=payload), sequence=1)
        await bob.subscriber.until(lambda side: len(side.messages) == 1)
        assert bob.subscriber.packets()[0].user.payload == payload
