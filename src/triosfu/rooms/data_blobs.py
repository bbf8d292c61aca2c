"""Data blobs: what a participant leaves with the server for others, such as a data track's schema (section 6.9).

Switched off by default. They live as long as the session that stored them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from triosfu.rooms.signals import RequestReason

if TYPE_CHECKING:
    from triosfu.rooms.participant import Participant

MAX_BLOBS = 1000  # of one participant: each takes more memory than its bytes
MAX_KEY_BYTES = 2048
UNUSABLE_KEY = "data blob key is missing or too long"


class DataBlobs:
    """What one participant stores, and its requests for what others do."""

    def __init__(self, owner: Participant) -> None:
        self._owner = owner
        self._stored: dict[bytes, models.DataBlob] = {}
        self._bytes = 0

    def get(self, key: models.DataBlobKey) -> models.DataBlob | None:
        """Return what is stored under `key`."""
        return self._stored.get(_name(key))

    def store(self, request: rtc.StoreDataBlobRequest) -> None:
        """Store a blob, in the place of one with the same key, or say why not."""
        limits, blob = self._owner.settings.limits, request.blob
        if not self._owner.settings.data_blobs:
            self._refuse(request.request_id, RequestReason.NOT_ALLOWED, "data blobs are not enabled")
        elif not self._usable(blob.key):
            self._refuse(request.request_id, RequestReason.INVALID_REQUEST, UNUSABLE_KEY)
        elif not blob.contents:
            self._refuse(request.request_id, RequestReason.INVALID_REQUEST, "data blob is empty")
        else:
            name = _name(blob.key)
            before = self._stored.get(name)
            size = self._bytes + len(blob.contents) - (0 if before is None else len(before.contents))
            if size > limits.blobs or (before is None and len(self._stored) >= MAX_BLOBS):
                self._refuse(request.request_id, RequestReason.LIMIT_EXCEEDED, "data blobs exceed limit")
                return
            self._stored[name] = models.DataBlob(key=blob.key, contents=blob.contents)
            self._bytes = size
            response = rtc.StoreDataBlobResponse(request_id=request.request_id, key=blob.key)
            self._owner.send(rtc.SignalResponse(store_data_blob_response=response))

    def fetch(self, request: rtc.GetDataBlobRequest) -> None:
        """Send the client what somebody in the room has stored, or say why not."""
        if not self._owner.settings.data_blobs:
            self._refuse(request.request_id, RequestReason.NOT_ALLOWED, "data blobs are not enabled")
            return
        if not self._usable(request.key):
            self._refuse(request.request_id, RequestReason.INVALID_REQUEST, UNUSABLE_KEY)
            return
        publisher = self._owner.room.participants.get(request.participant_identity)
        blob = None if publisher is None else publisher.data_blobs.get(request.key)
        if blob is None:
            what = "participant" if publisher is None else "data blob"
            self._refuse(request.request_id, RequestReason.NOT_FOUND, f"{what} not found")
            return
        response = rtc.GetDataBlobResponse(request_id=request.request_id, blob=blob)
        self._owner.send(rtc.SignalResponse(get_data_blob_response=response))

    def _usable(self, key: models.DataBlobKey) -> bool:
        text = key.generic if key.WhichOneof("key") == "generic" else key.schema_id.name
        return (
            key.WhichOneof("key") is not None
            and key.ByteSize() <= MAX_KEY_BYTES
            and (len(text) <= self._owner.settings.limits.blob_key)
        )

    def _refuse(self, request_id: int, reason: RequestReason, message: str) -> None:
        response = rtc.RequestResponse(request_id=request_id, reason=reason, message=message)
        self._owner.send(rtc.SignalResponse(request_response=response))


def _name(key: models.DataBlobKey) -> bytes:
    return key.SerializeToString(deterministic=True)
