"""What one member of a room can make the server keep, repeat or compute: little, whatever it sends."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
from livekit.protocol import models, rtc
from trio.testing import wait_all_tasks_blocked

from tests.rooms.test_lifetimes import Ear, connect, join, running
from triosfu.errors import MalformedPacket
from triosfu.media.counts import MediaCounts
from triosfu.peer import PeerConnection
from triosfu.rooms import track_info
from triosfu.rooms.directory import Rooms
from triosfu.rooms.joining import Applicant, JoinOptions, JoinRefused
from triosfu.rooms.permissions import MAX_RULES, Permission, SubscriptionRules
from triosfu.rooms.settings import Limits, RoomSettings
from triosfu.rooms.sids import MAX_SID
from triosfu.rooms.tally import Flow
from triosfu.rooms.updates import HASTE
from triosfu.signalling.codec import MAX_TEXT_VALUES, decode
from triosfu.signalling.session import handle

if TYPE_CHECKING:
    from trio.testing import MockClock

    from triosfu.rooms.participant import Participant

ODD = "x" * (MAX_SID + 1)
FEW = RoomSettings(limits=replace(Limits(), subscriptions=8, stored_settings=8))


async def test_what_is_wished_for_by_name_is_kept_only_if_it_can_be_a_name(autojump_clock: MockClock) -> None:
    async with running(FEW) as rooms:
        alice, _ = await join(rooms, "alice")
        many = [f"TR_{number}" for number in range(100)]
        for subscribe in (True, False):
            request = rtc.UpdateSubscription(track_sids=[ODD, *many], subscribe=subscribe)
            handle(alice, rtc.SignalRequest(subscription=request))
            assert len(alice.subscriptions._wishes) == (8 if subscribe else 0)
        handle(alice, rtc.SignalRequest(track_setting=rtc.UpdateTrackSettings(track_sids=[ODD, *many])))
        updates = [rtc.UpdateDataSubscription.Update(track_sid=sid, subscribe=True) for sid in [ODD, *many]]
        handle(alice, rtc.SignalRequest(update_data_subscription=rtc.UpdateDataSubscription(updates=updates)))
        for kept in (alice.subscriptions._declined, alice.subscriptions._settings, alice.data_tracks._wanted):
            assert len(kept) == 8
            assert ODD not in kept
        assert not alice.closed


async def test_candidates_that_no_browser_makes_are_not_kept_for_later(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        for text in ("candidate:1", "x" * 1_000_000):
            trickle = rtc.TrickleRequest(candidateInit=json.dumps({"candidate": text}))
            handle(alice, rtc.SignalRequest(trickle=trickle))
        assert alice.negotiator._candidates == {alice.shape.publisher.name: ["candidate:1"]}


async def test_what_a_join_request_asked_for_is_not_kept_after_it_was_done(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        assert alice.options.single
        assert alice.options.add_tracks == ()
        assert alice.options.publisher_offer is None
        assert alice.options.sync_state is None


def test_rules_for_one_subscriber_in_many_entries_take_no_more_than_their_number() -> None:
    def seconds(count: int) -> float:
        entries = [rtc.TrackPermission(participant_identity="bob", track_sids=[str(number)]) for number in range(count)]
        request = rtc.SubscriptionPermission(track_permissions=entries)
        before = time.process_time()
        rules = SubscriptionRules()
        assert rules.replace(request, lambda _: None)
        assert rules.allows("bob", str(count - 1), recorder=False)
        return time.process_time() - before

    # Squared, it would be 400 times as long.
    assert seconds(20_000) < 100 * max(seconds(1000), 0.0005)


@pytest.mark.parametrize("people", [True, False])
def test_rules_beyond_a_number_let_nobody_in(people: bool) -> None:
    """A message of two megabytes would else be kept as a hundred of them."""
    names = [str(number) for number in range(MAX_RULES + 10)]
    if people:
        entries = [rtc.TrackPermission(participant_identity=name, all_tracks=True) for name in names]
    else:
        entries = [rtc.TrackPermission(participant_identity="bob", track_sids=names)]
    rules = SubscriptionRules()
    assert rules.replace(rtc.SubscriptionPermission(track_permissions=entries), lambda _: None)
    allowed = [rules.allows(*((name, "TR_1") if people else ("bob", name)), recorder=False) for name in names]
    most = MAX_RULES if people else MAX_RULES - 1  # he counts, too
    assert allowed == [True] * most + [False] * (len(names) - most)


def test_what_an_announcement_carries_along_is_bounded() -> None:
    layer = models.VideoLayer(rid="q" * 100_000)
    with pytest.raises(MalformedPacket):
        track_info.check_add_track(rtc.AddTrackRequest(cid="a", layers=[layer]))
    info = models.TrackInfo()
    some = [models.AudioTrackFeature.TF_STEREO, *range(100, 4000)]
    track_info.set_audio_features(info, some)
    assert list(info.audio_features) == [models.AudioTrackFeature.TF_STEREO]


async def test_a_data_track_with_an_enormous_schema_is_refused(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await join(rooms, "alice")
        request = rtc.PublishDataTrackRequest(pub_handle=1, name="n")
        request.schema.name = "s" * 100_000
        handle(alice, rtc.SignalRequest(publish_data_track_request=request))
        assert not len(alice.data_tracks)
        reason = rtc.RequestResponse.Reason.LIMIT_EXCEEDED
        assert [one.request_response.reason for one in ear.heard if one.HasField("request_response")] == [reason]


async def test_a_client_that_changes_all_the_time_is_told_of_at_a_pace(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice", permission=Permission(can_update_metadata=True))
        _, bobs = await join(rooms, "bob")
        before = len(bobs.of("alice"))
        for number in range(1000):
            change = rtc.UpdateParticipantMetadata(name=f"name {number}")
            handle(alice, rtc.SignalRequest(update_metadata=change))
        await trio.sleep(0.2)
        told = bobs.of("alice")[before:]
        assert HASTE <= len(told) <= HASTE + 2
        assert told[-1].name == "name 999"


async def test_who_left_is_remembered_briefly_and_without_baggage(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        left = alice.room.announcer._left
        for number in range(3):
            guest, _ = await join(rooms, f"guest {number}", metadata="m" * 100_000)
            connect(guest)
            connect(alice)
            guest.close(models.DisconnectReason.CLIENT_INITIATED)
            assert left[-1][1].ByteSize() < 1000
            await trio.sleep(10)
        assert len(left) == 2


@pytest.mark.parametrize("value", ["{}", '""', "[]"])
def test_text_frames_of_many_values_are_not_even_read(value: str) -> None:
    with pytest.raises(MalformedPacket, match="too many"):
        decode('{"subscription":{"trackSids":[' + ",".join([value] * (MAX_TEXT_VALUES + 1)) + "]}}")


async def test_a_bug_in_one_step_of_an_end_leaves_no_other_undone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        bob, ear = await join(rooms, "bob")
        room, mux = alice.room, alice.shape.publisher._mux
        fail(monkeypatch, alice)
        with alice.guard("test"):
            alice.close(models.DisconnectReason.CLIENT_INITIATED)
        assert ear.of("alice")[-1].state == models.ParticipantInfo.DISCONNECTED
        bob.close(models.DisconnectReason.CLIENT_INITIATED)
        assert not mux._routes
        assert not alice.deadlines
        await trio.sleep(30)
        assert room.closed


async def test_a_bug_in_a_tick_ends_neither_the_room_nor_the_ticks(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        connect(alice)
        seen: list[float] = []

        def fail_at_once() -> None:
            seen.append(trio.current_time())
            raise LookupError

        monkeypatch.setattr(alice.room, "_counted", fail_at_once)
        alice.room.deadlines.arm("update", trio.current_time() + 1, alice.room.update)
        alice.room._every("often", 1.0, fail_at_once)
        await trio.sleep(12.5)
        assert len(seen) == 13
        assert not alice.closed
        assert rooms.find("room") is alice.room
        assert alice.room.counters["bugs"] == 13
        monkeypatch.undo()


def fail(monkeypatch: pytest.MonkeyPatch, participant: Participant) -> None:
    """Let the first step of its end fail."""
    monkeypatch.setattr(participant.subscriptions, "close", lambda: 1 / 0)


async def test_a_bug_that_comes_with_the_servers_end_is_still_one_participants(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError

    async with running() as rooms, trio.open_nursery() as nursery:
        other = Rooms(rooms.services)
        await nursery.start(other.run)
        room = await other.create("room")
        who = Applicant(identity="alice")
        monkeypatch.setattr(PeerConnection, "run", lambda *_: break_when_cancelled())
        alice = room.join(who, JoinOptions(), Ear())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()
    assert alice.closed
    assert room.counters["bugs"] == 1
    assert other.counters["bugs"] == 0


async def test_nobody_is_let_in_while_more_media_passes_than_may(autojump_clock: MockClock) -> None:
    async with running(RoomSettings(limits=replace(Limits(), bytes_per_second=100_000))) as rooms:
        alice, _ = await join(rooms, "alice")
        passed = MediaCounts()
        rooms.services.tally._ended[Flow("incoming", "CAMERA", "video")] = passed
        for _ in range(20):
            passed.octets += 60_000
            passed.resent_octets += 5_000
            await trio.sleep(1)
        assert rooms.throughput.rate == pytest.approx(65_000, rel=0.2)
        await join(rooms, "bob")
        for _ in range(20):
            passed.octets += 150_000
            await trio.sleep(1)
        for room in ("room", "other"):
            with pytest.raises(JoinRefused, match=r"^node has exceeded its configured limit$") as refused:
                await rooms.for_join(room, Applicant(identity="carol"))
            assert refused.value.status == 503
        assert rooms.resume("room", "alice", JoinOptions(single=True), Ear()) is alice  # who is here stays
        assert await rooms.create("room") is alice.room
        await trio.sleep(12)
        assert rooms.throughput.rate == 0
        await join(rooms, "carol")
