"""A publisher may send any codec that was agreed upon, and change its mind: the track does not stay dark."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio

import triosfu
from tests.support.client import join
from tests.support.side import LIMIT
from triosfu.config import load_config

if TYPE_CHECKING:
    from tests.support.client import Client
    from triosfu.rooms.publication import Publication
    from triosfu.server import Server

CONFIG = load_config(development=True, overrides={"port": 0, "rtc": {"udp_port": 0}})
OPUS, PCMU = "audio/opus", "audio/PCMU"


def published(server: Server) -> Publication:
    (room,) = server.rooms
    (publication,) = room.participants["alice"].publications
    return publication


def arrived(server: Server, bob: Client) -> dict[str, int]:
    """Packets that bob got, by the codec that the server sends them in at present."""
    (subscription,) = published(server).subscriptions.values()
    sender, receiver = subscription.sender, subscription.receiver
    if sender is None or receiver is None:
        return {}
    streams = [stream for track in bob.subscriber.tracks.values() for stream in track.receiver.streams.values()]
    return {receiver.mime: sum(stream.packets for stream in streams if stream.ssrc == sender.ssrc)}


def told(bob: Client) -> str | None:
    """The codec of the track, as bob was told last."""
    infos = [info for message in bob.seen("update") for info in message.update.participants if info.tracks]
    return infos[-1].tracks[0].mime_type if infos else None


@pytest.mark.parametrize("single", [False, True])
async def test_a_track_in_another_codec_than_expected_is_received_and_so_is_the_next(single: bool) -> None:
    async with triosfu.serve(CONFIG) as server, join(server, "alice", single=single) as alice:
        alice.track.codecs = [OPUS, PCMU]
        async with join(server, "bob") as bob:
            await alice.ready()
            await bob.ready()
            opus, pcmu = alice.track.negotiated
            assert (opus.mime, pcmu.mime) == (OPUS, PCMU)
            sequence = count(1)
            with trio.fail_after(LIMIT):
                for codec in (pcmu, opus, pcmu):
                    alice.track.negotiated = [codec]
                    while arrived(server, bob).get(codec.mime, 0) < 3 or told(bob) != codec.mime:
                        alice.publisher.send_rtp(alice.track, next(sequence), b"sound")
                        with trio.move_on_after(0.02):
                            await bob.until(lambda: False)
                    assert list(published(server).receivers) == [codec.mime]
