"""How long rooms and participants live, on virtual time: no socket carries anything here."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from livekit.protocol import models, rtc

from triosfu.dtls.certificate import Certificate
from triosfu.net.udp import UdpMux
from triosfu.peer import PeerConnection, PeerState
from triosfu.rooms.directory import Rooms
from triosfu.rooms.joining import Applicant, JoinOptions, JoinRefused, Services
from triosfu.rooms.permissions import Permission
from triosfu.rooms.settings import RoomDefaults, RoomSettings
from triosfu.rooms.speakers import quantised
from triosfu.rooms.updates import chunks
from triosfu.sdp.policy import MediaPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from triosfu.rooms.participant import Participant

Reason = models.DisconnectReason
Action = rtc.LeaveRequest.Action
certificate = cache(Certificate.generate)


@dataclass(eq=False)
class Ear:
    """A signalling link that hears everything."""

    heard: list[rtc.SignalResponse] = field(default_factory=list)
    closed: int | None = None

    def send(self, message: rtc.SignalResponse) -> None:
        assert self.closed is None
        self.heard.append(message)

    def close(self, code: int = 1000) -> None:
        self.closed = code

    def kinds(self) -> list[str | None]:
        return [message.WhichOneof("message") for message in self.heard]

    def leaves(self) -> list[tuple[int, int]]:
        return [(one.leave.action, one.leave.reason) for one in self.heard if one.HasField("leave")]

    def of(self, identity: str) -> list[models.ParticipantInfo]:
        return [info for message in self.heard for info in message.update.participants if info.identity == identity]


@asynccontextmanager
async def running(settings: RoomSettings | None = None) -> AsyncIterator[Rooms]:
    rng = Random(1)
    async with UdpMux.open(["127.0.0.1"], 0) as mux, trio.open_nursery() as nursery:
        peers = partial(PeerConnection, mux=mux, certificate=certificate(), policy=MediaPolicy(), rng=rng)
        rooms = Rooms(Services(peers=peers, rng=rng, settings=settings or RoomSettings()))
        await nursery.start(rooms.run)
        yield rooms
        assert rooms.counters["bugs"] == 0
        nursery.cancel_scope.cancel()


async def join(rooms: Rooms, identity: str, *, single: bool = True, **applicant: object) -> tuple[Participant, Ear]:
    """Somebody whose transports count as up: these tests are about what happens after."""
    ear = Ear()
    who = replace(Applicant(identity=identity), **applicant)  # type: ignore[arg-type]
    participant = await rooms.join("room", who, JoinOptions(client=models.ClientInfo(protocol=17), single=single), ear)
    participant.link_opened(ear)
    return participant, ear


def connect(participant: Participant) -> None:
    participant.peer_state_changed(participant.shape.primary, PeerState.CONNECTED, "")


async def test_an_empty_room_ends_after_its_timeout(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        room = await rooms.create("room")
        assert await rooms.create("room", RoomDefaults(metadata="other")) is room  # section 17, row 1
        await trio.sleep(299)
        assert rooms.find("room") is room
        await trio.sleep(2)
        assert rooms.find("room") is None
        await rooms.wait_empty()


async def test_a_room_outlives_its_last_member_by_the_departure_timeout(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        connect(alice)
        await join(rooms, "agent", kind=models.ParticipantInfo.Kind.AGENT)
        await trio.sleep(30)
        alice.close(Reason.CLIENT_INITIATED)
        await trio.sleep(19)
        assert "agent" in rooms.find("room").participants  # type: ignore[union-attr]
        await trio.sleep(2)  # trap 54: an agent keeps no room open
        assert rooms.find("room") is None


async def test_who_comes_back_in_time_keeps_the_room(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        room = rooms.find("room")
        alice.close(Reason.CLIENT_INITIATED)
        await trio.sleep(19)
        await join(rooms, "bob")
        await trio.sleep(30)
        assert rooms.find("room") is room


async def test_a_join_that_does_not_come_up_ends_after_a_minute(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        await trio.sleep(59)
        assert not alice.closed
        await trio.sleep(2)
        assert alice.closed
        assert ear.leaves() == [(Action.DISCONNECT, Reason.JOIN_FAILURE)]
        assert ear.closed == 1000


async def test_a_socket_that_is_never_opened_ends_the_participant(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        who = Applicant(identity="alice")
        late = Ear()
        alice = await rooms.join("room", who, JoinOptions(), late)
        await trio.sleep(11)
        assert alice.disconnect_reason == Reason.SIGNAL_CLOSE
        assert late.closed == 1001  # its socket ends when it opens


async def test_a_lost_socket_alone_ends_nobody_who_was_connected(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        connect(alice)
        alice.link_lost(ear)
        await trio.sleep(100)
        assert not alice.closed
        assert not alice.linked


async def test_a_failed_transport_asks_for_a_resume_and_waits_five_seconds(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        _, other = await join(rooms, "bob")
        connect(alice)
        await trio.sleep(1)
        alice.peer_state_changed(alice.shape.primary, PeerState.FAILED, "")
        assert ear.leaves() == [(Action.RESUME, Reason.CONNECTION_TIMEOUT)]
        assert ear.closed == 1000
        await trio.sleep(4.9)
        assert not alice.closed
        await trio.sleep(0.2)
        assert alice.closed
        assert other.of("alice")[-1].disconnect_reason == Reason.CONNECTION_TIMEOUT


async def test_a_silent_transport_is_gone_within_twenty_seconds(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        connect(alice)
        await trio.sleep(5)  # ICE notices silence after five seconds
        alice.peer_state_changed(alice.shape.primary, PeerState.DISCONNECTED, "")
        await trio.sleep(4.9)
        assert not ear.leaves()
        await trio.sleep(0.2)
        assert ear.leaves() == [(Action.RESUME, Reason.CONNECTION_TIMEOUT)]
        await trio.sleep(5)
        assert alice.closed


async def test_a_transport_that_comes_back_keeps_its_participant(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        connect(alice)
        alice.peer_state_changed(alice.shape.primary, PeerState.DISCONNECTED, "")
        await trio.sleep(4)
        connect(alice)
        await trio.sleep(60)
        assert not ear.leaves()


async def test_a_resume_needs_its_transports_back(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        connect(alice)
        alice.peer_state_changed(alice.shape.primary, PeerState.FAILED, "")
        again = Ear()
        assert rooms.resume("room", "alice", JoinOptions(reconnect=True, single=True), again) is alice
        alice.link_opened(again)
        assert again.kinds()[:3] == ["reconnect", "update", "room_update"]
        await trio.sleep(14)
        assert not alice.closed
        await trio.sleep(2)
        assert again.leaves() == [(Action.RECONNECT, Reason.STATE_MISMATCH)]
        assert len(ear.leaves()) == 1


async def test_resuming_again_and_again_gives_the_transports_no_more_time(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        connect(alice)
        alice.peer_state_changed(alice.shape.primary, PeerState.FAILED, "")
        began = trio.current_time()
        while not alice.closed:
            assert trio.current_time() - began < 20
            again = Ear()
            assert rooms.resume("room", "alice", JoinOptions(reconnect=True, single=True), again) is alice
            alice.link_opened(again)
            await trio.sleep(4)
        assert again.leaves() == [(Action.RECONNECT, Reason.STATE_MISMATCH)]


async def test_transports_that_failed_again_have_their_time_again(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        for _ in range(3):
            alice.shape.primary.state = PeerState.CONNECTED
            connect(alice)
            await trio.sleep(100)
            alice.shape.primary.state = PeerState.FAILED
            alice.peer_state_changed(alice.shape.primary, PeerState.FAILED, "")
            again = Ear()
            assert rooms.resume("room", "alice", JoinOptions(reconnect=True, single=True), again) is alice
            alice.link_opened(again)
            await trio.sleep(14)
            assert not alice.closed


@pytest.mark.parametrize("linked", [True, False])
async def test_a_resume_to_a_closed_transport_starts_over_at_once(linked: bool, autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice", single=False)
        for peer in alice.shape.peers:
            alice.peer_state_changed(peer, PeerState.CONNECTED, "")
        if not linked:
            alice.drop_link()  # as for a client that is asked to resume
        alice.shape.publisher.close("the client did")
        again = Ear()
        found = rooms.resume("room", "alice", JoinOptions(reconnect=True), again)
        assert alice.closed
        if linked:
            assert found is alice
            assert again.leaves() == [(Action.RECONNECT, Reason.STATE_MISMATCH)]
            assert again.closed == ear.closed == 1000
        else:
            assert found is None  # who asked in vain is told to begin anew, too
        assert not len(alice.deadlines)


async def test_an_unanswered_offer_ends_the_session(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice", single=False)
        await trio.sleep(40)  # before the transport is up its own deadlines count
        assert not ear.leaves()
        alice.shape.subscriber.state = PeerState.CONNECTED
        await trio.sleep(15.1)
        assert ear.leaves() == [(Action.RECONNECT, Reason.STATE_MISMATCH)]


async def test_changes_within_100_ms_are_told_together(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        _, ear = await join(rooms, "alice")
        others = [(await join(rooms, name))[0] for name in ("bob", "carol", "dave")]
        await trio.sleep(1)
        before = len(ear.heard)
        for other in others:
            connect(other)
        assert len(ear.heard) == before
        await trio.sleep(0.11)
        assert ear.kinds()[before:] == ["update"]
        assert sorted(info.identity for info in ear.heard[before].update.participants) == ["bob", "carol", "dave"]


async def test_room_counts_are_told_within_five_seconds_and_metadata_at_once(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        _, ear = await join(rooms, "alice")
        await join(rooms, "bob")
        await join(rooms, "rec", permission=Permission(recorder=True))
        assert "room_update" not in ear.kinds()
        await trio.sleep(5.1)
        updates = [message.room_update.room for message in ear.heard if message.HasField("room_update")]
        assert [(room.num_participants, room.active_recording) for room in updates] == [(2, True)]
        rooms.find("room").set_metadata("m")  # type: ignore[union-attr]
        assert ear.heard[-1].room_update.room.metadata == "m"


async def test_a_track_that_is_not_found_is_told_after_a_minute(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        connect(alice)
        alice.subscriptions.subscribe("TR_none")
        await trio.sleep(59)
        assert "subscription_response" not in ear.kinds()
        await trio.sleep(2)
        response = ear.heard[ear.kinds().index("subscription_response")].subscription_response
        assert (response.track_sid, response.err) == ("TR_none", models.SubscriptionError.SE_TRACK_NOTFOUND)
        assert alice.room.counters["subscribe: track not found"] == 1
        assert len(alice.subscriptions) == 0


async def test_a_speaker_is_told_to_itself_and_only_when_it_changes(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        _, stranger = await join(rooms, "bob")
        alice.room.speakers.simulate(alice, 3)
        await trio.sleep(10)
        told = [message.speakers_changed.speakers for message in ear.heard if message.HasField("speakers_changed")]
        assert [[(one.level, one.active) for one in speakers] for speakers in told] == [
            [(pytest.approx(0.9), True)],
            [(0.0, False)],
        ]
        assert "speakers_changed" not in stranger.kinds()


async def test_quality_is_told_once_until_it_changes(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        connect(alice)
        await trio.sleep(21)
        infos = [one for message in ear.heard for one in message.connection_quality.updates]
        assert [(one.participant_sid, one.quality, one.score) for one in infos] == [
            (alice.sid, models.ConnectionQuality.EXCELLENT, 4.5)
        ]


async def test_a_bug_in_one_participant_ends_that_one_only(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        bob, _ = await join(rooms, "bob")

        def stumble() -> None:
            raise ZeroDivisionError

        alice.deadlines.arm("bug", trio.current_time() + 1, stumble)  # in its own task
        await trio.sleep(2)
        assert alice.closed
        assert ear.leaves() == [(Action.RECONNECT, Reason.UNKNOWN_REASON)]
        with bob.guard("anything"):  # in somebody else's
            stumble()
        assert bob.closed
        assert bob.room.counters["bugs"] == 2
        assert rooms.find("room") is not None
        await join(rooms, "carol")


async def test_nothing_is_left_when_the_rooms_are_cancelled(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        members = [await join(rooms, str(number)) for number in range(5)]
        rooms.close()
        await rooms.wait_empty()
        assert all(ear.leaves() == [(Action.DISCONNECT, Reason.SERVER_SHUTDOWN)] for _, ear in members)
        with pytest.raises(JoinRefused) as refused:
            await rooms.create("room")
        assert refused.value.status == 503
    assert trio.lowlevel.current_statistics().tasks_living < 10


@pytest.mark.parametrize("step", range(1, 12))
async def test_a_room_cancelled_at_any_step_of_a_join_leaves_nothing(step: int, autojump_clock: MockClock) -> None:
    async with running() as rooms:
        with trio.CancelScope() as scope:
            trio.lowlevel.add_instrument(cancel := CancelAtStep(trio.lowlevel.current_task(), scope, step))
            try:
                participant, ear = await join(rooms, "alice")
                connect(participant)
                await trio.sleep(1)
                participant.link_lost(ear)
                participant.close(Reason.CLIENT_INITIATED)
            finally:
                trio.lowlevel.remove_instrument(cancel)
        room = rooms.find("room")
        if room is not None:
            room.close(Reason.ROOM_DELETED)
        with trio.fail_after(1):
            await rooms.wait_empty()


@pytest.mark.parametrize("step", range(10))
@pytest.mark.parametrize("members", [0, 1])
async def test_a_room_that_is_cancelled_refuses_whoever_comes_at_any_step(
    members: int, step: int, autojump_clock: MockClock
) -> None:
    options = JoinOptions(client=models.ClientInfo(protocol=17), single=True)
    for _ in range(10):  # trio runs what is ready in no order
        async with running() as rooms:
            room = await rooms.create("room")
            for number in range(members):
                await join(rooms, str(number))
            cancel_room(rooms, trio.CancelScope())
            for _ in range(step):
                await trio.lowlevel.checkpoint()
            with suppress(JoinRefused):
                late = room.join(Applicant(identity="late"), options, Ear())
                assert step < 2
                await trio.testing.wait_all_tasks_blocked()
                assert late.closed
            await rooms.wait_empty()


def cancel_room(rooms: Rooms, _: trio.CancelScope) -> None:
    assert rooms._nursery is not None
    for task in rooms._nursery.child_tasks:
        for nursery in task.child_nurseries:
            nursery.cancel_scope.cancel()


def cancel_caller(_: Rooms, caller: trio.CancelScope) -> None:
    caller.cancel()


@pytest.mark.parametrize("step", range(1, 12))
@pytest.mark.parametrize("cancel", [cancel_room, cancel_caller])
async def test_a_room_cancelled_at_any_step_of_its_start_is_known_or_gone(
    cancel: Callable[[Rooms, trio.CancelScope], None], step: int, autojump_clock: MockClock
) -> None:
    async with running() as rooms:
        with trio.CancelScope() as caller:
            trio.lowlevel.add_instrument(instrument := CallAtStep(step, partial(cancel, rooms, caller)))
            try:
                with suppress(JoinRefused):
                    await rooms.create("room")
                await trio.testing.wait_all_tasks_blocked()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        await trio.testing.wait_all_tasks_blocked()
        assert rooms._nursery is not None
        assert len(rooms._nursery.child_tasks) == len(rooms)
        assert all(not room.closed for room in rooms)
        await rooms.create("room")  # and nothing stands in the way of the next one
        assert len(rooms._nursery.child_tasks) == len(rooms) == 1


class CallAtStep(trio.abc.Instrument):
    """Calls `action` the moment that any task is about to run for the nth time."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self._left, self._action = step, action

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._action()


class CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` the moment `task` is about to run for the nth time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self._task, self._scope, self._left = task, scope, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


def test_chunks_are_bounded_and_keep_everybody() -> None:
    infos = [models.ParticipantInfo(identity=str(number), metadata="m" * 300 * number) for number in range(20)]
    groups = list(chunks(infos, 1000))
    assert [info for group in groups for info in group] == infos
    assert all(len(group) == 1 or sum(info.ByteSize() for info in group) <= 1000 for group in groups)


@pytest.mark.parametrize(("level", "told"), [(0, 0), (0.01, 0.125), (0.125, 0.125), (0.126, 0.25), (1, 1), (7, 1)])
def test_levels_are_told_in_eighths_rounded_up(level: float, told: float) -> None:
    assert quantised(level) == told
