"""Stops one thing at given steps of one scenario, and checks all that must hold then: see `test_every_step.py`."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import trio
from livekit.protocol import models
from structlog.testing import capture_logs

from tests.cancel.scenarios import Scenario, Scene, alice_in
from tests.support.client import Client, join
from tests.support.side import LIMIT
from tests.support.steps import (
    CONFIG,
    D_FLUSH,
    QUICK,
    SECOND,
    back_to,
    eventually,
    held,
    inventory,
    plainly,
    process,
    race,
    running,
    settled,
    stopping,
)
from tests.support.whip import whip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from tests.cancel.stops import Stop
    from tests.support.steps import AtStep, Running
    from triosfu.config import Config
    from triosfu.rooms.participant import Participant
    from triosfu.server import Server

Reason = models.DisconnectReason
THE_OTHERS, HER_OWN = "room", "own"  # rooms
messages = count(1)


async def check_within_a_server(scenario: Scenario, stop: Stop, numbers: Iterable[int]) -> int:
    """Stop it at each of `numbers`, until the scenario has fewer steps than that; return how many it has."""
    at_step = 0
    with plainly(lambda: f"{stop.name} at step {at_step} of {scenario.name}"), capture_logs() as logs:
        async with (
            running() as run,
            join(server := await run.up(), "bob") as bob,
            # Who has one connection and subscribes to nothing costs little when somebody comes or goes.
            join(server, "carol", single=True, auto_subscribe=False) as carol,
        ):
            await bob.ready()
            await carol.ready()
            await undisturbed(bob, carol)
            everything, the_servers = partial(inventory, run), partial(held, run)
            before = await settled(everything)
            inside = the_servers()
            for number in numbers:
                async with AsyncExitStack() as visit:
                    room, host = THE_OTHERS, bob
                    if stop.level == "room":
                        room, host = HER_OWN, await visit.enter_async_context(join(server, "dora", room=HER_OWN))
                        await host.ready()
                    single = stop.single and scenario.single
                    scene = await visit.enter_async_context(scene_with(scenario, server, host, room, single=single))
                    alice: Participant | None = None

                    def target(scene: Scene = scene) -> Callable[[], object] | None:
                        nonlocal alice
                        alice = alice_in(server) or alice
                        return stop.find(run, alice) if scene.begun or not scenario.joined else None

                    with stopping(run, number, target) as at:
                        await perform(scenario, scene, at)
                    at_step = at.steps
                    assert alice is not None
                    if not at.done:
                        alice.close(Reason.PARTICIPANT_REMOVED)
                        alice.room.close(Reason.ROOM_DELETED) if stop.level == "room" else None
                    elif stop.level == "connection":
                        await connection_ended(run, server, stop, alice)
                    await undisturbed(bob, carol)
                    if (later := alice_in(server)) not in {None, alice}:  # who was on her way back when she was stopped
                        later.close(Reason.PARTICIPANT_REMOVED)
                    if at.done and stop.level == "connection":
                        await session_ended(alice, at)
                    if scenario.elsewhere:
                        close_rooms(server)
                    await back_to(inside, the_servers, tasks=run.tasks)
                    assert_over(alice)
                await back_to(before, everything)
                if not at.done:
                    break
            assert not bob.gone
            assert not carol.gone
            assert not server.mux.counters["route_failed"]
            assert not any(room.counters["bugs"] for room in server.rooms)
    check_logs(logs)
    return at_step


def check_logs(logs: Sequence[Mapping[str, object]]) -> None:
    """Nothing went wrong that was only logged."""
    wrong = [entry for entry in logs if entry["log_level"] in {"error", "critical"}]
    if wrong:
        raise AssertionError(wrong)


async def check_server(
    scenario: Scenario, stop: Stop, numbers: Iterable[int], *, config: Config = CONFIG, within: float = SECOND
) -> int:
    """The same for a server of its own each time, in which there is nobody but Alice and Bob; it ends `within` that."""
    before = await settled(process)
    at_step = 0
    with plainly(lambda: f"{stop.name} at step {at_step} of {scenario.name}"), capture_logs() as logs:
        for number in numbers:
            scenes: list[Scene] = []
            async with running(config) as run:

                def target(run: Running = run, scenes: list[Scene] = scenes) -> Callable[[], object] | None:
                    begun = not scenario.joined or any(scene.begun for scene in scenes)
                    return stop.find(run, None) if begun else None

                with stopping(run, number, target) as at:
                    over = trio.Event()
                    single = stop.single and scenario.single
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(partial(_life, run, scenario, at, scenes=scenes, over=over, single=single))
                        with trio.fail_after(LIMIT):
                            await race(at.fired.wait, over.wait)
                        run.leave.set()
                        with trio.fail_after(within):
                            await run.ended.wait()
                        if not run.started.is_set():
                            nursery.cancel_scope.cancel()  # it waits for a server that never came
                at_step = at.steps
                left = {name: number for name, number in held(run).items() if name != "server's tasks"}
                assert not any(left.values()), left
                assert run.server is None or not run.server.mux.counters["route_failed"]
            await back_to(before, process)
            if not at.done:
                break
    check_logs(logs)
    return at_step


async def _life(
    run: Running, scenario: Scenario, at: AtStep, *, scenes: list[Scene], over: trio.Event, single: bool
) -> None:
    """Alice and Bob, from the start of the server until they know that it is gone."""
    server = await run.up()
    async with join(server, "bob") as bob:
        if scenario.joined:
            await bob.ready()
        async with scene_with(scenario, server, bob, THE_OTHERS, single=single) as scene:
            scenes.append(scene)
            await perform(scenario, scene, at)
            over.set()
            await run.ended.wait()
            for client in (scene.alice, bob):
                if client.signals:  # before there is any, trio-websocket itself may miss the end
                    await client.until(partial(getattr, client, "gone"), within=SECOND)


@asynccontextmanager
async def scene_with(
    scenario: Scenario, server: Server, bob: Client, room: str, *, single: bool
) -> AsyncIterator[Scene]:
    """Alice, who begins to join, and Bob; when it is over, whoever waits must have been told so."""
    joining: AbstractAsyncContextManager[Client] = join(server, "alice", room=room, single=single, settings=QUICK)
    if scenario.http:
        watched = f"participant={bob.identity}"
        joining = whip(server, "alice", room=room, watches=scenario.http == "whep", query=watched, settings=QUICK)
    async with joining as alice, trio.open_nursery() as nursery:
        yield Scene(server, alice, bob, nursery)
        await eventually(lambda: not nursery.child_tasks)


async def perform(scenario: Scenario, scene: Scene, at: AtStep) -> None:
    """The scenario, until it is over or something is stopped."""

    async def act() -> None:
        if scenario.joined:
            await scene.alice.ready()
        scene.begun = True
        try:
            await scenario.run(scene)
        except Exception:  # once somebody has stopped it, nothing need work any more
            if not at.done:
                raise

    with trio.fail_after(LIMIT):
        await race(at.fired.wait, act)


async def undisturbed(bob: Client, carol: Client) -> None:
    """The two of them hear each other, at once."""
    number = next(messages)
    with trio.fail_after(SECOND):
        await bob.say(b"data %d" % number, to=carol)
        await carol.say(b"data %d" % number, to=bob)
        await carol.play(b"sound %d" % number, to=bob)
    bob.forget()
    carol.forget()


def close_rooms(server: Server) -> None:
    """Nothing is to be left of rooms that stay open for a while after she has left them."""
    for room in server.rooms:
        if room.name != THE_OTHERS:
            room.close(Reason.ROOM_DELETED)


async def connection_ended(run: Running, server: Server, stop: Stop, alice: Participant) -> None:
    """The connection says goodbye and goes."""
    assert stop.peer is not None
    peer = stop.peer(alice)
    await eventually(lambda: peer.closed and peer._transport not in server.mux._routes, within=D_FLUSH)
    await eventually(lambda: not any(task.name == f"peer {peer.name}" for task in run.tasks()))
    assert not peer.waiting


async def session_ended(alice: Participant, at: AtStep) -> None:
    """What a connection's end means for its session, a deadline decides."""
    if at.steps % 4 == 0:  # often enough, and it takes many of the others' timers
        await trio.sleep_until(at.at + alice.settings.times.resume)
    else:
        alice.close(Reason.PARTICIPANT_REMOVED)


def assert_over(alice: Participant) -> None:
    """Nothing of her session waits for anything, or for a time to come."""
    assert alice.closed
    assert not alice.linked
    assert not len(alice.deadlines)
    for peer in alice.shape.peers:
        assert peer.closed
        assert not peer.waiting
        assert math.inf == peer._transport.next_timeout() == peer._data.next_timeout()
