"""Data tracks: packets on the `_data_track` channel, whose handle is rewritten for each subscriber (section 6.8)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from triosfu.rooms.sids import DATA_TRACK, MAX_SID, new_sid
from triosfu.rooms.signals import RequestReason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.rooms.participant import Participant

HEADER = struct.Struct("!BBHHHI")
HANDLE = struct.Struct("!H")
VERSION = 0
MAX_HANDLE = 0xFFFF
MAX_NAME = 256
MAX_CUSTOM = 32
MAX_REQUEST = 16 * 1024  # bytes; most of it is told to everybody


class DataTrack:
    """One published data track."""

    def __init__(self, publisher: Participant, info: models.DataTrackInfo) -> None:
        self.publisher = publisher
        self.info = info
        self.readers: dict[str, tuple[Participant, int]] = {}  # by sid: the subscriber, and its handle


class DataTracks:
    """What one participant publishes and receives of data tracks."""

    def __init__(self, owner: Participant) -> None:
        self._owner = owner
        self._published: dict[int, DataTrack] = {}  # by the publisher's handle
        self._received: dict[int, DataTrack] = {}  # by our handle towards this client
        self._wanted: set[str] = set()  # sids that do not exist yet
        self._next_handle = owner.rng.randint(0, 255)

    def __iter__(self) -> Iterator[DataTrack]:
        return iter(list(self._published.values()))

    def __len__(self) -> int:
        return len(self._published)

    def infos(self) -> list[models.DataTrackInfo]:
        """Return the descriptions of what is published."""
        return [track.info for track in self]

    def has(self, sid: str) -> bool:
        """Tell whether the data track `sid` is published by this participant."""
        return any(track.info.sid == sid for track in self)

    # --- publishing ------------------------------------------------------------------------------------------------

    def publish(self, request: rtc.PublishDataTrackRequest) -> None:
        """Publish a data track, or say why not."""
        owner = self._owner
        reason = self._refusal(request)
        if reason is not None:
            response = rtc.RequestResponse(reason=reason, publish_data_track=request)
            owner.send(rtc.SignalResponse(request_response=response))
            return
        info = models.DataTrackInfo(
            pub_handle=request.pub_handle,
            sid=new_sid(DATA_TRACK, owner.rng),
            name=request.name,
            encryption=request.encryption,
        )
        if request.HasField("frame_encoding"):
            info.frame_encoding.CopyFrom(request.frame_encoding)
        if request.HasField("schema"):
            info.schema.CopyFrom(request.schema)
        track = self._published[request.pub_handle] = DataTrack(owner, info)
        owner.send(rtc.SignalResponse(publish_data_track_response=rtc.PublishDataTrackResponse(info=info)))
        owner.changed(at_once=True)
        owner.room.data_track_published(track)

    def _refusal(self, request: rtc.PublishDataTrackRequest) -> RequestReason | None:
        owner = self._owner
        limit = owner.settings.limits.data_tracks
        if not owner.permission.can_publish_data or not owner.settings.data_tracks:
            return RequestReason.NOT_ALLOWED
        if not 1 <= request.pub_handle <= MAX_HANDLE:
            return RequestReason.INVALID_HANDLE
        if request.ByteSize() > MAX_REQUEST:
            return RequestReason.LIMIT_EXCEEDED
        if not 1 <= len(request.name) <= MAX_NAME:
            return RequestReason.INVALID_NAME
        custom = request.frame_encoding.WhichOneof("value") == "custom"
        if custom and not 1 <= len(request.frame_encoding.custom) <= MAX_CUSTOM:
            return RequestReason.INVALID_REQUEST
        if request.pub_handle in self._published:
            return RequestReason.DUPLICATE_HANDLE
        if any(track.info.name == request.name for track in self):
            return RequestReason.DUPLICATE_NAME
        return RequestReason.LIMIT_EXCEEDED if len(self._published) >= limit else None

    def unpublish(self, request: rtc.UnpublishDataTrackRequest) -> None:
        """Close a data track."""
        track = self._published.pop(request.pub_handle, None)
        if track is None:
            response = rtc.RequestResponse(reason=RequestReason.NOT_FOUND, unpublish_data_track=request)
            self._owner.send(rtc.SignalResponse(request_response=response))
            return
        response_info = rtc.UnpublishDataTrackResponse(info=track.info)
        self._owner.send(rtc.SignalResponse(unpublish_data_track_response=response_info))
        self._drop_readers(track)
        self._owner.changed(at_once=True)

    def receive(self, packet: bytes) -> None:
        """Forward one packet of this participant to each subscriber, under that subscriber's handle."""
        if len(packet) < HEADER.size or packet[0] >> 5 != VERSION:
            self._owner.data.counters["malformed"] += 1
            return
        (handle,) = HANDLE.unpack_from(packet, 2)
        track = self._published.get(handle)
        if track is None:
            self._owner.data.counters["unknown_handle"] += 1
            return
        for reader, theirs in list(track.readers.values()):
            with reader.guard("data track"):
                reader.data.deliver_track(packet[:2] + HANDLE.pack(theirs) + packet[4:])

    # --- subscribing -----------------------------------------------------------------------------------------------

    def update(self, request: rtc.UpdateDataSubscription) -> None:
        """Change which data tracks this participant receives."""
        changed = False
        for each in request.updates:
            if each.subscribe:
                changed |= self._subscribe(each.track_sid)
            else:
                changed |= self._unsubscribe(each.track_sid)
        if changed:
            self._tell_handles()

    def appeared(self, track: DataTrack) -> None:
        """Another participant published a data track."""
        automatic = self._owner.options.auto_subscribe_data_tracks and not track.publisher.permission.hidden
        if track.info.sid in self._wanted or automatic:
            self._owner.room.announcer.introduce(track.publisher, to=self._owner)
            if self._subscribe(track.info.sid):
                self._tell_handles()

    def catch_up(self) -> None:
        """Subscribe to what was there before, if this client takes everything."""
        if self._owner.options.auto_subscribe_data_tracks:
            others = self._owner.room.others(self._owner)
            visible = [other for other in others if not other.permission.hidden]
            sids = [track.info.sid for other in visible for track in other.data_tracks]
            subscribed = [self._subscribe(sid) for sid in sids]
            if any(subscribed):
                self._tell_handles()

    def _subscribe(self, sid: str) -> bool:
        owner = self._owner
        tracks = (track for other in owner.room.others(owner) for track in other.data_tracks)
        track = next((one for one in tracks if one.info.sid == sid), None)
        if track is None or not owner.permission.can_subscribe:
            if len(sid) <= MAX_SID and len(self._wanted) < owner.settings.limits.subscriptions:
                self._wanted.add(sid)
            return False
        if owner.sid in track.readers or len(self._received) >= MAX_HANDLE:
            return False
        self._wanted.discard(sid)
        handle = self._fresh_handle()
        self._received[handle] = track
        track.readers[owner.sid] = owner, handle
        return True

    def _fresh_handle(self) -> int:
        while True:
            self._next_handle = self._next_handle % MAX_HANDLE + 1  # never 0
            if self._next_handle not in self._received:
                return self._next_handle

    def _unsubscribe(self, sid: str) -> bool:
        self._wanted.discard(sid)
        for handle, track in list(self._received.items()):
            if track.info.sid == sid:
                del self._received[handle]
                track.readers.pop(self._owner.sid, None)
                return True
        return False

    def _tell_handles(self) -> None:
        handles = {
            handle: rtc.DataTrackSubscriberHandles.PublishedDataTrack(
                publisher_identity=track.publisher.identity,
                publisher_sid=track.publisher.sid,
                track_sid=track.info.sid,
            )
            for handle, track in self._received.items()
        }
        message = rtc.DataTrackSubscriberHandles(sub_handles=handles)
        self._owner.send(rtc.SignalResponse(data_track_subscriber_handles=message))

    # --- ends ------------------------------------------------------------------------------------------------------

    def permission_changed(self) -> None:
        """Close what the participant may no longer publish, or no longer receive."""
        if not self._owner.permission.can_publish_data and self._published:
            for track in self:
                self._drop_readers(track)
            self._published.clear()
            self._owner.changed(at_once=True)
        if not self._owner.permission.can_subscribe and self._received:
            for track in list(self._received.values()):
                self._unsubscribe(track.info.sid)
            self._tell_handles()

    def hide(self) -> None:
        """Take what is published from those who have it."""
        for track in self:
            self._drop_readers(track)

    def leave_room(self) -> None:
        """Take what is published from those in the room, and receive nothing more of theirs."""
        for track in self:
            self._drop_readers(track)
        self._wanted.clear()
        if self._received:
            for track in list(self._received.values()):
                self._unsubscribe(track.info.sid)
            self._tell_handles()

    def close(self) -> None:
        """Close everything; the participant is leaving."""
        for track in self:
            self._drop_readers(track)
        self._published.clear()
        for track in self._received.values():
            track.readers.pop(self._owner.sid, None)
        self._received.clear()

    def _drop_readers(self, track: DataTrack) -> None:
        for reader, _ in list(track.readers.values()):
            with reader.guard("data track"):
                reader.data_tracks.gone(track.info.sid)

    def gone(self, sid: str) -> None:
        """A data track that this participant may receive is closed."""
        if self._unsubscribe(sid):
            self._tell_handles()
