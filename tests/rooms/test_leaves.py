"""How sessions end: what the client is told to do next, why, and what the others hear (section 3.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from livekit.protocol import models, rtc

from tests.rooms.test_lifetimes import connect, join, running
from triosfu.peer import PeerState
from triosfu.signalling.session import handle

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from triosfu.rooms.directory import Rooms
    from triosfu.rooms.participant import Participant

Reason = models.DisconnectReason
Action = rtc.LeaveRequest.Action


def leaves(reason: models.DisconnectReason) -> Callable[[Rooms, Participant], None]:
    """The client itself says that it leaves."""
    return lambda _, alice: handle(alice, rtc.SignalRequest(leave=rtc.LeaveRequest(reason=reason)))


def unknown_track(_: Rooms, alice: Participant) -> None:
    track = rtc.TrackPublishedResponse(track=models.TrackInfo(sid="TR_none"))
    handle(alice, rtc.SignalRequest(sync_state=rtc.SyncState(publish_tracks=[track])))


def unknown_data_track(_: Rooms, alice: Participant) -> None:
    track = rtc.PublishDataTrackResponse(info=models.DataTrackInfo(sid="DTR_none"))
    handle(alice, rtc.SignalRequest(sync_state=rtc.SyncState(publish_data_tracks=[track])))


def senseless(_: Rooms, alice: Participant) -> None:
    handle(alice, rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp="v=0")))


CAUSES = [
    ("removed", lambda _, one: one.close(Reason.PARTICIPANT_REMOVED), Action.DISCONNECT, Reason.PARTICIPANT_REMOVED),
    ("room deleted", lambda _, one: one.room.close(Reason.ROOM_DELETED), Action.DISCONNECT, Reason.ROOM_DELETED),
    ("shutdown", lambda rooms, _: rooms.close(), Action.DISCONNECT, Reason.SERVER_SHUTDOWN),
    ("leaves", leaves(Reason.CLIENT_INITIATED), Action.DISCONNECT, Reason.CLIENT_INITIATED),
    ("unavailable", leaves(Reason.USER_UNAVAILABLE), Action.DISCONNECT, Reason.USER_UNAVAILABLE),
    ("rejected", leaves(Reason.USER_REJECTED), Action.DISCONNECT, Reason.USER_REJECTED),
    ("agent error", leaves(Reason.AGENT_ERROR), Action.DISCONNECT, Reason.AGENT_ERROR),
    ("a reason that is not its to give", leaves(Reason.ROOM_DELETED), Action.DISCONNECT, Reason.CLIENT_INITIATED),
    ("unknown track", unknown_track, Action.RECONNECT, Reason.STATE_MISMATCH),
    ("unknown data track", unknown_data_track, Action.RECONNECT, Reason.STATE_MISMATCH),
    ("senseless offer", senseless, Action.RECONNECT, Reason.STATE_MISMATCH),
]


@pytest.mark.parametrize(("cause", "action", "reason"), [case[1:] for case in CAUSES], ids=[case[0] for case in CAUSES])
async def test_an_end_says_what_to_do_next_and_why(
    cause: Callable[[Rooms, Participant], None],
    action: rtc.LeaveRequest.Action,
    reason: models.DisconnectReason,
    autojump_clock: MockClock,
) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        _, bobs = await join(rooms, "bob")
        connect(alice)
        await trio.sleep(1)
        cause(rooms, alice)
        assert ear.leaves() == [(action, reason)]
        assert ear.kinds()[-1] == "leave"
        assert ear.closed == 1000
        if not bobs.leaves():
            gone = bobs.of("alice")[-1]
            assert (gone.state, gone.disconnect_reason) == (models.ParticipantInfo.DISCONNECTED, reason)


async def test_a_room_that_ends_by_its_timeout_says_so_to_those_who_do_not_count(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        agent, ear = await join(rooms, "agent", kind=models.ParticipantInfo.Kind.AGENT)
        connect(agent)
        alice.close(Reason.CLIENT_INITIATED)
        await trio.sleep(21)
        assert ear.leaves() == [(Action.DISCONNECT, Reason.ROOM_CLOSED)]


async def test_a_failed_transport_means_resume_and_then_a_timeout_that_only_the_others_hear(
    autojump_clock: MockClock,
) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        _, bobs = await join(rooms, "bob")
        connect(alice)
        await trio.sleep(1)
        alice.peer_state_changed(alice.shape.primary, PeerState.FAILED, "")
        await trio.sleep(5.1)
        assert ear.leaves() == [(Action.RESUME, Reason.CONNECTION_TIMEOUT)]
        assert bobs.of("alice")[-1].disconnect_reason == Reason.CONNECTION_TIMEOUT
