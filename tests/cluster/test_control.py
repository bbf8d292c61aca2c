"""The control socket: messages whole and in order, sockets and data with them, and no wait for the other side."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from triosfu.cluster.control import LARGEST, Control, ControlClosed, pair
from triosfu.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Control, Control]]:
    ours, theirs = map(Control, pair())
    yield ours, theirs
    ours.close()
    theirs.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  counted, not looked at


async def test_a_socket_and_what_it_began_with_arrive(ends: tuple[Control, Control]) -> None:
    ours, theirs = ends
    for data in (b"", b"GET / HTTP/1.1\r\n", bytes(11 << 20)):
        mine, its = socket.socketpair()
        with mine, its:
            before = descriptors()
            assert ours.hand_over({"kind": "take", "lease": 7}, its.fileno(), data)
            letter = await theirs.receive()
            assert (letter.said, letter.data) == ({"kind": "take", "lease": 7}, data)
            assert letter.sock is not None
            letter.sock.send(b"hello")
            assert mine.recv(10) == b"hello"
            assert not letter.sock.get_inheritable()
            letter.close()
            assert descriptors() == before


async def test_data_alone_arrives(ends: tuple[Control, Control]) -> None:
    ours, theirs = ends
    assert ours.hand_over({"kind": "begin"}, None, b"secret")
    letter = await theirs.receive()
    assert (letter.sock, letter.data) == (None, b"secret")


async def test_a_full_socket_takes_nothing_and_nobody_waits(
    ends: tuple[Control, Control], autojump_clock: MockClock
) -> None:
    """What is handed over goes elsewhere; what is told waits in order, and so does all that comes after it."""
    ours, theirs = ends
    mine, its = socket.socketpair()
    with mine, its:
        taken = 0
        while ours.hand_over({"kind": "take", "lease": taken}, its.fileno(), b"data"):
            taken += 1
        before = descriptors()
        assert taken > 20
        for number in range(500):
            ours.tell({"kind": "told", "number": number})
        assert not ours.hand_over({"kind": "take"}, its.fileno())
        assert descriptors() == before  # not even a file for the data that did not go
        for number in range(taken):
            letter = await theirs.receive()
            assert letter.number("lease") == number
            letter.close()
        assert not ours.hand_over({"kind": "take"}, its.fileno())  # there is room now, and others wait for it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run)
            for number in range(500):
                assert (await theirs.receive()).said == {"kind": "told", "number": number}
            assert ours.hand_over({"kind": "take"}, its.fileno())
            nursery.cancel_scope.cancel()


async def test_who_waits_for_room_has_it_when_the_other_side_reads_or_is_gone(
    ends: tuple[Control, Control], autojump_clock: MockClock
) -> None:
    ours, theirs = ends
    mine, its = socket.socketpair()
    handed: list[float] = []

    async def hand_over() -> None:
        while not ours.closed and not ours.hand_over({"kind": "take"}, its.fileno()):
            await ours.room()
        handed.append(trio.current_time())

    with mine, its:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run)
            taken = 0
            while ours.hand_over({"kind": "take"}, its.fileno()):
                taken += 1
            for _ in range(3):
                nursery.start_soon(hand_over)
            with trio.move_on_after(1):
                await ours.room()
            assert handed == []
            for _ in range(taken):
                (await theirs.receive()).close()
            await trio.sleep(1)
            assert len(handed) == 3
            while ours.hand_over({"kind": "take"}, its.fileno()):
                pass
            nursery.start_soon(hand_over)
            await trio.sleep(1)
            ours.close()
        assert len(handed) == 4
        await ours.room()  # returns


async def test_an_end_that_is_not_read_is_given_up(autojump_clock: MockClock) -> None:
    first, second = pair()
    ours = Control(first, most_waiting=10)
    try:
        for number in range(10_000):
            ours.tell({"kind": "told", "number": number})
        assert ours.closed
        with pytest.raises(ControlClosed, match="does not read"):
            await ours.receive()
        await ours.run()  # returns
    finally:
        second.close()


@pytest.mark.parametrize("wrong", [b"{", b"[]", b"7", b"\xff"])
async def test_what_is_no_message_ends_it(wrong: bytes) -> None:
    ours, theirs = pair()
    control = Control(ours)
    theirs.send(wrong)
    with pytest.raises(ControlClosed, match="not a message"):
        await control.receive()
    assert control.closed
    theirs.close()


async def test_a_field_of_another_kind_ends_it(ends: tuple[Control, Control]) -> None:
    ours, theirs = ends
    ours.tell({"kind": "held", "room": 5, "lease": "x"})
    letter = await theirs.receive()
    for ask in (lambda: letter.text("room"), lambda: letter.number("lease"), lambda: letter.number("load")):
        with pytest.raises(ControlClosed):
            ask()


async def test_more_descriptors_than_there_may_be_end_it_and_none_stays(ends: tuple[Control, Control]) -> None:
    ours, theirs = ends
    many = [os.dup(ours.sock.fileno()) for _ in range(5)]
    before = descriptors()
    socket.send_fds(ours.sock, [json.dumps({"kind": "take", "sock": True}).encode()], many)
    with pytest.raises(ControlClosed, match="cut"):
        await theirs.receive()
    assert descriptors() == before - 1  # its own
    for one in many:
        os.close(one)


async def test_a_message_that_is_too_large_is_a_bug_of_ours(ends: tuple[Control, Control]) -> None:
    with pytest.raises(UsageError):
        ends[0].tell({"kind": "held", "room": "x" * LARGEST})


async def test_who_receives_is_told_of_the_end(ends: tuple[Control, Control], autojump_clock: MockClock) -> None:
    ours, theirs = ends
    ended: list[str] = []

    async def receive(control: Control) -> None:
        try:
            await control.receive()
        except ControlClosed as closed:
            ended.append(str(closed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, ours)
        nursery.start_soon(receive, theirs)
        await trio.sleep(1)
        assert ended == []
        ours.close("it does not answer")
    assert sorted(ended) == ["it does not answer", "the other side has ended"]
    assert not ours.hand_over({"kind": "take"})
    ours.tell({"kind": "told"})


async def test_what_is_told_to_one_that_is_gone_does_not_wait(
    ends: tuple[Control, Control], autojump_clock: MockClock
) -> None:
    ours, theirs = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.run)
        await trio.sleep(1)
        theirs.close()
        ours.tell({"kind": "ping"})
        ours.tell({"kind": "ping"})
    assert ours.closed


async def test_a_cancelled_receive_has_taken_no_message(ends: tuple[Control, Control]) -> None:
    ours, theirs = ends
    ours.tell({"kind": "told"})
    with trio.CancelScope() as scope:
        scope.cancel()
        await theirs.receive()
    assert (await theirs.receive()).said == {"kind": "told"}
