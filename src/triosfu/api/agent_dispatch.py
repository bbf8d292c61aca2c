"""AgentDispatchService: which agents are wanted in a room (protocol reference, section 8.4).

Each call but `CreateDispatch` is one synchronous step.
"""

from __future__ import annotations

from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING

from livekit.protocol import agent_dispatch

from triosfu.agents.dispatches import DISPATCH, Dispatch, Dispatches, NoPlace, dispatch_problem
from triosfu.api.errors import TwirpError
from triosfu.api.grants import require_admin
from triosfu.api.rooms import CODES
from triosfu.api.twirp import Method, Service
from triosfu.rooms.directory import NO_SUCH_ROOM
from triosfu.rooms.joining import JoinRefused, profile_problem
from triosfu.rooms.sids import new_sid

if TYPE_CHECKING:
    from triosfu.rooms.directory import Rooms
    from triosfu.rooms.room import Room
    from triosfu.tokens import Claims

NO_SUCH_DISPATCH = "dispatch ID not found"


class AgentDispatchService:
    """The RPCs of AgentDispatchService, each for a token and a request; TwirpError says why not."""

    def __init__(self, rooms: Rooms, dispatches: Dispatches) -> None:
        self._rooms = rooms
        self._dispatches = dispatches

    def service(self) -> Service:
        """These RPCs under their names."""
        return Service(
            agent_dispatch.DESCRIPTOR.services_by_name["AgentDispatchService"],
            {
                "CreateDispatch": Method(identified=self.create_dispatch, undone="no agent was asked for"),
                "ListDispatch": Method(call=self.list_dispatch),
                "DeleteDispatch": Method(call=self.delete_dispatch),
            },
        )

    async def create_dispatch(
        self, claims: Claims, request: agent_dispatch.CreateAgentDispatchRequest, request_id: str
    ) -> agent_dispatch.AgentDispatch:
        """Want an agent in a room, which is made if need be and allowed; the same `request_id` wants the same one.

        Cancelled, it has asked for no agent; the room may have been made.
        """
        require_admin(claims, request.room)
        limits = self._rooms.settings.limits
        if not request.room:
            raise TwirpError("invalid_argument", "no room name")
        if len(request.room) > limits.room_name:
            raise TwirpError("invalid_argument", f"room name length exceeds limits: max length {limits.room_name}")
        problem = dispatch_problem(request.agent_name, request.deployment)
        problem = problem or profile_problem("", request.metadata, dict(request.attributes), limits)
        if problem:
            raise TwirpError("invalid_argument", problem)
        room = self._rooms.find(request.room)
        if room is None:
            if not self._rooms.settings.auto_create:
                raise TwirpError("not_found", NO_SUCH_ROOM)
            try:
                room = await self._rooms.create(request.room)
            except JoinRefused as refusal:
                raise TwirpError(CODES.get(refusal.status, "internal"), refusal.text) from None
        dispatch_id = identified(request_id) if request_id else ""
        if (known := self._dispatches.find(room, dispatch_id)) is not None:
            return known.message()
        try:
            return self._dispatches.create(room, request, dispatch_id=dispatch_id).message()
        except NoPlace as full:
            raise TwirpError("resource_exhausted", str(full)) from None

    def list_dispatch(
        self, claims: Claims, request: agent_dispatch.ListAgentDispatchRequest
    ) -> agent_dispatch.ListAgentDispatchResponse:
        """All that is wanted in a room, or the one with the id given; an id that is not there finds nothing."""
        require_admin(claims, request.room)
        found = self._dispatches.of_room(self._room(request.room))
        wanted = [one.message() for one in found if request.dispatch_id in {"", one.id}]
        return agent_dispatch.ListAgentDispatchResponse(agent_dispatches=wanted)

    def delete_dispatch(
        self, claims: Claims, request: agent_dispatch.DeleteAgentDispatchRequest
    ) -> agent_dispatch.AgentDispatch:
        """Want an agent no more; the workers that have its jobs are told to stop."""
        require_admin(claims, request.room)
        room = self._room(request.room)
        dispatch: Dispatch | None = self._dispatches.find(room, request.dispatch_id)
        if dispatch is None:
            raise TwirpError("not_found", NO_SUCH_DISPATCH)
        self._dispatches.delete(room, dispatch)
        return dispatch.message()

    def _room(self, name: str) -> Room:
        found = self._rooms.find(name)
        if found is None:
            raise TwirpError("not_found", NO_SUCH_ROOM)
        return found


def identified(request_id: str) -> str:
    """The id of the dispatch that the request of this id makes: a request that is sent again makes no second one."""
    return new_sid(DISPATCH, Random(sha256(request_id.encode()).digest()))
