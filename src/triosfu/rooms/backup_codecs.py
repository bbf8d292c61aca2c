"""Which of a track's codecs a subscriber gets, where its publisher can send more than one.

Who publishes in VP9 or AV1 announces another codec along with it, and sends that when somebody needs it: dynacast asks
by a wish like any other. By the track's policy both then go side by side, or everybody changes over to the backup
("regression"), so that one encoder is enough. A publication's receivers stand in the order in which they are preferred.
Protocol reference, section 4.7; media behaviours, section 13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from livekit.protocol import models

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triosfu.media.receiver import TrackReceiver
    from triosfu.rooms.publication import Publication
    from triosfu.sdp.codecs import Codec

RED, OPUS = "audio/red", "audio/opus"
Policy = models.BackupCodecPolicy


def sendable(publication: Publication) -> list[str]:
    """Return the codecs that a track can be sent in, those too that its publisher has yet to be asked for."""
    codecs = list(publication.receivers)
    if RED in codecs and OPUS not in codecs and not publication.encrypted:
        codecs.append(OPUS)  # redundancy is taken off for those who cannot read it
    return [*codecs, *_promised(publication)]


def receiver_for(publication: Publication, negotiated: Sequence[Codec]) -> TrackReceiver | None:
    """Return the preferred codec of those that come and that the subscriber takes; None without any.

    RED serves Opus too, being taken apart.
    """
    mimes = {codec.mime.lower() for codec in negotiated}
    for mime, receiver in publication.receivers.items():
        if mime.lower() in mimes or (mime.lower() == RED and OPUS in mimes and not publication.encrypted):
            return receiver
    return None


def promised_for(publication: Publication, negotiated: Sequence[Codec]) -> str | None:
    """Return the codec to ask the publisher for, if one that it has announced is one that the subscriber takes."""
    mimes = {codec.mime.lower() for codec in negotiated}
    return next((mime for mime in _promised(publication) if mime.lower() in mimes), None)


def regression(publication: Publication, *, people: int, threshold: int) -> str | None:
    """Return the codec that all of a track's subscribers are to change over to now; None for no change.

    That is the backup that one of them needs, once its media comes. `people` is how many are in the room: a publisher
    that only prefers to send one codec sends both where there are `threshold` or more; 0 is no threshold.
    """
    policy = publication.info.backup_codec_policy
    if publication.kind != "video" or len(publication.receivers) < 2 or policy == Policy.SIMULCAST:
        return None
    if policy == Policy.PREFER_REGRESSION and 0 < threshold <= people:
        return None
    primary, *backups = publication.receivers.values()
    if any(primary.mime.lower() == codec.mime_type.lower() for codec in publication.info.codecs[1:]):
        return None  # it has been done
    used = [subscription.receiver for subscription in publication.subscriptions.values()]
    return next((backup.mime for backup in backups if backup.available and backup in used), None)


def prefer(publication: Publication, mime: str) -> None:
    """Put the codec before the others; the table stays the one that forwarded tracks share."""
    others = {other: receiver for other, receiver in publication.receivers.items() if other != mime}
    receiver = publication.receivers[mime]
    publication.receivers.clear()
    publication.receivers[mime] = receiver
    publication.receivers.update(others)


def _promised(publication: Publication) -> list[str]:
    """The codecs that the publisher has announced, and that do not come."""
    if publication.kind != "video":
        return []
    coming = {mime.lower() for mime in publication.receivers}
    announced = [codec.mime_type for codec in publication.info.codecs if codec.mime_type]
    return [mime for mime in announced if mime.lower() not in coming]
