"""What one participant receives: what it wishes for, what it may have, and what it has.

`Subscriptions` keeps the wishes; `_reconcile` brings one of them as far as it can come now, and is called again by
every event that may let it come further: a track appears, a permission changes, an answer arrives. So there is no
loop that asks, and a wish that nothing can fulfil ends at its deadline. Protocol reference, section 5.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import trio
from livekit.protocol import models, rtc

from triosfu.media.down_track import DownTrack
from triosfu.media.shape import playout_delay
from triosfu.rooms import track_info
from triosfu.rooms.backup_codecs import promised_for, receiver_for, sendable
from triosfu.rooms.configuration import LONGEST_DELAY
from triosfu.rooms.dynacast import OFF, bare
from triosfu.rooms.publication import PublicationState
from triosfu.rooms.sids import MAX_SID
from triosfu.rooms.track_settings import TrackSettings
from triosfu.sdp.sections import Sender

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from triosfu.media.handover import LeftOff
    from triosfu.media.receiver import TrackReceiver
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.publication import Publication

SYNC_STREAMS_SINCE = 10  # signalling protocol


class Subscription:
    """One wish of one subscriber for one track."""

    def __init__(self, subscriber: Participant, track_sid: str) -> None:
        self.subscriber = subscriber
        self.track_sid = track_sid
        self.publication: Publication | None = None
        self.allowed: bool | None = None  # as the subscriber was told
        self.sender: Sender | None = None  # its section, or its place in the queue for one
        self.down: DownTrack | None = None  # its media, once negotiated
        self.receiver: TrackReceiver | None = None
        self.awaited: str | None = None  # the codec that its publisher was asked for, as long as it does not come

    def __repr__(self) -> str:
        return f"<Subscription of {self.subscriber.identity} to {self.track_sid}>"

    def set_muted(self, *, muted: bool) -> None:
        """Follow the publisher's mute."""
        if self.down is not None:
            self.down.set_muted(muted, trio.current_time())
            self.subscriber.shape.subscriber.drain_soon()  # there may be something to say at once


