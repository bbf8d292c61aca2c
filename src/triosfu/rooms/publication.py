"""What one participant publishes: tracks announced by `add_track`, matched to sections of its offers, muted, closed.

Announcement and offer may come in either order (trap 37), and the announcement is answered before any media (trap 36).
Protocol reference, section 4.
"""

from __future__ import annotations

import math
import time
from enum import Enum
from typing import TYPE_CHECKING

import trio
from livekit.protocol import models, rtc

from triosfu.errors import MalformedPacket
from triosfu.media.receiver import TrackReceiver
from triosfu.rooms import track_info
from triosfu.rooms.backup_codecs import prefer, regression
from triosfu.rooms.dynacast import Dynacast, bare
from triosfu.rooms.sids import track_sid
from triosfu.rooms.signals import RequestReason
from triosfu.rooms.track_sections import payload_types, preferences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.peer import PeerConnection
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.subscription import Subscription
    from triosfu.sdp.codecs import Codec
    from triosfu.sdp.sections import Incoming, Section


AUDIO = models.TrackType.AUDIO


class PublicationState(Enum):
    """A track is announced, then its section comes, then it is over."""

    PENDING = "pending"
    PUBLISHED = "published"
    CLOSED = "closed"


class Publication:
    """One published track, in one codec or, with a backup codec, in two."""

    def __init__(self, publisher: Participant, cid: str, info: models.TrackInfo) -> None:
        times = publisher.settings.times
        self.publisher = publisher
        self.cid = cid
        self.info = info
        self.state = PublicationState.PENDING
        self.receivers: dict[str, TrackReceiver] = {}  # by mime, the one to be preferred first
        self.sections: dict[str, str] = {}  # mid -> mime
        self.subscriptions: dict[str, Subscription] = {}  # by the subscriber's sid
        self.subscribed_told = False
        self.dynacast = Dynacast(
            info.sid,
            now=trio.current_time(),
            downgrade_delay=times.dynacast_downgrade,
            first_off_delay=times.dynacast_first_off,
        )

    def __repr__(self) -> str:
        return f"<Publication {self.info.sid} {self.state.value}>"

    @property
    def sid(self) -> str:
        """The track's sid."""
        return self.info.sid

    @property
    def kind(self) -> str:
        """The word that SDP has for the kind: audio or video."""
        return "audio" if self.info.type == AUDIO else "video"

    @property
    def encrypted(self) -> bool:
        """Whether the payload is the clients' secret."""
        return self.info.encryption != models.Encryption.Type.NONE

    def layers(self, mime: str) -> list[models.VideoLayer]:
        """Return the layers announced for one of the codecs."""
        for codec in self.info.codecs:
            if codec.mime_type.lower() == mime.lower():
                return list(codec.layers)
        return list(self.info.layers)

    def goes_by(self, track_id: str) -> bool:
        """Tell whether the client calls this track `track_id` in its descriptions."""
        return any(track_id and track_id in {codec.cid, codec.sdp_cid} for codec in self.info.codecs)


