"""Receivers that are well, slow, dead, wrong or silent; real sockets, virtual time."""

from __future__ import annotations

import os
import socket
import time
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio
from livekit import api
from livekit.protocol.models import Room
from livekit.protocol.webhook import WebhookEvent
from trio.testing import MockClock

from tests.net.connection import CancelAtStep
from tests.webhooks.backend import KEY, SECRET, backend, verified
from triosfu.net.http import Response
from triosfu.webhooks.core import JITTER, Schedule
from triosfu.webhooks.delivery import ATTEMPT, authorization, open_webhooks, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from triosfu.net.http import Request
    from triosfu.webhooks.delivery import Webhooks


@pytest.fixture
def virtual() -> MockClock:
    """Time stands still while sockets are busy."""
    return MockClock(autojump_threshold=0.01)


@asynccontextmanager
async def running(*urls: str, schedule: Schedule | None = None) -> AsyncIterator[Webhooks]:
    """Webhooks that are served while the block lasts."""
    async with (
        open_webhooks(urls, KEY, SECRET, rng=Random(1), schedule=schedule) as webhooks,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(webhooks.run)
        yield webhooks
        nursery.cancel_scope.cancel()


def tell(webhooks: Webhooks, *numbers: int, room: str = "room") -> None:
    for number in numbers:
        webhooks.send(room, WebhookEvent(event="room_started", id=f"EV_{number}", room=Room(name=room)))


def always(status: int) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response.text(status, "said the backend")

    return answer


async def silence(_: Request) -> Response:
    await trio.sleep(1000)
    raise AssertionError


def a_dead_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}/"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  counted, not looked at


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_trap_51_a_body_is_written_as_livekit_writes_it() -> None:
    event = WebhookEvent(event="room_started", id="EV_1", created_at=1700000000)
    event.room.CopyFrom(Room(name="käse", creation_time=5, num_participants=1))
    assert (
        render(event, num_dropped=2)
        == (
            '{"event": "room_started", "room": {"name": "käse", "creationTime": "5", "numParticipants": 1}, '
            '"id": "EV_1", "createdAt": "1700000000", "numDropped": 2}'
        ).encode()
    )
    assert b"numDropped" not in render(event)


def test_the_signature_is_for_this_body_and_five_minutes() -> None:
    body = b"{}"
    receiver = api.WebhookReceiver(api.TokenVerifier(KEY, SECRET))
    with pytest.raises(Exception, match="expired"):
        receiver.receive(body.decode(), authorization(body, KEY, SECRET, now=0))
    token = authorization(body, KEY, SECRET, now=time.time())
    receiver.receive(body.decode(), token)
    with pytest.raises(Exception, match="hash mismatch"):
        receiver.receive("{ }", token)


async def test_the_request_has_livekits_headers(virtual: MockClock) -> None:
    async with backend() as here, running(here.url) as webhooks:
        tell(webhooks, 1)
        await here.until(lambda: len(here.events) == 1)
        (request,) = here.requests
        assert (request.method, request.path) == ("POST", "/hooks")
        assert request.headers["content-type"] == "application/webhook+json"
        assert request.headers["user-agent"] == "LiveKit"
        assert not request.headers["authorization"].startswith("Bearer")


# --- receivers ------------------------------------------------------------------------------------------------------


async def test_events_of_a_room_come_in_order_over_one_connection(virtual: MockClock) -> None:
    async with backend() as here, running(here.url) as webhooks:
        tell(webhooks, *range(20))
        await here.until(lambda: len(here.events) == 20)
        assert [event.id for event in here.events] == [f"EV_{number}" for number in range(20)]
        assert len({request.peer for request in here.requests}) == 1


async def test_an_error_is_tried_again_with_the_same_body_and_keeps_the_order(virtual: MockClock) -> None:
    async with backend() as here, running(here.url) as webhooks:
        answers = iter([500, 503, 429, 200, 200])

        async def answer(_: Request) -> Response:
            return Response.text(next(answers))

        here.answer = answer
        tell(webhooks, 1, 2)
        await here.until(lambda: len(here.events) == 2, within=30)
        assert len({request.body for request in here.requests[:4]}) == 1
        assert [event.id for event in here.events] == ["EV_1", "EV_2"]
        pauses = [after - before for before, after in zip(here.times, here.times[1:4], strict=False)]
        assert all(abs(pause / full - 1) < JITTER + 0.05 for pause, full in zip(pauses, (1, 2, 4), strict=True))


@pytest.mark.parametrize("status", [301, 400, 401, 404, 410])
async def test_a_refusal_is_final(virtual: MockClock, status: int) -> None:
    async with backend() as here, running(here.url) as webhooks:
        here.answer = always(status)
        tell(webhooks, 1, 2)
        await trio.sleep(60)
        assert [verified(request).id for request in here.requests] == ["EV_1", "EV_2"]
        assert webhooks.receivers[0].outbox.counters["refused"] == 2


async def test_a_dead_receiver_is_given_up_and_told_later_how_much_it_missed(virtual: MockClock) -> None:
    async with backend() as here, running(here.url) as webhooks:
        here.answer = always(500)
        tell(webhooks, 1, 2, 3)
        await trio.sleep(100)
        assert len(webhooks.receivers[0].outbox) == 0
        here.answer = always(200)
        tell(webhooks, 4)
        await here.until(lambda: bool(here.events))
        (event,) = here.events
        assert (event.id, event.num_dropped) == ("EV_4", 3)


