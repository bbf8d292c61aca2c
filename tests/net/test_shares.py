"""One address cannot hold a whole server: of connections, and of the bytes of requests that are not answered yet."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.net.connection import Client, echo
from triosfu.net.http import HttpServer, Limits
from triosfu.net.shares import Shares, holder

if TYPE_CHECKING:
    from trio.testing import MockClock

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
STRANGER = "198.51.100.66"


@pytest.mark.parametrize(
    ("host", "who"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::"),
        ("", ""),
    ],
)
def test_a_client_of_many_addresses_is_one(host: str, who: str) -> None:
    assert holder(host) == who


def test_what_is_left_is_for_those_who_hold_little() -> None:
    shares = Shares(100, little=2)
    assert all(shares.take("proxy") for _ in range(75))
    assert not shares.take("proxy")
    assert shares.take("proxy", 0)
    for number in range(12):
        assert shares.take(f"{number}")
        assert shares.take(f"{number}")
        assert not shares.take(f"{number}")
    assert shares.take("last")
    assert (shares.total, shares.largest, shares.held("proxy"), len(shares)) == (100, 75, 75, 14)
    assert not shares.take("one more")
    shares.give_back("proxy", 75)
    assert (shares.held("proxy"), len(shares)) == (0, 13)
    assert shares.take("one more", 50)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40))), st.integers(1, 100), st.integers(1, 10))
def test_nobody_gets_more_than_there_is_and_all_is_given_back(
    wishes: list[tuple[str, int]], limit: int, little: int
) -> None:
    shares = Shares(limit, little=little)
    taken = [(who, amount) for who, amount in wishes if shares.take(who, amount)]
    assert shares.total == sum(amount for _, amount in taken) <= limit
    for who, amount in taken:
        shares.give_back(who, amount)
    assert (shares.total, len(shares)) == (0, 0)


def test_a_proxy_may_hold_most_and_everybody_a_request_of_any_size() -> None:
    server, limits = HttpServer(echo), Limits()
    assert (server.connection_shares.limit, server.connection_shares.little) == (4096, 64)
    assert sum(server.connection_shares.take("proxy") for _ in range(5000)) == 3072  # as docs/api.md has it
    assert server.buffer_shares.little >= limits.head + limits.body
    assert HttpServer(echo, limits=Limits(connections=4)).connection_shares.little == 1


async def open_from(host: str, server: HttpServer, stack: AsyncExitStack, nursery: trio.Nursery) -> Client:
    near, far = memory_stream_pair()
    await stack.enter_async_context(near)
    nursery.start_soon(server.serve_stream, far, (host, 40000))
    await wait_all_tasks_blocked()
    return Client(near, server)


async def test_a_stranger_with_all_the_connections_it_can_get_keeps_nobody_out() -> None:
    server = HttpServer(echo, limits=Limits(connections=128))
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        held = [await open_from(STRANGER, server, stack, nursery) for _ in range(130)]
        assert server.connections == server.connection_shares.held(STRANGER) == 96
        assert server.counters["connections_refused"] == 34
        assert await held[-1].ended()
        assert (await held[0].ask(GET)).status == 200
        client = await open_from("192.0.2.7", server, stack, nursery)
        assert (await client.ask(GET)).status == 200
        nursery.cancel_scope.cancel()
    assert (server.connections, len(server.connection_shares)) == (0, 0)


async def test_a_stranger_with_half_sent_bodies_keeps_nobody_out(autojump_clock: MockClock) -> None:
    server = HttpServer(echo, limits=Limits(buffered=4000, body=500, head=100))
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n\r\n"
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        greedy = [await open_from(STRANGER, server, stack, nursery) for _ in range(12)]
        for one in greedy:
            await one.send(head + b"x" * 300)
            await wait_all_tasks_blocked()
        assert 2600 < server.buffered <= 3000
        assert (await greedy[-1].answer()).status == 503
        client = await open_from("192.0.2.7", server, stack, nursery)
        assert (await client.ask(head + b"x" * 400)).status == 200
        assert (await greedy[0].answer()).status == 408  # and it does not last: a body has its deadline
        assert trio.current_time() == pytest.approx(30)
        nursery.cancel_scope.cancel()
    assert (server.buffered, len(server.buffer_shares)) == (0, 0)


async def test_a_client_that_does_not_read_its_answer_is_let_go(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    server = HttpServer(echo)
    never = trio.Event()
    far.send_stream.send_all_hook = never.wait
    async with near:
        await near.send_all(GET)
        await server.serve_stream(far, (STRANGER, 1))
    assert trio.current_time() == 30
    assert (server.connections, server.buffered, server.counters["connections_lost"]) == (0, 0, 1)