class Subscriptions:
    """The wishes of one participant."""

    def __init__(self, owner: Participant) -> None:
        self._owner = owner
        self._wishes: dict[str, Subscription] = {}
        self._declined: set[str] = set()  # auto-subscription leaves these alone
        self._settings: dict[str, TrackSettings] = {}
        self._publishers: Counter[str] = Counter()  # sids of those whose media is bound here

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._wishes.values()))

    def __len__(self) -> int:
        return len(self._wishes)

    def receives_from(self, participant_sid: str) -> bool:
        """Tell whether any track of that participant is being received."""
        return self._publishers[participant_sid] > 0

    @property
    def publishers(self) -> list[str]:
        """The sids of those whose media is received."""
        return [sid for sid, tracks in self._publishers.items() if tracks > 0]

    # --- wishes ----------------------------------------------------------------------------------------------------

    def update(self, request: rtc.UpdateSubscription) -> None:
        """Subscribe to, or unsubscribe from, all tracks that `request` names."""
        sids = [*request.track_sids, *(sid for each in request.participant_tracks for sid in each.track_sids)]
        for sid in self._worth_keeping(sids):
            if request.subscribe:
                self.subscribe(sid)
            else:
                self.unsubscribe(sid)

    def _worth_keeping(self, sids: Iterable[str]) -> list[str]:
        """What a client names, once each: no more, and nothing longer, than can be remembered."""
        limit = self._owner.settings.limits.subscriptions
        return list(islice((sid for sid in dict.fromkeys(sids) if len(sid) <= MAX_SID), limit))

    def subscribe(self, sid: str) -> None:
        """Wish for the track `sid`; an answer comes when it is not found within a minute."""
        self._declined.discard(sid)
        if sid not in self._wishes:
            if len(self._wishes) >= self._owner.settings.limits.subscriptions:
                return
            self._wishes[sid] = Subscription(self._owner, sid)
        self._reconcile(self._wishes[sid])

    def unsubscribe(self, sid: str) -> None:
        """Give up the track `sid`."""
        if len(self._declined) < self._owner.settings.limits.subscriptions:
            self._declined.add(sid)
        if subscription := self._wishes.pop(sid, None):
            self._owner.deadlines.disarm(("not found", sid))
            self._release(subscription)

    def auto_subscribe(self, publications: Iterable[Publication]) -> None:
        """Wish for these tracks, if this client takes everything, except for those that it declined.

        Tracks of who is hidden are not wished for unasked: to receive them is to be told of their publisher.
        """
        options = self._owner.options
        if options.auto_subscribe:
            for publication in publications:
                if publication.publisher.permission.hidden or not options.selection.takes(publication):
                    continue
                if publication.sid not in self._declined and publication.publisher is not self._owner:
                    self.subscribe(publication.sid)

    # --- events that may let a wish come further -------------------------------------------------------------------

    def track_published(self, publication: Publication) -> None:
        """A track is there now, or has one more codec."""
        if subscription := self._wishes.get(publication.sid):
            self._reconcile(subscription)
        self.auto_subscribe([publication])

    def track_changed(self, subscription: Subscription) -> None:
        """A track comes in another codec now: what was agreed upon for it is of no use."""
        self._release(subscription)

    def codec_ended(self, subscription: Subscription) -> None:
        """A track comes in one codec less: go on with another, if there is one that this client takes."""
        self._bind(subscription)

    def track_closed(self, publication: Publication) -> None:
        """A track is gone for good."""
        self._settings.pop(publication.sid, None)
        self._declined.discard(publication.sid)
        if subscription := self._wishes.pop(publication.sid, None):
            self._release(subscription)

    def permission_changed(self) -> None:
        """Look at every wish again."""
        for subscription in self:
            self._reconcile(subscription)

    def rules_changed(self, publisher: Participant) -> None:
        """A publisher changed who may receive its tracks."""
        for subscription in self:
            if subscription.publication is not None and subscription.publication.publisher is publisher:
                self._reconcile(subscription)

    def negotiated(self) -> None:
        """A description was agreed upon: bind what has its codecs now, give up what the client cannot decode."""
        for subscription in self:
            sender = subscription.sender
            if sender is None:
                continue
            if sender.refused:
                self._unsupported(subscription)
            elif sender.negotiated:
                self._bind(subscription)
            elif subscription.down is not None:
                # It lost its section, and waits for another. There it begins anew, and so needs other SSRCs: on the old
                # ones the client's replay protection would refuse numbers that lie behind (RFC 3711, section 3.3.2).
                self._unbind(subscription)
                sender.ssrc = self._new_ssrc()
                if sender.rtx_ssrc is not None:
                    sender.rtx_ssrc = self._new_ssrc()
        if self._owner.shape.fixed:
            self._fill_place()  # there are places now

    def connected(self) -> None:
        """The transport that carries media to this client is up."""
        for subscription in self:
            if subscription.down is not None and subscription.publication is not None:
                self._started(subscription, subscription.publication)

    # --- how far a wish comes --------------------------------------------------------------------------------------

    def _reconcile(self, subscription: Subscription) -> None:
        owner, sid = self._owner, subscription.track_sid
        publication = subscription.publication or owner.room.find_track(sid)
        if publication is None or publication.state is not PublicationState.PUBLISHED:
            if ("not found", sid) not in owner.deadlines:
                at = trio.current_time() + owner.settings.times.track_not_found
                owner.deadlines.arm(("not found", sid), at, lambda: self._give_up(sid))
            return
        owner.deadlines.disarm(("not found", sid))
        publisher = publication.publisher
        if publisher is owner or not owner.permission.can_subscribe:
            self._release(subscription)
            return
        allowed = publisher.rules.allows(owner.identity, sid, recorder=owner.permission.recorder)
        subscription.publication = publication
        if allowed != subscription.allowed:
            subscription.allowed = allowed
            update = rtc.SubscriptionPermissionUpdate(participant_sid=publisher.sid, track_sid=sid, allowed=allowed)
            owner.send(rtc.SignalResponse(subscription_permission_update=update))
        if not allowed:
            self._release(subscription)
            return
        if subscription.sender is None and self._has_place(publication):
            # Every client drops media whose publisher it does not know (trap 17).
            owner.room.announcer.introduce(publisher, to=owner)
            subscription.sender = owner.shape.send(self._new_sender(publication))
            self._count("attempt")
            publication.subscriptions[owner.sid] = subscription
            owner.negotiator.request()
        if subscription.sender is not None and subscription.sender.negotiated and not owner.negotiator.answering:
            preferred = receiver_for(publication, subscription.sender.negotiated)
            if preferred is None or preferred is not subscription.receiver:
                self._bind(subscription)  # its place was agreed upon long ago, or it comes in another codec

    def _has_place(self, publication: Publication) -> bool:
        """Tell whether one more track may be received; a wish beyond that waits for another to end."""
        kind, limits = publication.kind, self._owner.settings.limits
        if not self._owner.shape.has_place(kind, sendable(publication)):
            return False
        limit = limits.subscribed_video if kind == "video" else limits.subscribed_audio
        return not limit or sum(one.sender is not None and one.sender.kind == kind for one in self) < limit

    def _count(self, what: str) -> None:
        self._owner.room.counters[f"subscribe: {what}"] += 1

    def _give_up(self, sid: str) -> None:
        self._wishes.pop(sid, None)
        self._count("track not found")
        response = rtc.SubscriptionResponse(track_sid=sid, err=models.SubscriptionError.SE_TRACK_NOTFOUND)
        self._owner.send(rtc.SignalResponse(subscription_response=response))

    def _new_sender(self, publication: Publication) -> Sender:
        video = publication.kind == "video"
        return Sender(
            kind=publication.kind,
            track_id=publication.sid,
            stream_id=f"{publication.publisher.sid}|{self._stream_name(publication)}",
            ssrc=self._new_ssrc(),
            rtx_ssrc=self._new_ssrc() if video else None,
            codecs=sendable(publication),
            stereo=publication.info.stereo,
        )

    def _stream_name(self, publication: Publication) -> str:
        """What the client's stream is called, after the publisher: browsers play tracks of one stream in step."""
        client = self._owner.options.client
        together = self._owner.room.own.sync_streams and client.protocol >= SYNC_STREAMS_SINCE
        return publication.info.stream if together and client.browser.lower() != "firefox" else publication.sid

    def _playout_delay(self, publication: Publication) -> bytes:
        """How long this client is asked to hold frames back; a shared screen is shown at once."""
        bounds = self._owner.room.own.playout_delay
        if bounds is None or publication.info.source == models.TrackSource.SCREEN_SHARE:
            # What goes on as one stream may come from a room with a delay, and has to be told that this one has none.
            return playout_delay(0, LONGEST_DELAY) if self._owner.shape.fixed and self._owner.departures else b""
        return playout_delay(*bounds)

    def _new_ssrc(self) -> int:
        used = {ssrc for one in self if one.sender for ssrc in (one.sender.ssrc, one.sender.rtx_ssrc)}
        while (ssrc := self._owner.rng.randrange(1, 1 << 32)) in used:
            pass
        return ssrc

    def _bind(self, subscription: Subscription) -> None:
        """Let media flow as negotiated; again after each negotiation, since numbers may change."""
        publication, sender = subscription.publication, subscription.sender
        if publication is None or sender is None:
            return
        receiver = receiver_for(publication, sender.negotiated)
        if receiver is None:
            self._ask_for_codec(subscription, publication, promised_for(publication, sender.negotiated))
            return
        now = trio.current_time()
        waited = self._end_waiting(subscription)
        fresh, continuing = subscription.down is None, None
        if subscription.receiver is not receiver:
            if subscription.down is not None:
                self._owner.tally.subscription_ended(subscription)
                continuing = self._leave_codec(subscription.down)
            subscription.down = self._new_down(
                publication, sender, receiver, now, continuing or self._owner.shape.left_off(sender)
            )
            subscription.receiver = receiver
        down = subscription.down
        if down is None:
            return
        down.bind(
            payload_types={codec.mime: codec.payload_type for codec in reversed(sender.negotiated)},
            rtx_payload_types={
                codec.mime: codec.rtx_payload_type
                for codec in reversed(sender.negotiated)
                if codec.rtx_payload_type is not None
            },
            extension_ids=sender.extensions,
            now=now,
        )
        if continuing is not None:
            self._owner.shape.subscriber.sender.add(down)
            self._apply(subscription)
        elif fresh:
            self._owner.shape.subscriber.sender.add(down)
            self._publishers[publication.publisher.sid] += 1
            self._count("success")
            if not waited:
                self._first_settings(publication)
            self._apply(subscription)
            self._owner.room.quality.introduce(publication.publisher, to=self._owner)
            self._owner.room.speakers.introduce(publication.publisher, to=self._owner)
            if self._owner.shape.subscriber_connected:
                self._started(subscription, publication)
        self._owner.shape.subscriber.drain_soon()  # the track may have set itself a time

    def _new_down(
        self, publication: Publication, sender: Sender, receiver: TrackReceiver, now: float, continuing: LeftOff | None
    ) -> DownTrack:
        down = DownTrack(
            receiver=receiver,
            sink=self._owner.shape.subscriber.sink,
            ssrc=sender.ssrc,
            rtx_ssrc=sender.rtx_ssrc,
            rng=self._owner.rng,
            now=now,
            cname=sender.stream_id,
            mid=sender.mid or "",
            encrypted=publication.encrypted,
            playout_delay=self._playout_delay(publication),
            continuing=continuing,
        )
        down.set_muted(publication.info.muted, now)
        return down

    def _leave_codec(self, down: DownTrack) -> LeftOff:
        """Stop what comes in one codec; what comes in another goes on from there, on the same SSRCs."""
        down.unbind()
        self._owner.shape.subscriber.sender.remove(down)
        return down.left_off()

    def _ask_for_codec(self, subscription: Subscription, publication: Publication, mime: str | None) -> None:
        """Nothing that comes is of use to this client: ask for the codec `mime`, which its publisher has announced."""
        if mime is None:
            self._unsupported(subscription)
            return
        if subscription.awaited is None:
            self._unbind(subscription)
            self._count("backup codec")
            self._first_settings(publication)
            self._wait_for_codec(subscription)
        subscription.awaited = mime
        self._apply(subscription)

    def _wait_for_codec(self, subscription: Subscription) -> None:
        at = trio.current_time() + self._owner.settings.times.backup_codec
        self._owner.deadlines.arm(("codec", subscription.track_sid), at, partial(self._codec_overdue, subscription))

    def _codec_overdue(self, subscription: Subscription) -> None:
        """The publisher sends nothing that this client takes; while it is not to, that is as it should be."""
        publication = subscription.publication
        settings = self._settings.get(subscription.track_sid)
        if publication is not None and (publication.info.muted or (settings is not None and not settings.enabled)):
            self._wait_for_codec(subscription)
        else:
            self._unsupported(subscription)

    def _end_waiting(self, subscription: Subscription) -> bool:
        """Wait for no codec any more; return whether one was waited for."""
        self._owner.deadlines.disarm(("codec", subscription.track_sid))
        waited, subscription.awaited = subscription.awaited is not None, None
        return waited

    def _started(self, subscription: Subscription, publication: Publication) -> None:
        if not self._owner.permission.hidden:
            publication.publisher.publications.tell_subscribed(publication)
        if subscription.down is not None:
            # What came before the transport was up reached nobody: begin with a keyframe (trap 42).
            subscription.down.resync(trio.current_time())

    def _unsupported(self, subscription: Subscription) -> None:
        self._wishes.pop(subscription.track_sid, None)
        self._count("codec not supported")
        self._release(subscription)
        response = rtc.SubscriptionResponse(
            track_sid=subscription.track_sid, err=models.SubscriptionError.SE_CODEC_UNSUPPORTED
        )
        self._owner.send(rtc.SignalResponse(subscription_response=response))

    def _unbind(self, subscription: Subscription) -> LeftOff | None:
        """Stop a subscription's media; return where its stream stands, if there was any."""
        publication, down = subscription.publication, subscription.down
        self._owner.tally.subscription_ended(subscription)
        subscription.down = subscription.receiver = None
        waited = self._end_waiting(subscription)
        if publication is not None and (down is not None or waited):
            message = publication.dynacast.forget(self._owner.sid, trio.current_time())
            publication.publisher.publications.tell_quality(publication, message)
        if down is None:
            return None
        left_off = self._leave_codec(down)
        if publication is not None:
            publisher = publication.publisher
            self._publishers[publisher.sid] -= 1
            if self._publishers[publisher.sid] <= 0:
                del self._publishers[publisher.sid]
                self._owner.room.speakers.forget(publisher, by=self._owner)
        return left_off

    def _release(self, subscription: Subscription) -> None:
        """Take a subscription's media and section away; the wish itself is not this function's business."""
        left_off = self._unbind(subscription)
        sender, subscription.sender = subscription.sender, None
        if subscription.publication is not None:
            subscription.publication.subscriptions.pop(self._owner.sid, None)
        if sender is not None and not self._owner.closed:
            self._owner.shape.withdraw(sender, left_off)
            self._owner.negotiator.request()
            self._fill_place()

    def _fill_place(self) -> None:
        """Let the wishes that wait for a place have the one that became free."""
        limits = self._owner.settings.limits
        if limits.subscribed_video or limits.subscribed_audio or self._owner.shape.fixed:
            for waiting in self:
                if waiting.publication is not None and waiting.sender is None:
                    self._reconcile(waiting)

    # --- settings --------------------------------------------------------------------------------------------------

    def set_settings(self, request: rtc.UpdateTrackSettings) -> None:
        """Note how much of each named track is wanted; a track need not be subscribed to, or exist, yet."""
        settings = TrackSettings.parse(request)
        for sid in self._worth_keeping(request.track_sids):
            previous = self._settings.get(sid)
            if previous is None and len(self._settings) >= self._owner.settings.limits.stored_settings:
                return
            self._settings[sid] = settings
            if previous is None or (settings.enabled and not previous.enabled):
                self._apply_now(sid)
            elif ("settings", sid) not in self._owner.deadlines:
                at = trio.current_time() + self._owner.settings.times.settings_debounce
                self._owner.deadlines.arm(("settings", sid), at, partial(self._apply_now, sid))

    def disable(self, sids: Iterable[str]) -> None:
        """Stop the named tracks, as the state says that a client brings along when it resumes."""
        for sid in sids:
            if sid in self._wishes:
                self._settings[sid] = TrackSettings(enabled=False)
                self._apply_now(sid)

    def _first_settings(self, publication: Publication) -> None:
        adaptive = self._owner.options.adaptive_stream
        settings = self._settings.get(publication.sid)
        if settings is None:
            quality = models.VideoQuality.LOW if adaptive else models.VideoQuality.HIGH
            self._settings[publication.sid] = TrackSettings(quality=quality)
        elif adaptive:
            settings.enabled = True

    def _apply_now(self, sid: str) -> None:
        self._owner.deadlines.disarm(("settings", sid))
        if subscription := self._wishes.get(sid):
            self._apply(subscription)
            if subscription.down is not None:
                self._owner.shape.subscriber.drain_soon()

    def _apply(self, subscription: Subscription) -> None:
        """Have as much of the track come as is wanted; to drain the connection is left to the caller."""
        publication, down, receiver = subscription.publication, subscription.down, subscription.receiver
        mime = subscription.awaited if receiver is None else receiver.mime
        if publication is None or mime is None:
            return
        settings = self._settings.get(publication.sid) or TrackSettings()
        now = trio.current_time()
        if down is not None:
            down.set_disabled(not settings.enabled, now)
        if publication.kind != "video":
            return
        layers = publication.layers(mime)
        quality = settings.wanted_quality(layers)
        if down is not None:
            down.set_max_layer(track_info.spatial_for_quality(layers, quality), settings.max_temporal(), now)
        wish = int(quality) if settings.enabled else OFF
        message = publication.dynacast.wish(self._owner.sid, bare(mime), wish, now)
        publication.publisher.publications.tell_quality(publication, message)

    def leave_room(self) -> None:
        """Give up everything, also what was noted for later: the participant goes to another room."""
        for sid in self._wishes:
            self._owner.deadlines.disarm(("not found", sid))
        for sid in self._settings:
            self._owner.deadlines.disarm(("settings", sid))
        self.close()
        self._declined.clear()
        self._settings.clear()

    def close(self) -> None:
        """Release everything; the participant is leaving."""
        wishes, self._wishes = self._wishes, {}
        for subscription in wishes.values():
            self._release(subscription)
