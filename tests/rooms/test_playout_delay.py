"""A room may have frames held back at its receivers. Who is moved there gets that, too; who is moved away is told."""

from __future__ import annotations

from itertools import count

import trio

import triosfu
from tests.rooms.test_backup_codecs import CONFIG, KEYFRAMES, VP8
from tests.support.client import join
from tests.support.side import LIMIT
from tests.support.whip import whip
from triosfu.media.shape import PLAYOUT_DELAY, playout_delay
from triosfu.rooms.configuration import LONGEST_DELAY
from triosfu.rooms.settings import RoomDefaults
from triosfu.rooms.transfer import move_to
from triosfu.sdp.policy import OFFERED_IDS

DELAYED, AT_ONCE = playout_delay(100, 200), playout_delay(0, LONGEST_DELAY)


async def test_cameras_are_delayed_in_one_room_and_not_in_another_also_for_who_is_moved() -> None:
    async with triosfu.serve(CONFIG) as server:
        await server.rooms.create("delayed", RoomDefaults(playout_delay=(100, 200)))
        async with (
            join(server, "alice", room="delayed") as alice,
            join(server, "carol", room="prompt") as carol,
            whip(server, "bob", room="prompt", watches=True) as bob,
        ):
            bob.publisher.publish("video", VP8, ssrc=4712)  # one place more, before its offer goes out
            for client in (alice, carol, bob):
                await client.ready()
            numbers = count(1)
            for publisher, room, delay in (
                (carol, "prompt", None),
                (alice, "delayed", DELAYED),
                (carol, "prompt", AT_ONCE),
            ):
                camera = await publisher.publish("video", VP8)
                found = next(one for each in server.rooms if (one := each.participants.get("bob")))
                if found.room.name != room:
                    await move_to(server.rooms, found, room, create=False)
                bob.received.clear()
                with trio.fail_after(LIMIT):
                    while not any(packet.payload == KEYFRAMES[VP8] for packet in bob.received):
                        publisher.publisher.send_rtp(camera, next(numbers), KEYFRAMES[VP8])
                        with trio.move_on_after(0.02):
                            await bob.until(lambda: False)
                assert bob.received[-1].extension(OFFERED_IDS[PLAYOUT_DELAY]) == delay
                await publisher.unpublish(camera)