async def test_a_refused_connection_is_tried_again(virtual: MockClock) -> None:
    async with running(a_dead_port()) as webhooks:
        tell(webhooks, 1)
        await trio.sleep(100)
        counters = webhooks.receivers[0].outbox.counters
        assert (counters["retried"], counters["dropped: given up"]) == (4, 1)


async def test_a_silent_receiver_holds_one_attempt_at_a_time_for_its_deadline(virtual: MockClock) -> None:
    async with backend() as here, running(here.url) as webhooks:
        here.answer = silence
        tell(webhooks, 1)
        await trio.sleep(ATTEMPT - 1)
        assert len(here.requests) == 1
        await trio.sleep(90)
        assert len(here.requests) == 5
        assert len(webhooks.receivers[0].outbox) == 0


async def test_a_receiver_that_does_not_end_its_answer_has_the_event(virtual: MockClock) -> None:
    async def answer_for_ever(stream: trio.SocketStream) -> None:
        await stream.receive_some(100_000)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await trio.sleep(1000)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer_for_ever, [listener])
        async with running(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/") as webhooks:
            tell(webhooks, 1)
            await trio.sleep(5)
            assert webhooks.receivers[0].outbox.counters == {"delivered": 1}
        nursery.cancel_scope.cancel()


async def test_a_receiver_that_is_not_one_is_tried_again(virtual: MockClock) -> None:
    async def nonsense(stream: trio.SocketStream) -> None:
        await stream.receive_some(100_000)
        await stream.send_all(b"SSH-2.0-nonsense\r\n\r\n")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, nonsense, [listener])
        async with running(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/") as webhooks:
            tell(webhooks, 1)
            await trio.sleep(100)
            assert webhooks.receivers[0].outbox.counters["dropped: given up"] == 1
        nursery.cancel_scope.cancel()


async def test_neither_another_room_nor_another_receiver_waits_for_a_slow_one(virtual: MockClock) -> None:
    async with backend() as slow, backend() as well, running(slow.url, well.url) as webhooks:

        async def silent_for_one(request: Request) -> Response:
            return await (silence if verified(request).room.name == "stuck" else always(200))(request)

        slow.answer = silent_for_one
        began = trio.current_time()
        tell(webhooks, *range(10), room="stuck")
        tell(webhooks, *range(10, 20), room="free")
        await slow.until(lambda: len(slow.events) == 10)
        await well.until(lambda: len(well.events) == 20)
        assert trio.current_time() - began < 1
        assert {event.room.name for event in slow.events} == {"free"}
        await trio.sleep(0.5)  # the answers arrive
        assert webhooks.depths() == {"stuck": 10}


# --- ends -----------------------------------------------------------------------------------------------------------


async def test_what_waits_at_the_end_is_told_once_more(virtual: MockClock) -> None:
    async with backend() as here, running(here.url) as webhooks:
        tell(webhooks, *range(50))
        with trio.fail_after(5):
            await webhooks.drain()
        assert len(here.events) == 50


async def test_what_waits_is_told_when_its_server_was_cancelled(virtual: MockClock) -> None:
    async with backend() as here, open_webhooks([here.url], KEY, SECRET, rng=Random(1)) as webhooks:
        here.answer = silence
        with trio.move_on_after(1):
            tell(webhooks, *range(5))
            await webhooks.run()
        here.answer = always(200)
        with trio.fail_after(5):
            await webhooks.drain()
        assert [event.id for event in here.events] == [f"EV_{number}" for number in range(5)]


@pytest.mark.parametrize("receiver", ["dead", "error", "silent"])
async def test_the_end_waits_for_nobody_beyond_its_deadline(virtual: MockClock, receiver: str) -> None:
    async with backend() as here:
        here.answer = silence if receiver == "silent" else always(500)
        async with running(a_dead_port() if receiver == "dead" else here.url) as webhooks:
            tell(webhooks, *range(50))
            await trio.sleep(0.5)
            began = trio.current_time()
            with trio.move_on_after(3):
                await webhooks.drain()
            assert trio.current_time() - began <= (3 if receiver == "silent" else 0.5)


async def test_cancelled_at_every_step_nothing_stays_and_nothing_is_lost() -> None:
    async with backend() as here:
        before, tasks, step = descriptors(), trio.lowlevel.current_statistics().tasks_living, 0
        async with open_webhooks([here.url], KEY, SECRET, rng=Random(1)) as webhooks:
            while True:
                step += 1
                with trio.CancelScope() as scope:
                    at = CancelAtStep(scope, step)
                    trio.lowlevel.add_instrument(at)
                    try:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(webhooks.run)
                            tell(webhooks, step)
                            await webhooks.drain()
                            nursery.cancel_scope.cancel()
                    finally:
                        trio.lowlevel.remove_instrument(at)
                with trio.fail_after(5):
                    await webhooks.drain()
                assert len(webhooks.receivers[0].outbox) == 0
                if not scope.cancelled_caught:
                    break
        with trio.fail_after(5):
            while trio.lowlevel.current_statistics().tasks_living > tasks:  # the backend sees the end of connections
                await trio.lowlevel.checkpoint()
        assert descriptors() == before
        assert {event.id for event in here.events} == {f"EV_{number}" for number in range(1, step + 1)}
        assert step > 5
