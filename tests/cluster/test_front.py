"""What the front does while worker processes are not there or do not answer, on virtual time."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.cluster.test_supervisor import Imagined, leaves, stage
from tests.net.connection import PEER
from triosfu.agents.relay import AgentRelay
from triosfu.config import load_config
from triosfu.errors import ConfigError
from triosfu.net.http import HandOver, Headers, Request, Response
from triosfu.server.destinations import LIST_ROOMS, SERVICE
from triosfu.server.front import TAKEN, Desk, serve_front
from triosfu.tokens import VideoGrant, create_token

if TYPE_CHECKING:
    from trio.testing import MockClock

    from triosfu.cluster.supervisor import Supervisor

KEYS = {"devkey": "secret"}


def desk_of(supervisor: Supervisor) -> Desk:
    return Desk(supervisor, AgentRelay(KEYS, supervisor), KEYS, None)


def asked(path: str, method: str = "GET", **grants: Any) -> Request:  # noqa: ANN401  grants
    token = create_token("devkey", "secret", identity="alice", video=VideoGrant(room_join=True, room="r", **grants))
    fields = [(b"authorization", f"Bearer {token}".encode()), (b"content-type", b"application/json")]
    return Request(method, path, path, {}, Headers(fields), b"{}", PEER)


async def handed(desk: Desk, request: Request) -> Response | None:
    """What the client is told, or None if its connection was given to somebody."""
    answer = await desk.respond(request)
    assert isinstance(answer, HandOver)
    mine, its = socket.socketpair()
    with mine, its:
        return await answer.take(its.fileno(), b"GET", PEER)


async def test_a_connection_that_nobody_takes_waits_so_long_and_no_longer(autojump_clock: MockClock) -> None:
    async with stage() as made:
        for process in made.processes:
            process.die()
        made.make = partial(Imagined, ready=False)
        await trio.sleep(0.1)
        assert made.supervisor.alive() == []
        desk = desk_of(made.supervisor)
        for path, text in (
            ("/rtc", "no worker process can take this now"),
            (f"{SERVICE}GetParticipant", "unavailable"),
        ):
            began = trio.current_time()
            refusal = await handed(desk, asked(path))
            assert refusal is not None
            assert refusal.status == 503
            assert text in refusal.body.decode()
            assert trio.current_time() - began == pytest.approx(TAKEN)
        answer = await desk.respond(asked(LIST_ROOMS, "POST", room_list=True))
        assert isinstance(answer, Response)
        assert (answer.status, json.loads(answer.body)["code"]) == (503, "unavailable")


async def test_it_is_taken_as_soon_as_a_process_is_there(autojump_clock: MockClock) -> None:
    async with stage() as made:
        for process in made.processes:
            process.die()
        await trio.sleep(0.1)
        began = trio.current_time()
        assert await handed(desk_of(made.supervisor), asked("/rtc")) is None
        assert trio.current_time() - began == pytest.approx(0.4)
        chosen = made.supervisor.choose(["r"])
        assert chosen is not None
        await trio.sleep(0.1)
        assert made.of(chosen.index)[-1].kinds()["take"] == 1


async def test_one_that_does_not_read_is_replaced_and_what_waits_goes_to_another(autojump_clock: MockClock) -> None:
    async with stage() as made:
        desk, supervisor = desk_of(made.supervisor), made.supervisor
        assert await handed(desk, asked("/rtc")) is None
        deaf = supervisor.choose(["r"])
        assert deaf is not None
        process = made.of(deaf.index)[0]
        process.deaf = True
        await trio.sleep(1)  # it reads one more
        mine, its = socket.socketpair()
        with mine, its:
            while deaf.control.hand_over({"kind": "take"}, its.fileno()):
                pass
        began = trio.current_time()
        assert await handed(desk, asked("/rtc")) is None
        assert 3 < trio.current_time() - began < TAKEN
        assert process.killed
        other = supervisor.choose(["r"])
        assert other is not None
        assert other is not deaf


async def test_who_does_not_answer_makes_the_list_unavailable_and_no_more(autojump_clock: MockClock) -> None:
    async with stage() as made:  # they take what they are given, and say nothing
        began = trio.current_time()
        answer = await desk_of(made.supervisor).respond(asked(LIST_ROOMS, "POST", room_list=True))
        assert trio.current_time() - began == pytest.approx(2)
        assert isinstance(answer, Response)
        said = json.loads(answer.body)
        assert said["code"] == "unavailable"
        assert re.fullmatch(r"worker process [01] does not answer", said["msg"])


async def test_it_needs_a_system_that_hands_sockets_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    config = load_config("workers: 2", development=True)
    with pytest.raises(ConfigError, match=r"^workers: more than one needs Linux"):
        async with serve_front(config, [sys.executable, "-c", ""]):
            raise AssertionError


async def test_a_process_that_ends_at_once_is_one_line() -> None:
    config = load_config("workers: 2\nport: 0", development=True)
    said: list[str] = []
    try:
        async with serve_front(config, [sys.executable, "-c", ""]):
            raise AssertionError
    except* ConfigError as wrong:
        said = [str(error) for error in leaves(wrong)]
    assert {line.partition(": cannot")[0].partition(": the other")[0] for line in said} == {
        "workers: a process did not start"
    }
