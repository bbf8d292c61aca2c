"""RoomService: rooms and those in them, as an application's backend sees and changes them.

Each call but `PerformRpc` is one synchronous step, perhaps after a room was made, so it is done or it is not. Protocol
reference, sections 8.2 and 8.3; section 17, row 1.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from livekit.protocol import models, room, rtc

from triosfu.api.errors import TwirpError
from triosfu.api.grants import require, require_admin, video
from triosfu.api.twirp import Method, Service
from triosfu.rooms import profile
from triosfu.rooms.configuration import overlaid, preset
from triosfu.rooms.directory import NO_SUCH_ROOM
from triosfu.rooms.joining import JoinRefused
from triosfu.rooms.permissions import Permission
from triosfu.rooms.server_calls import ACK, LONGEST, RECIPIENT_GONE, RESPONSE, TOO_LARGE, CallFailed
from triosfu.rooms.transfer import FORWARDED, NO_SUCH_PARTICIPANT, forward_to, move_to

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from triosfu.rooms.directory import Rooms
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.room import Room
    from triosfu.tokens import Claims

Reason = models.DisconnectReason
NONCE = 16  # bytes
MAYBE = "the participant was asked, and may do it"
RPC_CODES = {  # of calls that failed (section 8.3); all others are the application's own
    1400: "invalid_argument",
    1401: "not_found",
    TOO_LARGE: "malformed",
    1403: "unimplemented",
    1404: "unimplemented",
    1501: "canceled",
    1502: "canceled",
    RECIPIENT_GONE: "unavailable",
}
CODES = {  # of refusals, by their HTTP status
    400: "invalid_argument",
    404: "not_found",
    409: "already_exists",
    412: "failed_precondition",
    429: "resource_exhausted",
    500: "failed_precondition",  # what a client that may not join is told: the room is full
    503: "unavailable",
}
ENDED = "the participant had to be ended"


class Transfer(Protocol):
    """What takes a participant to another room."""

    async def __call__(self, rooms: Rooms, participant: Participant, name: str, *, create: bool) -> None:
        """Do it as a whole or raise JoinRefused."""


class RoomService:
    """The RPCs of RoomService, each for a token and a request; TwirpError says why not."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._limits = rooms.settings.limits

    def service(self) -> Service:
        """These RPCs under their names."""
        return Service(
            room.DESCRIPTOR.services_by_name["RoomService"],
            {
                "CreateRoom": Method(call=self.create_room, undone="no room was made"),
                "ListRooms": Method(call=self.list_rooms),
                "DeleteRoom": Method(call=self.delete_room),
                "ListParticipants": Method(call=self.list_participants),
                "GetParticipant": Method(call=self.get_participant),
                "RemoveParticipant": Method(call=self.remove_participant),
                "MutePublishedTrack": Method(call=self.mute_published_track),
                "UpdateParticipant": Method(call=self.update_participant),
                "UpdateSubscriptions": Method(call=self.update_subscriptions),
                "SendData": Method(call=self.send_data),
                "UpdateRoomMetadata": Method(call=self.update_room_metadata),
                "ForwardParticipant": Method(call=self.forward_participant, undone="nobody was forwarded"),
                "MoveParticipant": Method(call=self.move_participant, undone="nobody was moved"),
                "PerformRpc": Method(call=self.perform_rpc, undone=MAYBE, deadline=LONGEST + 2 * ACK),
            },
        )

    # --- rooms -----------------------------------------------------------------------------------------------------

    async def create_room(self, claims: Claims, request: room.CreateRoomRequest) -> models.Room:
        """The room of this name, made if there is none; one that exists stays as it is. Cancelled, it has made none."""
        require(allowed=video(claims).room_create)
        if request.HasField("egress"):
            raise TwirpError("internal", "egress not connected (redis required)")
        if not request.name:
            raise TwirpError("invalid_argument", "no room name")
        if len(request.name) > self._limits.room_name:
            text = f"room name length exceeds limits: max length {self._limits.room_name}"
            raise TwirpError("invalid_argument", text)
        self._check_metadata(request.metadata)
        try:
            own = overlaid(preset(self._rooms.settings, request.room_preset), request)
            return (await self._rooms.create(request.name, own)).info()
        except JoinRefused as refusal:
            raise TwirpError(CODES.get(refusal.status, "internal"), refusal.text) from None

    def list_rooms(self, claims: Claims, request: room.ListRoomsRequest) -> room.ListRoomsResponse:
        """All rooms, or those of the names given that there are."""
        require(allowed=video(claims).room_list)
        wanted = frozenset(request.names)
        found = [one for one in self._rooms if not one.closed and (not wanted or one.name in wanted)]
        return room.ListRoomsResponse(rooms=[one.info() for one in found])

    def delete_room(self, claims: Claims, request: room.DeleteRoomRequest) -> room.DeleteRoomResponse:
        """End a room and everybody's session in it."""
        require(allowed=video(claims).room_create)
        self._room(request.room).close(Reason.ROOM_DELETED)
        return room.DeleteRoomResponse()

    def update_room_metadata(self, claims: Claims, request: room.UpdateRoomMetadataRequest) -> models.Room:
        """Replace the metadata of a room."""
        require_admin(claims, request.room)
        self._check_metadata(request.metadata)
        found = self._room(request.room)
        found.set_metadata(request.metadata)
        return found.info()

    # --- participants ----------------------------------------------------------------------------------------------

    def list_participants(self, claims: Claims, request: room.ListParticipantsRequest) -> room.ListParticipantsResponse:
        """Everybody in a room, also who is hidden; nobody is in a room that does not exist."""
        require_admin(claims, request.room)
        found = self._rooms.find(request.room)
        people = [] if found is None else [one.info() for one in found.participants.values()]
        return room.ListParticipantsResponse(participants=people)

    def get_participant(self, claims: Claims, request: room.RoomParticipantIdentity) -> models.ParticipantInfo:
        """One participant."""
        require_admin(claims, request.room)
        return self._participant(request.room, request.identity).info()

    def remove_participant(
        self, claims: Claims, request: room.RoomParticipantIdentity
    ) -> room.RemoveParticipantResponse:
        """End a participant's session; with `revoke_token_ts` no token from before that time lets it come back.

        That holds, too, for one who is not there.
        """
        require_admin(claims, request.room)
        if before := request.revoke_token_ts:
            self._rooms.revocations.revoke(request.room, request.identity, before)
        try:
            participant = self._participant(request.room, request.identity)
        except TwirpError as missing:
            text = f"{missing.text}: its tokens are revoked" if before else missing.text
            raise TwirpError(missing.code, text) from None
        participant.close(Reason.PARTICIPANT_REMOVED)
        return room.RemoveParticipantResponse()

    def mute_published_track(self, claims: Claims, request: room.MuteRoomTrackRequest) -> room.MuteRoomTrackResponse:
        """Mute a track, or unmute it where the operator allows that; the answer names no track if there is none."""
        require_admin(claims, request.room)
        participant = self._participant(request.room, request.identity)
        if not request.muted and not self._rooms.settings.remote_unmute:
            raise TwirpError("failed_precondition", "remote unmute not enabled")
        with _on_behalf_of(participant):
            participant.publications.mute_remotely(request.track_sid, muted=request.muted)
        publication = participant.publications.find(request.track_sid)
        return room.MuteRoomTrackResponse(track=None if publication is None else publication.info)

    def update_participant(self, claims: Claims, request: room.UpdateParticipantRequest) -> models.ParticipantInfo:
        """Change name, metadata, attributes; replace the permissions, if any are given."""
        require_admin(claims, request.room)
        self._check_profile(request.name, request.metadata, request.attributes)
        participant = self._participant(request.room, request.identity)
        refused: str | None = None
        with _on_behalf_of(participant):
            refused = profile.update(participant, request.name, request.metadata, dict(request.attributes))
            if refused is None and request.HasField("permission"):
                participant.set_permission(Permission.parse(request.permission))
        if refused is not None:
            raise TwirpError("invalid_argument", refused)
        return participant.info()

    def update_subscriptions(
        self, claims: Claims, request: room.UpdateSubscriptionsRequest
    ) -> room.UpdateSubscriptionsResponse:
        """Subscribe a participant to tracks, or unsubscribe it."""
        require_admin(claims, request.room)
        participant = self._participant(request.room, request.identity)
        wish = rtc.UpdateSubscription(
            track_sids=request.track_sids, subscribe=request.subscribe, participant_tracks=request.participant_tracks
        )
        with _on_behalf_of(participant):
            participant.subscriptions.update(wish)
        return room.UpdateSubscriptionsResponse()

    def send_data(self, claims: Claims, request: room.SendDataRequest) -> room.SendDataResponse:
        """Send a data packet to those named, or to everybody."""
        require_admin(claims, request.room)
        if len(request.nonce) not in {0, NONCE}:
            text = f"nonce should be 16-bytes or not present, got: {len(request.nonce)} bytes"
            raise TwirpError("invalid_argument", text)
        user = models.UserPacket(
            payload=request.data,
            destination_sids=request.destination_sids,
            destination_identities=request.destination_identities,
            topic=request.topic if request.HasField("topic") else None,
            nonce=request.nonce,
        )
        packet = models.DataPacket(user=user, destination_identities=request.destination_identities)
        self._room(request.room).data.send(packet, request.kind)
        return room.SendDataResponse()

    async def move_participant(
        self, claims: Claims, request: room.MoveParticipantRequest
    ) -> room.MoveParticipantResponse:
        """Take a participant to another room, with its session. Cancelled, it has moved nobody."""
        await self._between_rooms(move_to, claims, request)
        return room.MoveParticipantResponse()

    async def forward_participant(
        self, claims: Claims, request: room.ForwardParticipantRequest
    ) -> room.ForwardParticipantResponse:
        """Let another room see and hear a participant. Cancelled, it has forwarded nobody."""
        await self._between_rooms(forward_to, claims, request)
        return room.ForwardParticipantResponse()

    async def _between_rooms(
        self, transfer: Transfer, claims: Claims, request: room.ForwardParticipantRequest | room.MoveParticipantRequest
    ) -> None:
        grant = require_admin(claims, request.room)
        require(allowed=grant.destination_room == request.destination_room)
        if request.room == request.destination_room:
            raise TwirpError("invalid_argument", "destination room cannot be the same as source room")
        participant = self._participant(request.room, request.identity)
        create = self._rooms.settings.auto_create or grant.room_create
        try:
            await transfer(self._rooms, participant, request.destination_room, create=create)
        except JoinRefused as refusal:
            raise TwirpError(CODES.get(refusal.status, "internal"), refusal.text) from None
        if participant.closed:
            raise TwirpError("internal", ENDED)

    async def perform_rpc(self, claims: Claims, request: room.PerformRpcRequest) -> room.PerformRpcResponse:
        """Call a method of a participant. Cancelled, it may have been called, and its answer is not waited for."""
        require_admin(claims, request.room)
        if not request.destination_identity:
            raise TwirpError("invalid_argument", "destination identity is required")
        calls = self._room(request.room).data.calls
        seconds = min(request.response_timeout_ms / 1000 or RESPONSE, LONGEST)
        try:
            answer = await calls.perform(request.destination_identity, request.method, request.payload, timeout=seconds)
        except CallFailed as failed:
            raise TwirpError(RPC_CODES.get(failed.code, "internal"), f"RpcError {failed.code}: {failed}") from None
        return room.PerformRpcResponse(payload=answer)

    # --- what they have in common ----------------------------------------------------------------------------------

    def _room(self, name: str) -> Room:
        found = self._rooms.find(name)
        if found is None:
            raise TwirpError("not_found", NO_SUCH_ROOM)
        return found

    def _participant(self, name: str, identity: str) -> Participant:
        found = self._rooms.find(name)
        participant = None if found is None else found.participants.get(identity)
        if participant is None:
            raise TwirpError("not_found", NO_SUCH_PARTICIPANT)
        return participant

    def _check_metadata(self, metadata: str) -> None:
        if len(metadata.encode()) > self._limits.metadata:
            raise _exceeds("metadata size exceeds limits", self._limits.metadata)

    def _check_profile(self, name: str, metadata: str, attributes: Mapping[str, str]) -> None:
        if len(name) > self._limits.name:
            raise _exceeds("name length exceeds limits", self._limits.name)
        self._check_metadata(metadata)
        if sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items()) > self._limits.attributes:
            raise _exceeds("attribute size exceeds limits", self._limits.attributes)


@contextmanager
def _on_behalf_of(participant: Participant) -> Iterator[None]:
    """Change a participant; what goes wrong in the block ends it, as it does when its client asks, and is told."""
    if participant.applicant.forwarded:
        raise TwirpError("failed_precondition", FORWARDED)
    with participant.guard("server API"):
        yield
    if participant.closed:
        raise TwirpError("internal", ENDED)


def _exceeds(what: str, limit: int) -> TwirpError:
    return TwirpError("invalid_argument", f"{what} {limit}", {"argument": what})
