"""A participant lives through any sequence of signal requests, lost connections and time, and so does its room."""

from __future__ import annotations

from contextlib import suppress
from functools import cache, partial
from random import Random
from typing import TYPE_CHECKING, Any

import trio
from livekit.protocol import models, rtc
from trio.testing import MockClock

from fuzz.catalogue import CORPUS
from fuzz.checks.negotiation import DESCRIPTIONS
from fuzz.script import Script
from triosfu.dtls.certificate import Certificate
from triosfu.errors import MalformedPacket
from triosfu.net.udp import UdpMux
from triosfu.peer import PeerConnection, PeerSettings
from triosfu.rooms.directory import Rooms
from triosfu.rooms.joining import Applicant, JoinOptions, JoinRefused, Services
from triosfu.sdp.policy import MediaPolicy
from triosfu.signalling.codec import decode, encode
from triosfu.signalling.session import handle

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.rooms.participant import Participant

NAMES = ("alice", "bob")
CIDS = ("mic", "cam", "", "screen")
STEPS = 48  # of one script; more would only be slower
Rtc: Any = rtc  # numbers outside an enumeration are the point
Models: Any = models


class Ear:
    """A signalling connection that can be written as either kind of frame."""

    def __init__(self) -> None:
        self.heard: list[rtc.SignalResponse] = []

    def send(self, message: rtc.SignalResponse) -> None:
        """Hear one message."""
        for text in (False, True):
            encode(message, text=text)
        self.heard = [*self.heard[-50:], message]

    def close(self, code: int = 1000) -> None:
        """Hear nothing more."""


@cache
def _certificate() -> Certificate:
    return Certificate.generate()


@cache
def _texts() -> list[str]:
    return [path.read_bytes().decode() for path in sorted(DESCRIPTIONS.glob("*.sdp"))]


@cache
def _captured() -> list[bytes]:
    """What real clients sent."""
    return [path.read_bytes() for path in sorted((CORPUS / "check_signal_frame").glob("*-*")) if path.name[:2] != "ou"]


def check_signal_session(data: bytes) -> None:
    """Requests of one participant or the other, in any order; no bug is counted, and a new member is welcome after."""
    trio.run(_live, Script(data), clock=MockClock(autojump_threshold=0))


async def _live(script: Script) -> None:
    rng = Random(1)
    mux = UdpMux([], batched=False)  # no socket: what a network brings is the other checks' business
    peers = partial(
        PeerConnection, mux=mux, certificate=_certificate(), policy=MediaPolicy(), rng=rng, settings=PeerSettings()
    )
    rooms = Rooms(Services(peers=peers, rng=rng))
    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run)
        people = [await _join(rooms, name, script) for name in NAMES]
        for _ in range(STEPS):
            if not script:
                break
            step = script.number()
            which = step & 1
            if people[which].closed:
                people[which] = await _join(rooms, NAMES[which], script)
            await _step(rooms, people[which], step >> 1, script)
            _look(rooms)
        with trio.fail_after(60):
            await _join(rooms, "carol", script)
        _look(rooms)
        rooms.close()
        with trio.fail_after(60):
            await rooms.wait_empty()
        nursery.cancel_scope.cancel()
    assert rooms.counters["bugs"] == 0
    assert not mux._routes  # noqa: SLF001  nobody is left in the mux
    assert not mux._by_ufrag  # noqa: SLF001


def _look(rooms: Rooms) -> None:
    assert sum(room.counters["bugs"] for room in rooms) == rooms.counters["bugs"] == 0


async def _join(rooms: Rooms, name: str, script: Script) -> Participant:
    what = script.number()
    options = JoinOptions(
        client=models.ClientInfo(protocol=17 - (what >> 5)),
        single=bool(what & 1),
        auto_subscribe=not what & 2,
        adaptive_stream=bool(what & 4),
    )
    ear = Ear()
    participant = await rooms.join("room", Applicant(identity=name), options, ear)
    participant.link_opened(ear)
    return participant


async def _step(rooms: Rooms, participant: Participant, step: int, script: Script) -> None:
    """One thing happens to a participant."""
    match step & 7:
        case 0:
            await trio.sleep(script.number() / 16)
        case 1:
            participant.link_lost(participant.link)
            await trio.lowlevel.checkpoint()
        case 2:
            with suppress(JoinRefused):
                ear, single = Ear(), participant.shape.single
                again = rooms.resume("room", participant.identity, JoinOptions(single=single, reconnect=True), ear)
                if again is not None:
                    again.link_opened(ear)
        case 3:
            _receive(participant, script.chunk(2))
        case 4:
            frame = bytearray(_captured()[script.number() % len(_captured())])
            if step & 8:
                frame[script.number(2) % len(frame)] ^= script.number()
            _receive(participant, bytes(frame))
        case _:
            request = REQUESTS[script.number() % len(REQUESTS)](participant, script)
            _receive(participant, request.SerializeToString())
    await trio.lowlevel.checkpoint()


