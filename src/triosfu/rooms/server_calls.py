"""RPC calls that the server itself makes, on behalf of an application's backend (protocol reference, section 8.3)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio
from livekit.protocol import models

from triosfu.errors import TriosfuError

if TYPE_CHECKING:
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.room import Room

ACK: Final = 2.0  # seconds in which a participant says that it got the call
RESPONSE: Final = 10.0  # seconds for its answer, unless the caller says otherwise,
LONGEST: Final = 60.0  # and at most
MAX_PAYLOAD: Final = 15_360  # bytes
VERSION: Final = 1
RECIPIENT_NOT_FOUND, TOO_LARGE, NO_ACK, NO_RESPONSE, RECIPIENT_GONE = 1401, 1402, 1501, 1502, 1503
TEXTS: Final = {
    RECIPIENT_NOT_FOUND: "Recipient not found",
    TOO_LARGE: "Request payload too large",
    NO_ACK: "Connection timeout",
    NO_RESPONSE: "Response timeout",
    RECIPIENT_GONE: "Recipient disconnected",
}


class CallFailed(TriosfuError):
    """A call has no answer; `code` is one of LiveKit's RPC error codes, or one of the application's own."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text or TEXTS[code])
        self.code = code


@dataclass(eq=False, slots=True)
class _Call:
    sid: str  # of who is asked
    acknowledged: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)
    response: models.RpcResponse | None = None

    def end(self) -> None:
        self.acknowledged.set()
        self.over.set()


class ServerCalls:
    """The calls of one room that wait for an answer."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._waiting: dict[str, _Call] = {}  # by request id

    def __len__(self) -> int:
        return len(self._waiting)

    async def perform(self, identity: str, method: str, payload: str, *, timeout: float = RESPONSE) -> str:  # noqa: ASYNC109  it is told to the participant, too
        """Call `method` of a participant, and return what it answers within `timeout` seconds.

        Cancelled, it waits no more for an answer; whether the method is performed, it does not know.

        Raises:
            CallFailed: There is no answer, or it is an error.
        """
        if len(payload.encode()) > MAX_PAYLOAD:
            raise CallFailed(TOO_LARGE)
        callee = self._room.participants.get(identity)
        if callee is None:
            raise CallFailed(RECIPIENT_NOT_FOUND)
        if callee.applicant.forwarded:
            raise CallFailed(RECIPIENT_GONE)  # its client is in another room
        request = models.RpcRequest(
            id=str(uuid.uuid4()),
            method=method,
            payload=payload,
            response_timeout_ms=round(timeout * 1000),
            version=VERSION,
        )
        # Clients answer whom the packet names, and drop a request that comes from nobody.
        packet = models.DataPacket(
            participant_identity=str(uuid.uuid4()), destination_identities=[identity], rpc_request=request
        )
        call = self._waiting[request.id] = _Call(callee.sid)
        try:
            self._room.data.send(packet, models.DataPacket.RELIABLE)
            with trio.move_on_after(min(ACK, timeout)):
                await call.acknowledged.wait()
            if not call.acknowledged.is_set():
                raise CallFailed(NO_ACK)
            with trio.move_on_after(timeout):
                await call.over.wait()
        finally:
            del self._waiting[request.id]
        if not call.over.is_set():
            raise CallFailed(NO_RESPONSE)
        if call.response is None:
            raise CallFailed(RECIPIENT_GONE)
        if call.response.HasField("error"):
            raise CallFailed(call.response.error.code, call.response.error.message or "Application error")
        return call.response.payload

    def take(self, sender: Participant, packet: models.DataPacket) -> bool:
        """Take a packet that answers one of these calls; False when it is for somebody else."""
        kind = packet.WhichOneof("value")
        if kind not in {"rpc_ack", "rpc_response"}:
            return False
        answer = packet.rpc_ack if kind == "rpc_ack" else packet.rpc_response
        call = self._waiting.get(answer.request_id)
        if call is None or call.sid != sender.sid:
            return False
        call.acknowledged.set()
        if kind == "rpc_response" and not call.over.is_set():
            call.response = packet.rpc_response
            call.end()
        return True

    def left(self, participant: Participant) -> None:
        """Nobody who has left answers any more."""
        for call in list(self._waiting.values()):
            if call.sid == participant.sid:
                call.end()
