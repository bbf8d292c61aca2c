"""Sockets that compete for one participant, and requests that are odd in themselves: one wins, nothing is left over."""

from __future__ import annotations

import base64
import json

import trio
from livekit.protocol import models, rtc

from tests.signalling.world import LIMIT, dual, join_request, running
from triosfu.signalling.client import MAX_CLIENT
from triosfu.signalling.session import rest_after

Reason = models.DisconnectReason
Action = rtc.LeaveRequest.Action


async def test_a_session_that_was_replaced_cannot_resume_into_its_successor() -> None:
    async with running() as world, dual(world, "alice") as older:
        old_sid = older.join.participant.sid
        async with dual(world, "alice") as newer:
            async with world.connect("alice", query=f"protocol=17&reconnect=1&sid={old_sid}") as late:
                left = await late.expect("leave")
                assert (left.action, left.reason) == (Action.RECONNECT, Reason.STATE_MISMATCH)
            await newer.client.send(ping=1)
            await newer.client.expect("pong")
            assert world.participant("alice").sid == newer.join.participant.sid


async def test_of_two_sockets_that_resume_one_session_the_later_has_it() -> None:
    async with running() as world, dual(world, "alice") as alice:
        participant = world.participant("alice")
        query = f"protocol=17&reconnect=1&sid={participant.sid}"
        async with world.connect("alice", query=query) as first, world.connect("alice", query=query) as second:
            await first.expect("reconnect")
            await second.expect("reconnect")
            assert await first.until_closed() == 1000
            assert await alice.client.until_closed() == 1000
            await second.send(ping=1)
            await second.expect("pong")
            assert participant.linked
            assert not participant.closed
        with trio.fail_after(LIMIT):
            while participant.linked:
                await trio.lowlevel.checkpoint()
        assert world.participant("alice") is participant  # its media goes on


async def test_a_resume_that_comes_with_the_end_starts_over() -> None:
    async with running() as world, dual(world, "alice") as alice:
        sid = alice.join.participant.sid
        world.participant("alice").close(Reason.PARTICIPANT_REMOVED)
        async with world.connect("alice", query=f"protocol=17&reconnect=1&sid={sid}") as late:
            assert (await late.expect("leave")).action == Action.RECONNECT
            assert await late.until_closed() == 1000
        assert "alice" not in world.room().participants
        assert not world.mux._routes


async def test_half_a_surrogate_pair_among_the_attributes_is_refused_as_unreadable() -> None:
    async with running() as world:
        attributes = base64.urlsafe_b64encode(json.dumps({"a": "\ud800"}).encode()).decode()
        token = world.token(can_update_own_metadata=True)
        status, _, text = await world.get(f"/rtc/validate?attributes={attributes}", token)
        assert (status, text) == (400, "cannot decode attributes")


async def test_a_client_that_says_too_much_of_itself_is_refused() -> None:
    async with running() as world:
        capabilities = [models.ClientInfo.Capability.CAP_PACKET_TRAILER] * MAX_CLIENT
        query = join_request(client_info=models.ClientInfo(capabilities=capabilities))
        status, text = await world.refusal(f"/rtc/v1?{query}", world.token())
        assert (status, text) == (400, "client info too large")
        assert not len(world.rooms)


def test_a_client_whose_requests_are_much_work_has_a_quarter_of_the_time() -> None:
    assert rest_after(0.01) == 0
    assert 1 / (1 + rest_after(1)) == 0.25