class Publications:
    """The tracks of one participant."""

    def __init__(self, owner: Participant) -> None:
        self._owner = owner
        self.published: dict[str, Publication] = {}  # by sid
        self._pending: dict[str, Publication] = {}  # by cid
        self._queued: dict[str, list[rtc.AddTrackRequest]] = {}
        self._unmatched: dict[str, tuple[PeerConnection, Section]] = {}  # sections that came before their track, by mid
        self._matched: list[tuple[Publication, PeerConnection, Section]] = []  # to be received after the answer
        self._taken: dict[str, Publication] = {}  # by cid: no longer pending, not yet published

    def __iter__(self) -> Iterator[Publication]:
        return iter(list(self.published.values()))

    def __len__(self) -> int:
        return len(self.published)

    def find(self, sid: str) -> Publication | None:
        """Return the track `sid`, announced or published."""
        if publication := self.published.get(sid):
            return publication
        announced = [*self._pending.values(), *self._taken.values()]
        return next((pending for pending in announced if pending.sid == sid), None)

    # --- announcements ---------------------------------------------------------------------------------------------

    def add_track(self, request: rtc.AddTrackRequest) -> None:
        """Answer an announcement: with `track_published`, or with the reason why not (section 4.2)."""
        self._take(request)
        self.settle()

    def _take(self, request: rtc.AddTrackRequest) -> None:
        refusal = self._refusal(request)
        if refusal is not None:
            self._refuse(request, *refusal)
        elif request.sid:
            self._add_codecs(self.published[request.sid], request)
        elif self._knows(request.cid):
            queue = self._queued.setdefault(request.cid, [])
            if len(queue) >= self._owner.settings.limits.queued_tracks:
                self._refuse(request, RequestReason.LIMIT_EXCEEDED, "too many requests for one cid")
                return
            queue.append(request)
            self._refuse(request, RequestReason.QUEUED, "")
        else:
            self._announce(request)

    def _knows(self, cid: str) -> bool:
        return cid in self._pending or cid in self._taken or any(one.cid == cid for one in self.published.values())

    def _refusal(self, request: rtc.AddTrackRequest) -> tuple[RequestReason, str] | None:
        limits = self._owner.settings.limits
        if not self._owner.permission.may_publish(request.source):
            return RequestReason.NOT_ALLOWED, "does not have permission to publish from this source"
        if request.type not in {models.TrackType.AUDIO, models.TrackType.VIDEO}:
            return RequestReason.UNSUPPORTED_TYPE, "unsupported track type"
        try:
            track_info.check_add_track(request)
        except MalformedPacket as error:
            return RequestReason.LIMIT_EXCEEDED, str(error)
        if request.sid:
            return None if request.sid in self.published else (RequestReason.NOT_FOUND, "track not found")
        waiting = len(self._pending) + len(self._taken) + sum(map(len, self._queued.values()))
        if waiting >= limits.pending_tracks or len(self.published) >= limits.published_tracks:
            return RequestReason.LIMIT_EXCEEDED, "too many tracks"
        return None

    def _refuse(self, request: rtc.AddTrackRequest, reason: RequestReason, message: str) -> None:
        # Nothing else is done to a client that asked in vain (section 17, row 6).
        self._owner.send(
            rtc.SignalResponse(request_response=rtc.RequestResponse(reason=reason, message=message, add_track=request))
        )

    def _announce(self, request: rtc.AddTrackRequest) -> None:
        owner = self._owner
        sid = track_sid(request.type, request.source, owner.rng)
        publication = Publication(owner, request.cid, track_info.new_track_info(request, sid, owner.enabled_codecs))
        self._pending[request.cid] = publication
        owner.room.counters[f"publish: {publication.kind}"] += 1
        self._confirm(request.cid, publication)

    def _add_codecs(self, publication: Publication, request: rtc.AddTrackRequest) -> None:
        """A client that starts a backup codec announces it for the track that it has (section 4.2)."""
        enabled = self._owner.enabled_codecs
        for asked in request.simulcast_codecs:
            mime = track_info.canonical_mime(asked.codec, request.type, enabled)
            for codec in publication.info.codecs:
                if codec.mime_type.lower() == mime.lower() and codec.mime_type not in publication.receivers:
                    codec.cid = asked.cid
                    if layers := track_info.sorted_layers(asked.layers or request.layers):
                        del codec.layers[:]
                        codec.layers.extend(layers)
        self._confirm(request.cid, publication)

    def _confirm(self, cid: str, publication: Publication) -> None:
        self._owner.send(
            rtc.SignalResponse(track_published=rtc.TrackPublishedResponse(cid=cid, track=publication.info))
        )

    # --- sections --------------------------------------------------------------------------------------------------

    def incoming(self, peer: PeerConnection, section: Section) -> None:
        """Take note of a section in which the client sends; `settle` gives it to its track."""
        if section.mid in self._unmatched or len(self._unmatched) < self._owner.settings.limits.sections:
            self._unmatched[section.mid] = (peer, section)

    def settle(self) -> None:
        """Match sections and tracks: called when an offer has been read whole, and after each announcement.

        Exact names go first for all sections; only then may a section take the first pending track of its kind, which
        is how a track is found whose id the browser changed (section 4.3). What is matched while an offer waits for
        its answer shapes that answer, and is received from `answered` on.
        """
        for guess in (False, True):
            for peer, section in list(self._unmatched.values()):
                self._match(peer, section, guess=guess)
        if not self._owner.negotiator.answering:
            self.answered()

    def answered(self) -> None:
        """Receive the media of the sections that were matched; their codecs are settled now."""
        matched, self._matched = self._matched, []
        for publication, peer, section in matched:
            if (
                section.incoming is not None
                and section.incoming.codecs
                and publication.state is not PublicationState.CLOSED
            ):
                # The first of the answer is what clients use, usually.
                self._attach(publication, peer, section, section.incoming, section.incoming.codecs[0])

    def _match(self, peer: PeerConnection, section: Section, *, guess: bool) -> None:
        incoming = section.incoming
        if incoming is None:
            self._unmatched.pop(section.mid, None)
            return
        publication = self._owner_of(section, incoming, guess=guess)
        if publication is None:
            return
        del self._unmatched[section.mid]
        info = publication.info
        if not publication.goes_by(incoming.track_id):
            info.codecs[0].sdp_cid = incoming.track_id
        if self._pending.pop(publication.cid, None):
            self._taken[publication.cid] = publication
        section.preferences = preferences(info, _codec_index(info, incoming.track_id))
        self._matched.append((publication, peer, section))

    def _owner_of(self, section: Section, incoming: Incoming, *, guess: bool) -> Publication | None:
        kind = section.kind
        for publication in [*self.published.values(), *self._taken.values()]:
            if section.mid in publication.sections:
                return publication
            if publication.kind == kind and publication.goes_by(incoming.track_id):
                return publication
        if named := self._pending.get(incoming.track_id):
            return named if named.kind == kind else None
        pending = [one for one in self._pending.values() if one.kind == kind]
        for publication in pending:
            if publication.goes_by(incoming.track_id):
                return publication
        return pending[0] if guess and pending else None

    def _attach(
        self, publication: Publication, peer: PeerConnection, section: Section, incoming: Incoming, codec: Codec
    ) -> None:
        """Receive the media of a section as (one codec of) a track; `codec` is the one it comes in."""
        info = publication.info
        index = _codec_index(info, incoming.track_id)
        rids = track_info.quality_order(incoming.rids)
        fresh = section.mid not in publication.sections
        receiver = publication.receivers.get(publication.sections.get(section.mid, codec.mime))
        if receiver is None:
            receiver = TrackReceiver(
                kind=publication.kind,
                mime=codec.mime,
                clock_rate=codec.clock_rate,
                now=trio.current_time(),
                screenshare=info.source == models.TrackSource.SCREEN_SHARE,
                settings=self._owner.settings.reception,
            )
            publication.receivers[codec.mime] = receiver
        publication.sections[section.mid] = receiver.mime
        peer.ingress.add_track(
            receiver,
            mid=section.mid,
            rids=rids,
            ssrcs=incoming.ssrcs,
            rtx=incoming.fid,
            payload_types=payload_types(incoming.codecs),
            extension_ids={uri: number for number, uri in incoming.extensions.items()},
        )
        track_info.set_published(
            info, index, mime=receiver.mime, mid=section.mid, rids=rids, version=self._owner.room.timed_version()
        )
        first = publication.state is PublicationState.PENDING
        if first:
            self._taken.pop(publication.cid, None)
            self.published[publication.sid] = publication
            publication.state = PublicationState.PUBLISHED
        if publication.kind == "video":
            now, codecs = trio.current_time(), [bare(each.mime_type) for each in info.codecs if each.mime_type]
            publication.dynacast.mute(info.muted, now)  # as announced, or muted since
            self.tell_quality(publication, publication.dynacast.set_codecs(codecs, now))
        if first or fresh:
            self._owner.changed(at_once=True)
            self._owner.room.track_published(publication, first=first)

    def follow_codecs(self) -> None:
        """Receive tracks in the codec that they come in: a client may use any that was agreed upon (RFC 3264, 5.1)."""
        for publication in self:
            for mid, mime in list(publication.sections.items()):
                if other := publication.receivers[mime].changed_codec():
                    self._change_codec(publication, mid, other)
            room, threshold = self._owner.room, self._owner.settings.codec_regression_threshold
            if backup := regression(publication, people=len(room.participants), threshold=threshold):
                prefer(publication, backup)
                room.track_published(publication, first=False)  # everybody looks which codec to have

    def _change_codec(self, publication: Publication, mid: str, mime: str) -> None:
        """Receive a section in another codec; whoever receives the track needs another agreement for that, too."""
        peer = self._owner.shape.publisher
        section = next((one for one in peer.negotiation.sections if one.mid == mid), None)
        incoming = None if section is None else section.incoming
        if section is None or incoming is None:
            return
        codec = next((one for one in incoming.codecs if one.mime.lower() == mime.lower()), None)
        if codec is None or codec.mime in publication.receivers:
            return
        previous = publication.receivers.pop(publication.sections.pop(mid))
        self._stop_receiving(publication, previous, peer)
        for subscription in list(publication.subscriptions.values()):
            if subscription.receiver in (None, previous):
                with subscription.subscriber.guard("codec change"):
                    subscription.subscriber.subscriptions.track_changed(subscription)
        backups = dict(publication.receivers)
        publication.receivers.clear()
        self._attach(publication, peer, section, incoming, codec)
        publication.receivers.update(backups)

    def ended(self, peer: PeerConnection, section: Section) -> None:
        """Close the track whose section the client stopped sending in; that is how clients unpublish (section 4.5)."""
        self._unmatched.pop(section.mid, None)
        self._matched = [each for each in self._matched if each[2] is not section]
        for publication in self:
            mime = publication.sections.pop(section.mid, None)
            if mime is None:
                continue
            receiver = publication.receivers[mime]
            if mime not in publication.sections.values():
                del publication.receivers[mime]
                self._stop_receiving(publication, receiver, peer)
                if publication.sections:
                    self._codec_ended(publication, receiver)
            if not publication.sections:
                self._close(publication)
                self._owner.changed(at_once=True)

    def _codec_ended(self, publication: Publication, receiver: TrackReceiver) -> None:
        for subscription in list(publication.subscriptions.values()):
            if subscription.receiver is receiver:
                with subscription.subscriber.guard("codec end"):
                    subscription.subscriber.subscriptions.codec_ended(subscription)

    # --- changes ---------------------------------------------------------------------------------------------------

    def mute(self, request: rtc.MuteTrackRequest) -> None:
        """Mute or unmute by the client's own wish."""
        if not self.set_muted(request.sid, muted=request.muted):
            self._owner.send(
                rtc.SignalResponse(request_response=rtc.RequestResponse(reason=RequestReason.NOT_FOUND, mute=request))
            )

    def mute_remotely(self, sid: str, *, muted: bool) -> bool:
        """Mute or unmute by an administrator's wish; False without such a track, or when unmuting is not allowed."""
        publication = self.find(sid)
        if publication is None or (not muted and publication.info.muted and not self._owner.settings.remote_unmute):
            return False
        self._owner.send(rtc.SignalResponse(mute=rtc.MuteTrackRequest(sid=sid, muted=muted)))
        return self.set_muted(sid, muted=muted)

    def set_muted(self, sid: str, *, muted: bool) -> bool:
        """Mute or unmute and tell everybody; False when there is no such track."""
        publication = self.find(sid)
        if publication is None:
            return False
        if publication.info.muted == muted:
            return True
        publication.info.muted = muted  # before anything is told: a stale value makes JS mute anew (trap 21)
        now = trio.current_time()
        for subscription in list(publication.subscriptions.values()):
            subscription.set_muted(muted=muted)
        if publication.state is PublicationState.PUBLISHED:
            self._owner.changed(at_once=True)
            self.tell_quality(publication, publication.dynacast.mute(muted, now))
        return True

    def update_audio(self, request: rtc.UpdateLocalAudioTrack) -> None:
        """Replace the audio features of a track."""
        publication = self.find(request.track_sid)
        if publication is None:
            response = rtc.RequestResponse(reason=RequestReason.NOT_FOUND, update_audio_track=request)
            self._owner.send(rtc.SignalResponse(request_response=response))
            return
        track_info.set_audio_features(publication.info, request.features)
        self._changed(publication)

    def update_video(self, request: rtc.UpdateLocalVideoTrack) -> None:
        """Change the dimensions of a track."""
        publication = self.find(request.track_sid)
        if publication is None:
            response = rtc.RequestResponse(reason=RequestReason.NOT_FOUND, update_video_track=request)
            self._owner.send(rtc.SignalResponse(request_response=response))
            return
        publication.info.width, publication.info.height = request.width, request.height
        self._changed(publication)

    def _changed(self, publication: Publication) -> None:
        if publication.state is PublicationState.PUBLISHED:
            publication.info.version.CopyFrom(self._owner.room.timed_version())
            self._owner.changed(at_once=True)

    def tell_quality(self, publication: Publication, message: rtc.SignalResponse | None) -> None:
        """Send the publisher what dynacast decided, and keep its next deadline."""
        if message is not None and publication.state is PublicationState.PUBLISHED:
            self._owner.send(message)
            for receiver in publication.receivers.values():
                receiver.expect(range(track_info.MAX_LAYERS))  # what starts again counts from its first packet
        name = ("dynacast", publication.sid)
        at = publication.dynacast.next_timeout()
        if at == math.inf or publication.state is PublicationState.CLOSED:
            self._owner.deadlines.disarm(name)
        else:
            self._owner.deadlines.arm(
                name,
                at,
                lambda: self.tell_quality(publication, publication.dynacast.handle_timeout(trio.current_time())),
            )

    def tell_subscribed(self, publication: Publication) -> None:
        """Tell the publisher, once per track, that somebody receives it (trap 44)."""
        if not publication.subscribed_told:
            publication.subscribed_told = True
            self._owner.send(rtc.SignalResponse(track_subscribed=rtc.TrackSubscribed(track_sid=publication.sid)))

    # --- ends ------------------------------------------------------------------------------------------------------

    def enforce_permission(self) -> None:
        """Close what the participant may no longer publish, and tell it so."""
        revoked = [one for one in self if not self._owner.permission.may_publish(one.info.source)]
        for publication in revoked:
            self._detach(publication)
            self._close(publication)
            response = rtc.TrackUnpublishedResponse(track_sid=publication.sid)
            self._owner.send(rtc.SignalResponse(track_unpublished=response))
        for waiting in (self._pending, self._taken):
            for cid, pending in list(waiting.items()):
                if not self._owner.permission.may_publish(pending.info.source):
                    del waiting[cid]
                    pending.state = PublicationState.CLOSED
        if revoked:
            self._owner.changed(at_once=True)

    def hide(self) -> None:
        """Take every track from those who have it; webhooks are told nothing of that."""
        for publication in self:
            for other in self._owner.room.others(self._owner):
                with other.guard("hidden track"):
                    other.subscriptions.track_closed(publication)

    def leave_room(self) -> None:
        """Take every track from those in the room; they go on elsewhere."""
        for publication in self:
            self._owner.room.track_closed(publication)
            publication.subscribed_told = False

    def close(self) -> None:
        """Close every track; the participant is leaving, and its last update tells."""
        self._pending.clear()
        self._taken.clear()
        self._queued.clear()
        self._unmatched.clear()
        self._matched.clear()
        for publication in self:
            self._detach(publication)
            self._close(publication)

    def _detach(self, publication: Publication) -> None:
        for receiver in publication.receivers.values():
            self._stop_receiving(publication, receiver, self._owner.shape.publisher)
        publication.sections.clear()
        publication.receivers.clear()

    def _stop_receiving(self, publication: Publication, receiver: TrackReceiver, peer: PeerConnection) -> None:
        peer.ingress.remove_track(receiver)
        self._owner.tally.receiver_ended(publication, receiver)

    def _close(self, publication: Publication) -> None:
        publication.state = PublicationState.CLOSED
        self.published.pop(publication.sid, None)
        self._owner.deadlines.disarm(("dynacast", publication.sid))
        self._owner.room.track_closed(publication)
        queue = self._queued.get(publication.cid)
        if queue and not self._owner.closed:
            request = queue.pop(0)
            if not queue:
                del self._queued[publication.cid]
            self._take(request)


def timed_version(previous: models.TimedVersion) -> models.TimedVersion:
    """Return a version that is later than `previous`, from the wall clock where that moved on."""
    micro = time.time_ns() // 1000
    if micro > previous.unix_micro:
        return models.TimedVersion(unix_micro=micro)
    return models.TimedVersion(unix_micro=previous.unix_micro, ticks=previous.ticks + 1)


def _codec_index(info: models.TrackInfo, track_id: str) -> int:
    """Which of the track's codecs the client calls `track_id`; the primary one goes by any name."""
    return next((index for index, codec in enumerate(info.codecs) if codec.cid == track_id), 0)
