"""What a client has missed when it resumes, and how long it may take to: on virtual time, without a network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
import trio
from livekit.protocol import models, rtc

from tests.rooms.test_lifetimes import Ear, join, running
from triosfu.errors import UsageError
from triosfu.peer import ChannelState, PeerState
from triosfu.rooms.joining import JoinOptions
from triosfu.rooms.permissions import Permission
from triosfu.rooms.retelling import MAX_KEPT, Retelling
from triosfu.rooms.session_shape import LOSSY, RELIABLE
from triosfu.rooms.simulation import MAX_REMEMBERED, REMEMBERED, TcpWishes
from triosfu.signalling.session import handle

if TYPE_CHECKING:
    from trio.testing import MockClock

    from triosfu.rooms.directory import Rooms
    from triosfu.rooms.participant import Participant

Reason = models.DisconnectReason
Action = rtc.LeaveRequest.Action
GONE = models.ParticipantInfo.DISCONNECTED


def back(rooms: Rooms, participant: Participant, *, speaks: bool = True) -> Ear:
    """The client resumes; what it is told before it has said anything."""
    ear = Ear()
    options = JoinOptions(reconnect=True, single=participant.shape.single, participant_sid=participant.sid)
    assert rooms.resume("room", participant.identity, options, ear) is participant
    participant.link_opened(ear)
    if speaks:
        participant.link_used(ear)
    return ear


def up(participant: Participant) -> None:
    """Its transports work, as far as anybody asks."""
    for peer in participant.shape.peers:
        peer.state = PeerState.CONNECTED
        participant.peer_state_changed(peer, PeerState.CONNECTED, "")


def microphone(cid: str = "mic") -> rtc.AddTrackRequest:
    return rtc.AddTrackRequest(cid=cid, type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE)


async def test_answers_that_did_not_reach_the_client_are_told_again(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        up(alice)
        alice.link_used(ear)
        await trio.sleep(100)
        handle(alice, rtc.SignalRequest(add_track=microphone()))
        alice.link_lost(ear)  # and perhaps it took the answer with it
        again = back(rooms, alice)
        (told,) = [one.track_published for one in again.heard if one.HasField("track_published")]
        assert (told.cid, told.track) == ("mic", ear.heard[-1].track_published.track)
        await trio.sleep(20)  # longer than an answer may be under way
        alice.link_lost(again)
        assert "track_published" not in back(rooms, alice).kinds()


async def test_a_mute_from_outside_is_told_before_the_client_hears_of_itself(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        up(alice)
        handle(alice, rtc.SignalRequest(add_track=microphone()))
        sid = ear.heard[-1].track_published.track.sid
        await trio.sleep(100)
        alice.link_lost(ear)
        assert alice.publications.mute_remotely(sid, muted=True)
        kinds = back(rooms, alice).kinds()
        assert kinds[:4] == ["reconnect", "mute", "update", "room_update"]


async def test_events_are_told_once(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        up(alice)
        alice.subscriptions.subscribe("TR_heard")
        await trio.sleep(61)
        assert "subscription_response" in ear.kinds()
        alice.subscriptions.subscribe("TR_missed")
        alice.link_lost(ear)
        await trio.sleep(61)
        again = back(rooms, alice)
        answers = [one.subscription_response for one in again.heard if one.HasField("subscription_response")]
        assert [one.track_sid for one in answers] == ["TR_missed"]


async def test_who_left_long_ago_and_did_not_come_back_is_told(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        others = [(await join(rooms, name))[0] for name in ("bob", "carol", "dave")]
        for one in (alice, *others):
            up(one)
        await trio.sleep(1)
        others[0].close(Reason.CLIENT_INITIATED)
        assert ear.of("bob")[-1].state == GONE
        alice.link_lost(ear)
        others[1].close(Reason.CLIENT_INITIATED)
        others[2].close(Reason.CLIENT_INITIATED)
        await trio.sleep(600)
        await join(rooms, "dave")
        again = back(rooms, alice)
        assert [(one.sid, one.state) for one in again.of("carol")] == [(others[1].sid, GONE)]
        assert [one.state for one in again.of("dave")] == [models.ParticipantInfo.JOINING]  # trap 26
        assert [one.state for one in again.of("bob")] == [GONE]  # in doubt: it may have come too late
        assert again.of("alice")


async def test_a_resume_that_the_client_never_heard_of_does_not_count(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        bob, _ = await join(rooms, "bob")
        up(alice)
        up(bob)
        await trio.sleep(1)
        alice.link_lost(ear)
        bob.close(Reason.CLIENT_INITIATED)
        for _ in range(3):
            await trio.sleep(60)
            again = back(rooms, alice, speaks=False)
            assert [one.state for one in again.of("bob")] == [GONE]
            alice.link_lost(again)
        again = back(rooms, alice)
        await trio.sleep(60)
        alice.link_lost(again)
        assert not back(rooms, alice).of("bob")


async def test_metadata_speakers_and_quality_are_as_they_are_now(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        up(alice)
        await trio.sleep(6)
        alice.link_lost(ear)
        alice.room.set_metadata("new")
        alice.room.speakers.simulate(alice, 10)
        await trio.sleep(1)
        again = back(rooms, alice)
        assert [one.room_update.room.metadata for one in again.heard if one.HasField("room_update")] == ["new"]
        (speakers,) = [one.speakers_changed.speakers for one in again.heard if one.HasField("speakers_changed")]
        assert [(one.sid, one.active) for one in speakers] == [(alice.sid, True)]
        (quality,) = [one.connection_quality.updates for one in again.heard if one.HasField("connection_quality")]
        assert [one.participant_sid for one in quality] == [alice.sid]
        alice.link_lost(again)
        await trio.sleep(20)
        last = [one.speakers_changed.speakers for one in back(rooms, alice).heard if one.HasField("speakers_changed")]
        assert [[(one.sid, one.active) for one in each] for each in last] == [[(alice.sid, False)]]


async def test_who_has_missed_more_than_is_kept_starts_over(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        up(alice)
        alice.link_lost(ear)
        for number in range(MAX_KEPT + 1):
            alice.send(rtc.SignalResponse(mute=rtc.MuteTrackRequest(sid=str(number))))
        assert back(rooms, alice).leaves() == [(Action.RECONNECT, Reason.STATE_MISMATCH)]


def test_what_is_kept_is_bounded_by_its_size_and_its_age() -> None:
    kept = Retelling(doubtful=15)
    large = rtc.SignalResponse(track_published=rtc.TrackPublishedResponse(cid="x" * 300_000))
    for number in range(10):
        large.track_published.track.sid = str(number)
        large.track_published.cid = f"{number}{'x' * 300_000}"
        message = rtc.SignalResponse()
        message.CopyFrom(large)
        kept.note("track_published", message, 1.0, sent=True)
    assert len(kept) == 3
    assert not kept.overflowed  # nothing of it is known to be missed
    kept.prune(17)
    assert len(kept) == 0
    for sid, muted in (("a", True), ("b", True), ("a", False)):
        kept.note("mute", rtc.SignalResponse(mute=rtc.MuteTrackRequest(sid=sid, muted=muted)), 20, sent=True)
    kept.lost(21)
    assert [(one.mute.sid, one.mute.muted) for one in kept.missed()] == [("b", True), ("a", False)]
    kept.heard()
    assert kept.missed() == []


# --- how long it may take -------------------------------------------------------------------------------------------


@dataclass
class Record:
    """A listener that writes down who came and went."""

    events: list[tuple[str, str]] = field(default_factory=list)

    def participant_active(self, participant: Participant) -> None:
        self.events.append(("joined", participant.identity))

    def participant_left(self, participant: Participant) -> None:
        self.events.append(("left", participant.identity))

    def ignore(self, *_: object) -> None: ...

    room_started = room_finished = track_published = track_unpublished = ignore


@pytest.mark.parametrize("signalling_first", [True, False])
async def test_without_signalling_and_transport_there_are_five_seconds(
    signalling_first: bool, autojump_clock: MockClock
) -> None:
    async with running() as rooms:
        record = Record()
        rooms.services = replace(rooms.services, listeners=(record,))
        alice, ear = await join(rooms, "alice")
        up(alice)
        await trio.sleep(10)
        if signalling_first:
            alice.link_lost(ear)
            await trio.sleep(100)
        alice.shape.primary.state = PeerState.FAILED
        alice.peer_state_changed(alice.shape.primary, PeerState.FAILED, "")
        await trio.sleep(4.9)
        assert not alice.closed
        again = back(rooms, alice)
        await trio.sleep(1)
        alice.link_lost(again)  # what fails again while it comes back has another five
        await trio.sleep(4.9)
        assert not alice.closed
        assert record.events == [("joined", "alice")]  # a resume is nobody else's business
        await trio.sleep(0.2)
        assert alice.closed
        assert record.events == [("joined", "alice"), ("left", "alice")]


async def test_one_who_is_bringing_its_transport_back_is_not_asked_to(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        up(alice)
        primary = alice.shape.primary
        primary.state = PeerState.DISCONNECTED
        alice.peer_state_changed(primary, PeerState.DISCONNECTED, "")
        await trio.sleep(3)
        again = back(rooms, alice)
        await trio.sleep(3)
        primary.state = PeerState.FAILED
        alice.peer_state_changed(primary, PeerState.FAILED, "")
        assert not again.leaves()
        await trio.sleep(11.9)
        assert not alice.closed
        await trio.sleep(0.2)
        assert again.leaves() == [(Action.RECONNECT, Reason.STATE_MISMATCH)]


async def test_who_resumes_and_is_lost_in_turn_does_not_stay_for_ever(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        up(alice)
        alice.link_lost(ear)
        alice.shape.primary.state = PeerState.FAILED
        alice.peer_state_changed(alice.shape.primary, PeerState.FAILED, "")
        began = trio.current_time()
        while not alice.closed:
            assert trio.current_time() - began < 25
            again = back(rooms, alice)
            if not alice.closed:
                alice.link_lost(again)
            await trio.sleep(4.5)


# --- data -----------------------------------------------------------------------------------------------------------


class Channel:
    """A channel whose buffer is full, or is not."""

    state = ChannelState.OPEN

    def __init__(self, label: str) -> None:
        self.label, self.full = label, False
        self.sent: list[bytes] = []

    def send_nowait(self, data: bytes) -> bool:
        if len(data) > 1000:
            raise UsageError("too large")
        if not self.full:
            self.sent.append(data)
        return not self.full


@pytest.mark.parametrize("away", [True, False])
async def test_messages_that_one_who_is_away_has_lost_make_it_start_over(away: bool, autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        up(alice)
        reliable = Channel(RELIABLE)
        for channel in (reliable, Channel(LOSSY)):
            alice.peer_channel_opened(alice.shape.primary, channel)  # type: ignore[arg-type]
        packet = models.DataPacket(user=models.UserPacket(payload=b"x"))
        alice.room.data.send(packet, models.DataPacket.RELIABLE)
        assert len(reliable.sent) == 1
        if away:
            alice.link_lost(ear)
        reliable.full = True
        alice.room.data.send(packet, models.DataPacket.LOSSY)
        assert not alice.data.missed
        alice.room.data.send(packet, models.DataPacket.RELIABLE)
        assert alice.data.counters["dropped"] == 1
        leaves = back(rooms, alice).leaves()  # who is there and slow loses them in any case
        assert leaves == ([(Action.RECONNECT, Reason.STATE_MISMATCH)] if away else [])


@pytest.mark.parametrize("end", ["filled", "overdue", "closed"])
async def test_newer_messages_wait_for_those_that_a_resume_brings(end: str, autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        bob, _ = await join(rooms, "bob")
        up(alice)
        up(bob)
        hers, his = Channel(RELIABLE), Channel(RELIABLE)
        for channel in (his, Channel(LOSSY)):
            bob.peer_channel_opened(bob.shape.primary, channel)  # type: ignore[arg-type]

        def say(*numbers: int) -> None:
            for number in numbers:
                data = models.DataPacket(user=models.UserPacket(payload=b"x"), sequence=number).SerializeToString()
                alice.data.receive(hers, data)  # type: ignore[arg-type]

        def came() -> list[int]:
            return [models.DataPacket.FromString(data).sequence for data in his.sent]

        say(1, 2, 4)
        assert came() == [1, 2, 4]  # usually nobody waits
        alice.link_lost(ear)
        say(8, 9)
        await trio.sleep(20)
        again = back(rooms, alice)
        assert again.heard[0].reconnect.last_message_seq == 4
        await trio.sleep(20)
        assert came() == [1, 2, 4]
        if end == "filled":
            say(5, 6, 7, 8, 9, 10)
        elif end == "overdue":
            await trio.sleep(11)
        else:
            alice.close(Reason.CLIENT_INITIATED)
        assert came() == ([1, 2, 4, 5, 6, 7, 8, 9, 10] if end == "filled" else [1, 2, 4, 8, 9])
        await trio.sleep(31)
        assert alice.closed or not alice.data.gate.patient
        assert "missing messages" not in alice.deadlines


# --- simulated faults -----------------------------------------------------------------------------------------------


async def test_a_resume_is_cut_as_asked_for(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        up(alice)
        handle(alice, rtc.SignalRequest(simulate=rtc.SimulateScenario(disconnect_signal_on_resume=True)))
        first = back(rooms, alice)
        assert (first.kinds()[0], first.closed) == ("reconnect", 1001)
        assert not alice.linked
        second = back(rooms, alice)
        assert second.closed is None
        scenario = rtc.SimulateScenario(disconnect_signal_on_resume_no_messages=True)
        handle(alice, rtc.SignalRequest(simulate=scenario))
        for _ in range(3):
            cut = back(rooms, alice, speaks=False)
            assert (cut.heard, cut.closed) == ([], 1001)
        assert back(rooms, alice).closed is None
        handle(alice, rtc.SignalRequest(simulate=scenario))
        await trio.sleep(6)
        assert back(rooms, alice).closed is None  # it was valid for five seconds


@pytest.mark.parametrize("single", [True, False])
async def test_a_switch_of_the_path_restarts_ice(single: bool, autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice", single=single)
        up(alice)
        scenario = rtc.SimulateScenario(switch_candidate_protocol=rtc.CandidateProtocol.TCP)
        handle(alice, rtc.SignalRequest(simulate=scenario))
        offers = [one.offer.sdp for one in ear.heard if one.HasField("offer")]
        if single:
            assert ear.leaves() == [(Action.RESUME, Reason.CONNECTION_TIMEOUT)]
        else:
            ufrags = {line for sdp in offers for line in sdp.splitlines() if line.startswith("a=ice-ufrag")}
            assert (len(offers), len(ufrags)) == (2, 2)


async def test_who_asks_for_tcp_is_given_it_when_it_comes_next(autojump_clock: MockClock) -> None:
    protocol = rtc.CandidateProtocol
    wishes = TcpWishes()
    for wanted, expected in ((protocol.TCP, True), (protocol.UDP, False), (protocol.TLS, True)):
        wishes.note("alice", wanted)
        assert wishes.has("alice") is expected
        assert not wishes.has("bob")
    await trio.sleep(REMEMBERED + 1)
    assert not wishes.has("alice")
    for number in range(MAX_REMEMBERED + 1):
        wishes.note(str(number), protocol.TCP)
    assert [wishes.has(str(number)) for number in (0, 1, MAX_REMEMBERED)] == [False, True, True]


async def test_a_full_reconnect_can_be_asked_for(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        up(alice)
        handle(alice, rtc.SignalRequest(simulate=rtc.SimulateScenario(leave_request_full_reconnect=True)))
        assert [action for action, _ in ear.leaves()] == [Action.RECONNECT]
        assert alice.closed


# --- tokens ---------------------------------------------------------------------------------------------------------


async def test_tokens_are_renewed_on_schedule_on_changes_and_on_resumes(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        made: list[tuple[str, str, bool]] = []

        def renew(participant: Participant) -> str:
            made.append((participant.name, participant.metadata, participant.permission.can_publish))
            return str(len(made))

        rooms.services = replace(rooms.services, refresh_token=renew)
        alice, ear = await join(rooms, "alice", permission=Permission(can_update_metadata=True))
        up(alice)
        assert ear.kinds()[0] == "join"
        assert len(made) == 1
        await trio.sleep(299)
        assert len(made) == 1
        await trio.sleep(2)
        assert len(made) == 2
        handle(alice, rtc.SignalRequest(update_metadata=rtc.UpdateParticipantMetadata(name="Al")))
        handle(alice, rtc.SignalRequest(update_metadata=rtc.UpdateParticipantMetadata(metadata="m")))
        alice.set_permission(replace(alice.permission, can_publish=False))
        assert made[-3:] == [("Al", "", True), ("Al", "m", True), ("Al", "m", False)]
        await trio.sleep(299)
        assert len(made) == 5  # each change begins the five minutes anew
        alice.link_lost(ear)
        again = back(rooms, alice)
        assert [one.refresh_token for one in again.heard if one.HasField("refresh_token")] == ["6"]
        assert [one.refresh_token for one in ear.heard if one.HasField("refresh_token")] == ["1", "2", "3", "4", "5"]