def _receive(participant: Participant, frame: bytes) -> None:
    """As the session's loop does: what is no request ends the connection."""
    try:
        request = decode(frame)
    except MalformedPacket:
        participant.link_lost(participant.link)
    else:
        handle(participant, request)


def _sid(participant: Participant, script: Script) -> str:
    """The sid of a track in the room, or of none."""
    known = [publication.sid for publication in participant.room.publications()]
    which = script.number()
    return known[which % len(known)] if known and which < 0xF0 else script.chunk().decode("latin-1")


def _description(kind: str, participant: Participant, script: Script) -> rtc.SignalRequest:
    """A real client's description, or what we have offered last, as an answer or an offer."""
    which = script.number()
    text = _texts()[which % len(_texts())]
    ear = participant.link
    if which > 0x80 and isinstance(ear, Ear):
        ours = [message for message in ear.heard if message.WhichOneof("message") in {"offer", "answer"}]
        if ours:
            text = getattr(ours[-1], ours[-1].WhichOneof("message") or "offer").sdp.replace("actpass", "active")
    request: rtc.SignalRequest = Rtc.SignalRequest(
        **{kind: rtc.SessionDescription(type=kind, sdp=text, id=script.number())}
    )
    return request


def _request(**fields: Callable[[Participant, Script], Any]) -> Callable[[Participant, Script], rtc.SignalRequest]:
    ((name, make),) = fields.items()
    return lambda participant, script: Rtc.SignalRequest(**{name: make(participant, script)})


REQUESTS: tuple[Callable[[Participant, Script], rtc.SignalRequest], ...] = (
    lambda participant, script: _description("offer", participant, script),
    lambda participant, script: _description("answer", participant, script),
    _request(
        add_track=lambda _, script: Rtc.AddTrackRequest(
            cid=CIDS[script.number() & 3],
            type=script.number() % 3,
            source=script.number() % 5,
            muted=script.flag(),
            layers=[Models.VideoLayer(quality=number, width=script.number(2)) for number in range(script.number() & 3)],
        )
    ),
    _request(mute=lambda one, script: Rtc.MuteTrackRequest(sid=_sid(one, script), muted=script.flag())),
    _request(
        subscription=lambda one, script: Rtc.UpdateSubscription(track_sids=[_sid(one, script)], subscribe=script.flag())
    ),
    _request(
        track_setting=lambda one, script: Rtc.UpdateTrackSettings(
            track_sids=[_sid(one, script)],
            disabled=script.flag(),
            quality=script.number() & 3,
            width=script.number(4),
            fps=script.number(),
        )
    ),
    _request(
        subscription_permission=lambda one, script: Rtc.SubscriptionPermission(
            all_participants=script.flag(),
            track_permissions=[
                Rtc.TrackPermission(participant_identity=NAMES[script.number() & 1], track_sids=[_sid(one, script)])
            ],
        )
    ),
    _request(
        update_metadata=lambda _, script: Rtc.UpdateParticipantMetadata(
            name=script.chunk().decode("latin-1"), attributes={"key": script.chunk().decode("latin-1")}
        )
    ),
    _request(leave=lambda _, script: Rtc.LeaveRequest(reason=script.number() % 16)),
    _request(ping=lambda _, script: script.number(8) >> 1),
    _request(
        trickle=lambda _, script: Rtc.TrickleRequest(
            candidateInit=script.chunk().decode("latin-1"), target=script.number() & 1
        )
    ),
    _request(
        sync_state=lambda one, script: Rtc.SyncState(
            subscription=Rtc.UpdateSubscription(track_sids=[_sid(one, script)], subscribe=script.flag()),
            publish_tracks=[Rtc.TrackPublishedResponse(cid=CIDS[script.number() & 3])],
            track_sids_disabled=[_sid(one, script)],
        )
    ),
    _request(
        publish_data_track_request=lambda _, script: Rtc.PublishDataTrackRequest(
            pub_handle=script.number(2), name=script.chunk().decode("latin-1")
        )
    ),
    _request(unpublish_data_track_request=lambda _, script: Rtc.UnpublishDataTrackRequest(pub_handle=script.number(2))),
    _request(
        simulate=lambda _, script: Rtc.SimulateScenario(
            **({"speaker_update": script.number()} if script.flag() else {"server_leave": True})
        )
    ),
)
