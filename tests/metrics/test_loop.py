"""How the event loop does, and what its tasks are called, on virtual time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st

from triosfu.metrics.loop import FUNCTIONS, KINDS, LoopDelay, kind_of, survey
from triosfu.server.task_tree import Bound, look, watching

if TYPE_CHECKING:
    from trio.testing import MockClock


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("room den", "room"),
        ("participant room", "participant"),
        ("peer PA_x/pub", "peer"),
        ("session PA_x", "session"),
        ("udp 127.0.0.1:7882", "udp"),
        ("triosfu.net.udp.UdpMux._flush_when_asked", "udp"),
        ("triosfu.net.http.HttpServer.serve_socket", "connection"),
        ("triosfu.net.listeners.serve_listener", "listener"),
        ("triosfu.net.websocket.WebSocket._run", "websocket"),
        ("triosfu.server.until_signalled.run_until_signalled", "server"),
        ("<TrioToken>", "other"),
        ("my_application.jobs.job 17", "other"),
    ],
)
def test_a_task_has_a_kind(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@given(st.text() | st.sampled_from(sorted(KINDS)).map("{} x".format))
def test_kinds_are_few_whatever_tasks_are_called(name: str) -> None:
    assert kind_of(name) in KINDS | set(FUNCTIONS.values()) | {"other"}


async def test_a_survey_says_what_the_tree_says(autojump_clock: MockClock) -> None:
    with watching() as watch:
        async with trio.open_nursery() as nursery:
            for _ in range(31):
                nursery.start_soon(trio.sleep, 50, name="peer two")
            nursery.start_soon(trio.sleep_forever, name="forgotten")
            await trio.sleep(4)
            found = await survey(watch)
            tree = list(look(watch).walk())
            assert found.kinds["peer"] == 31
            assert (found.kinds.total(), found.bounds.total()) == (len(tree), len(tree))
            for bound in Bound:
                assert found.bounds[bound] == sum(one.bound is bound for one in tree)
            assert found.bounds[Bound.NONE] == 1
            assert found.oldest[Bound.DEADLINE] == found.oldest[Bound.NONE] == pytest.approx(4)
            nursery.cancel_scope.cancel()


async def test_a_survey_lets_others_run_and_passes_over_who_ends_meanwhile(autojump_clock: MockClock) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    enough = trio.Event()

    async def end() -> None:
        await trio.lowlevel.checkpoint()
        enough.set()

    with watching() as watch:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other, name="other")
            for _ in range(200):
                nursery.start_soon(enough.wait, name="peer")
            await trio.lowlevel.checkpoint()
            nursery.start_soon(end)
            found = await survey(watch)
            assert turns >= 8
            assert found.kinds["peer"] < 200
            nursery.cancel_scope.cancel()


async def test_watches_at_the_same_time_are_one() -> None:
    with watching() as first:
        with watching() as second:
            assert first is second
        await trio.lowlevel.checkpoint()
        assert first.last
    with watching() as third:
        assert third is not first
    first.last.clear()
    await trio.lowlevel.checkpoint()
    assert not first.last  # nobody tells it any more


async def test_a_turn_that_takes_long_is_seen() -> None:
    with LoopDelay().watching() as delay:
        await trio.lowlevel.checkpoint()
        time.sleep(0.06)  # noqa: ASYNC251  the very thing that is measured
        await trio.sleep(0.001)
        await trio.sleep(0.001)
    by_bound = dict(delay.turns.cumulative())
    assert delay.turns.count - by_bound[0.05] == 1
    assert delay.turns.sum >= 0.06
    assert delay.turns.count >= 3
    seen = delay.turns.count
    await trio.sleep(0.001)
    assert delay.turns.count == seen
