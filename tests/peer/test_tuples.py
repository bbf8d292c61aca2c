"""Whose a remote address is, when somebody with a session of its own forges where its STUN requests come from."""

from __future__ import annotations

from random import Random

import trio

from tests.support.side import Side, pair
from triosfu.ice import binding
from triosfu.net.address import pack
from triosfu.net.udp import MAX_TUPLES
from triosfu.stun.wire import Attribute, Kind, Message


def check(side: Side) -> bytes:
    """A connectivity check as the client of `side` may send it."""
    local = side.peer._transport.ice.local
    username = f"{local.ufrag}:client".encode()
    message = Message(
        Kind.REQUEST,
        Random(1).randbytes(12),
        (
            (Attribute.USERNAME, username),
            (Attribute.PRIORITY, bytes(4)),
            (Attribute.ICE_CONTROLLING, bytes(8)),
        ),
    )
    assert set(dict(message.attributes)) <= binding.UNDERSTOOD | {Attribute.ICE_CONTROLLING}
    return message.serialize(key=local.key)


async def test_a_forged_source_address_takes_nobodys_media_away() -> None:
    async with pair() as both:
        await both.connect()
        mux = both.answerer.mux
        victims_address = both.offerer.mux.local_addresses[0]
        (local,) = mux.local_addresses
        thief = Side("thief", mux, offerer=False)
        transport = thief.peer._transport
        transport.receive_stun(check(thief), victims_address, local, trio.current_time())
        transport.end_of_batch(trio.current_time())
        assert mux._by_tuple[pack(victims_address)] is both.answerer.peer._transport
        assert mux.counters["contested_tuple"] == 1
        thief.peer.close("caught")


async def test_replayed_requests_do_not_push_out_an_address_that_answers() -> None:
    async with pair() as both:
        await both.connect()
        side, mux = both.answerer, both.answerer.mux
        (local,) = mux.local_addresses
        request = check(side)
        for port in range(1, 2 * MAX_TUPLES):
            side.peer._transport.receive_stun(request, ("192.0.2.1", port), local, trio.current_time())
        side.peer._transport.end_of_batch(trio.current_time())
        assert mux._by_tuple[pack(both.offerer.mux.local_addresses[0])] is side.peer._transport
        assert len(mux._by_tuple) <= MAX_TUPLES
