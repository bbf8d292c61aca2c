"""The counter-examples do what their page says: the failing ones are stuck, the others end in time."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

FOLDER = Path(__file__).parents[2] / "docs" / "counterexamples"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
TRANSCRIPT = re.compile(r"^```\n\$ python docs/counterexamples/(\w+)\.py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))
HOUR = 3600.0


def load(name: str) -> Any:  # noqa: ANN401  whatever the program has
    return SimpleNamespace(**runpy.run_path(str(FOLDER / f"{name}.py")))


async def after(act: Callable[[], Awaitable[object]]) -> float:
    """How long it takes, in virtual seconds; an hour if it does not end."""
    begun = trio.current_time()
    with trio.move_on_after(HOUR):
        await act()
    return trio.current_time() - begun


def test_every_program_is_on_the_page() -> None:
    assert sorted(name for name, _ in TRANSCRIPT.findall(PAGE)) == PROGRAMS
    assert len(PROGRAMS) == 5


@pytest.mark.parametrize(("name", "output"), TRANSCRIPT.findall(PAGE), ids=[one for one, _ in TRANSCRIPT.findall(PAGE)])
def test_a_program_prints_what_the_page_says(name: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out == output


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_small_and_needs_nothing_but_trio_and_triosfu(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert text.count("\n") <= 80
    roots = {
        module.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }
    assert roots <= {"trio", "triosfu"} | sys.stdlib_module_names


async def test_the_wedge_is_stuck_and_not_only_slow(autojump_clock: MockClock) -> None:
    wedge = load("wedge_fails")
    peer = wedge.PeerConnection()
    assert await after(lambda: wedge.fails(peer)) == HOUR
    assert peer.association.expiries > 60


@pytest.mark.parametrize("patience", [0.0, 5.0, HOUR])
async def test_what_holds_ends_at_close_and_by_itself(autojump_clock: MockClock, patience: float) -> None:
    """D_abort is 33 s and one tick, whatever else happens."""
    wedge = load("wedge_holds")
    lasted = await after(lambda: wedge.holds(patience))
    assert lasted == patience if patience < 10 else 0 < lasted <= 33.5


def remedies(wedge: Any) -> dict[int, type]:  # noqa: ANN401
    """`PeerConnection` with one of the five conditions taken away."""

    class OwnTask(wedge.PeerConnection):  # type: ignore[misc]
        nursery: trio.Nursery

        async def set_remote_description(self, channels: int) -> None:
            async with self.operations:
                for _ in range(channels):
                    self.nursery.start_soon(self.association.write, b"OPEN")

    class Deadline(wedge.PeerConnection):  # type: ignore[misc]
        async def set_remote_description(self, channels: int) -> None:
            async with self.operations:
                for _ in range(channels):
                    with trio.move_on_after(10):
                        await self.association.write(b"OPEN")

    class GateForEach(wedge.PeerConnection):  # type: ignore[misc]
        async def set_remote_description(self, channels: int) -> None:
            self.association.free = trio.Event()  # of the new stream: nobody has written on it
            self.association.free.set()
            await super().set_remote_description(channels)

    class EndWakes(wedge.Association):  # type: ignore[misc]
        def close(self) -> None:
            super().close()
            self.free.set()

    class GivesUp(wedge.Association):  # type: ignore[misc]
        async def retransmit(self) -> None:
            with trio.move_on_after(33):
                await super().retransmit()
            self.close()

    def on(association: type) -> type:
        class Mended(wedge.PeerConnection):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.association = association()

        return Mended

    return {1: OwnTask, 2: Deadline, 3: GateForEach, 4: on(EndWakes), 5: on(GivesUp)}


# For each: after how many seconds the next description is applied, and the OPEN's own task has ended.
MENDED = {1: (0.0, HOUR), 2: (10.0, 10.0), 3: (0.0, 0.0), 4: (30.0, 30.0), 5: (HOUR, HOUR)}


@pytest.mark.parametrize("condition", MENDED)
async def test_what_becomes_of_the_wedge_with_one_condition_less(autojump_clock: MockClock, condition: int) -> None:
    wedge = load("wedge_fails")
    begun, ended = trio.current_time(), {"opened": HOUR, "next": HOUR}

    async def tell(name: str, act: Callable[[], Awaitable[object]]) -> None:
        await act()
        ended[name] = trio.current_time() - begun

    with trio.move_on_after(HOUR):
        async with trio.open_nursery() as nursery:
            peer = remedies(wedge)[condition]()
            nursery.start_soon(peer.association.retransmit)
            await peer.association.write(bytes(60_000))

            async def opened() -> None:
                async with trio.open_nursery() as peer.nursery:
                    await peer.set_remote_description(1)

            nursery.start_soon(tell, "opened", opened)
            await wait_all_tasks_blocked()
            nursery.start_soon(tell, "next", lambda: peer.set_remote_description(0))
            await trio.sleep(30)
            peer.association.close()
    assert (ended["next"], ended["opened"]) == MENDED[condition]


async def test_a_second_message_on_the_stream_still_waits_with_a_gate_for_each(autojump_clock: MockClock) -> None:
    wedge = load("wedge_fails")
    association = wedge.Association()
    await association.write(bytes(60_000))
    assert await after(lambda: association.write(b"more")) == HOUR


async def test_closing_waits_for_a_queue_or_does_not(autojump_clock: MockClock) -> None:
    program = load("close_waits_for_queue")
    assert await after(program.fails) == HOUR
    assert await after(program.holds) == 0


async def test_a_shield_without_a_deadline_lasts_as_long_as_the_client_wants(autojump_clock: MockClock) -> None:
    program = load("shield_without_deadline")
    await program.fails()  # no deadline here could end it
    assert trio.current_time() == HOUR
    assert await after(program.holds) == 5 + program.GRACE


async def test_half_a_message_is_the_last_of_a_stream(autojump_clock: MockClock) -> None:
    program = load("cancelled_partial_write")
    assert await after(lambda: program.played(program.Fails)) == HOUR
    assert await after(lambda: program.played(program.Holds)) < 30
