"""What one signalling connection may send: how much at once, how fast, and what happens beyond that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from google.protobuf import json_format
from livekit.protocol import models, rtc

from tests.signalling.world import LIMIT, Client, dual, running
from triosfu.server.task_tree import look, watching
from triosfu.signalling import session
from triosfu.signalling.session import BURST, RATE, Pace

if TYPE_CHECKING:
    import pytest
    from trio.testing import MockClock


async def test_a_message_above_two_mebibytes_closes_with_1009_and_the_session_can_be_resumed() -> None:
    async with running() as world, dual(world, "alice") as alice:
        await alice.client.send_raw(bytes((2 << 20) + 1))
        assert await alice.client.until_closed() == 1009
        sid = alice.join.participant.sid
        async with world.connect("alice", query=f"protocol=17&reconnect=1&sid={sid}") as again:
            assert (await again.receive()).HasField("reconnect")


async def test_a_message_of_two_mebibytes_is_read() -> None:
    async with running() as world, dual(world, "alice") as alice:
        request = rtc.SignalRequest(mute=rtc.MuteTrackRequest(sid=""))
        request.mute.sid = "x" * ((2 << 20) - request.ByteSize() - 8)
        await alice.client.send_raw(request.SerializeToString())
        await alice.client.nothing_of("leave")


def test_who_asks_at_a_usual_pace_never_rests() -> None:
    pace = Pace(100.0)
    assert not any(pace.rest(100.0) for _ in range(int(BURST)))
    assert not any(pace.rest(200.0 + number / RATE) for number in range(5000))


def test_who_asks_without_pause_rests_until_its_requests_are_paid_for() -> None:
    pace, now, asked = Pace(0.0), 0.0, 0
    while now < 10:
        now += pace.rest(now)
        asked += 1
    assert BURST + 10 * RATE - 2 <= asked <= BURST + 10 * RATE + 2


async def test_one_who_sends_without_pause_holds_up_nobody() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        flood = rtc.SignalRequest(ping_req=rtc.Ping(timestamp=1)).SerializeToString()

        async def send() -> None:
            while True:
                await alice.client.send_raw(flood)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            began = trio.current_time()
            for _ in range(20):
                await bob.client.nothing_of("leave")
            assert trio.current_time() - began < 5
            nursery.cancel_scope.cancel()


async def test_who_rests_is_gone_at_once_when_its_session_ends(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(session, "HEAVY", 0.0)
    monkeypatch.setattr(session, "REST", 1e9)  # times the work for a request: any has a rest of hours

    def there(name: str) -> bool:
        return any(task.name == name for task in look(watch).walk())

    with watching() as watch:
        async with running() as world, world.connect("alice") as client:
            await client.expect("join")
            await client.send(ping_req=rtc.Ping(timestamp=1))
            await client.expect("pong_resp")
            alice = world.participant()
            assert there(f"session {alice.sid}")
            alice.close(models.DisconnectReason.PARTICIPANT_REMOVED)
            with trio.fail_after(1):
                while there(f"session {alice.sid}"):  # noqa: ASYNC110  nobody tells
                    await trio.sleep(0.05)


async def test_trap_60_text_and_binary_frames_may_be_mixed() -> None:
    async with running() as world, dual(world, "alice") as alice:
        for text in (True, False, True, False):
            alice.client.text = text
            await alice.client.send(ping_req=rtc.Ping(timestamp=1))
            kind = str if text else bytes
            with trio.fail_after(LIMIT):
                while b"pong" not in await ponged(alice.client, kind):
                    pass
        assert world.participant().state == models.ParticipantInfo.ACTIVE


async def ponged(client: Client, kind: type[str | bytes]) -> bytes:
    """`pong` if the next frame is one, of that kind; what was under way may be of the other."""
    frame = await client._socket.get_message()
    if isinstance(frame, str):
        message = json_format.Parse(frame, rtc.SignalResponse())
    else:
        message = rtc.SignalResponse.FromString(frame)
    if not message.HasField("pong_resp"):
        return b""
    assert isinstance(frame, kind)
    return b"pong"
