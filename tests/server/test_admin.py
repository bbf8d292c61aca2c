"""The tree of tasks tells the truth, its socket is its owner's alone, and a busy server has no wait without a bound."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import socket
import stat
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.client import join
from tests.support.command import started
from triosfu.cli.tasks import fetch
from triosfu.cli.worker import COMMAND
from triosfu.config import load_config
from triosfu.errors import ConfigError
from triosfu.server import serve, serve_front
from triosfu.server.admin import default_socket_path, open_admin_socket, serve_admin
from triosfu.server.declared_waits import DECLARED
from triosfu.server.inside_trio import effective_deadline, is_runnable
from triosfu.server.task_tree import Bound, TaskView, look, watching

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from triosfu.server import Front, Server


def every(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield task
    for nursery in task["nurseries"]:
        for child in nursery:
            yield from every(child)


def named(name: str, root: TaskView) -> TaskView:
    (found,) = [task for task in root.walk() if task.name == name]
    return found


# --- a busy server --------------------------------------------------------------------------------------------------


async def test_a_busy_server_has_no_wait_without_a_bound(tmp_path: Path) -> None:
    with started(runtime=tmp_path) as outside:
        async with (
            join(outside.server, "alice") as alice,
            join(outside.server, "bob", single=True) as bob,
            join(outside.server, "carol", room="elsewhere") as carol,
        ):
            for client in (alice, bob, carol):
                await client.ready()
            place = tmp_path / f"triosfu-{outside.port}.sock"
            told: list[dict[str, Any]] = []
            for number in range(20):  # at twenty moments of a conversation
                text = b"%d" % number
                await alice.say(text, to=bob)
                await bob.play(text, to=alice)
                told += every(await trio.to_thread.run_sync(fetch, place))
    assert [task for task in told if task["bound"] == "none"] == []
    assert {(task["room"], task["participant"]) for task in told if task["participant"]} == {
        ("room", "alice"),
        ("room", "bob"),
        ("elsewhere", "carol"),
    }
    peers = [task for task in told if task["name"].startswith("peer ")]
    assert {task["room"] for task in peers} == {"room", "elsewhere"}
    waiting = [task for task in peers if task["bound"] == "deadline"]
    assert waiting
    assert {task["waits_on"] for task in waiting} == {"Alarm.wait"}
    assert {task["where"] for task in waiting} == {"triosfu.peer.connection:PeerConnection.run"}
    assert all(task["deadline_in"] < 60 and task["since"] < 60 for task in waiting)
    assert {task["where"]: task["reason"] for task in told if task["bound"] == "declared"}.items() <= DECLARED.items()


def test_the_socket_is_its_owners_and_goes_with_the_server(tmp_path: Path) -> None:
    with started(runtime=tmp_path) as outside:
        place = tmp_path / f"triosfu-{outside.port}.sock"
        found = place.lstat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        outside.process.send_signal(signal.SIGINT)
        assert outside.process.wait(timeout=10) == 0
        assert list(tmp_path.iterdir()) == []


def test_there_is_a_server_without_a_socket(tmp_path: Path) -> None:
    with started("--admin-socket", "none", runtime=tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_default_place_that_cannot_be_had_does_not_keep_the_server_from_serving(tmp_path: Path) -> None:
    with started(runtime=tmp_path / "missing" / "too") as outside:
        assert outside.process.poll() is None


@pytest.mark.parametrize("workers", [1, 2])
async def test_nobody_is_answered_before_the_socket_is_there(workers: int) -> None:
    config = load_config(f"{{workers: {workers}, port: 0, rtc: {{udp_port: 0}}}}", development=True)
    found: list[str] = []

    def before(server: Server | Front) -> None:
        assert server.port
        found.extend(task.name for task in look(watch).walk())

    with watching() as watch:
        serving = serve_front(config, COMMAND, before=before) if workers > 1 else serve(config, before=before)
        async with serving:
            assert "http" in {task.name for task in look(watch).walk()}
    assert found
    assert "http" not in found


@pytest.mark.parametrize("place", DECLARED)
def test_a_declared_wait_is_in_a_function_that_exists(place: str) -> None:
    module, _, function = place.partition(":")
    assert inspect.iscoroutinefunction(attrgetter(function)(importlib.import_module(module)))


# --- the tree -------------------------------------------------------------------------------------------------------


async def test_the_tree_tells_what_waits_since_when_and_how_long(autojump_clock: MockClock) -> None:
    async def bounded() -> None:
        with trio.fail_after(60), trio.CancelScope(deadline=trio.current_time() + 10):
            await trio.sleep_forever()

    async def holder() -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(bounded, name="participant bob")

    with watching() as watch:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(holder, name="room kitchen")
            nursery.start_soon(trio.sleep_forever, name="forgotten")
            nursery.start_soon(trio.sleep_forever, name="to end")
            await trio.sleep(4)
            root = look(watch)
            bob, kitchen, forgotten = (named(name, root) for name in ("participant bob", "room kitchen", "forgotten"))
            assert (bob.bound, bob.room, bob.participant) == (Bound.DEADLINE, "kitchen", "bob")
            assert bob.since == pytest.approx(4)
            assert bob.deadline_in == pytest.approx(6)
            assert bob.waits_on == "sleep_forever"
            assert (kitchen.bound, kitchen.room, kitchen.participant) == (Bound.CHILDREN, "kitchen", "")
            assert kitchen.nurseries == ((bob,),)
            assert (forgotten.bound, forgotten.deadline_in, forgotten.reason) == (Bound.NONE, None, "")
            assert [task.bound for task in root.walk()].count(Bound.RUNNING) == 1
            nursery.cancel_scope.cancel()
        assert len(watch.last) <= len(list(look(watch).walk()))  # tasks that ended are forgotten


async def test_what_the_tree_needs_of_trios_inside_is_where_it_was(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        with trio.CancelScope(deadline=trio.current_time() + 7, shield=True):
            await trio.lowlevel.checkpoint()
            me = trio.lowlevel.current_task()
            assert effective_deadline(me) == trio.current_effective_deadline() == trio.current_time() + 7
            assert is_runnable(me)
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(trio.lowlevel.checkpoint)
        before = {is_runnable(task) for task in nursery.child_tasks}
        assert before == {True}  # they have not begun
        await trio.sleep(1)
        (waiting,) = nursery.child_tasks
        assert not is_runnable(waiting)
        assert effective_deadline(waiting) == float("inf")
        nursery.cancel_scope.cancel()
        assert effective_deadline(waiting) == -float("inf")
    # `joins_children` is held by the test above, and the declared waits inside of trio by the busy server.


# --- the socket -----------------------------------------------------------------------------------------------------


async def test_readers_get_a_tree_each_and_one_who_does_not_wait_harms_nobody(tmp_path: Path) -> None:
    place = tmp_path / "a.sock"
    with open_admin_socket(place) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_admin, listener, name="admin")
            for _ in range(3):
                rude = await trio.open_unix_socket(str(place))
                await rude.aclose()
                tree = await trio.to_thread.run_sync(fetch, place)
                (served,) = [task for task in every(tree) if task["name"] == "admin"]
                assert served["bound"] == "running"
            nursery.cancel_scope.cancel()
    assert not place.exists()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    place = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(place))
    with open_admin_socket(place):
        with pytest.raises(ConfigError, match="another server listens"), open_admin_socket(place):
            pass
        assert place.is_socket()
    assert not place.exists()


def test_nothing_else_is_replaced_or_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere.sock")
    for place in (precious, link):
        with pytest.raises(ConfigError, match="not a socket of this user"), open_admin_socket(place):
            pass
        with pytest.raises(ConfigError, match="not a socket of this user"):
            fetch(place)
    assert precious.read_text() == "mine"
    assert link.is_symlink()


def test_a_folder_that_somebody_else_rules_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, link = tmp_path / "shared", tmp_path / "link"
    shared.mkdir()
    link.symlink_to(tmp_path)
    shared.chmod(0o777)
    with pytest.raises(ConfigError, match="others may write"), open_admin_socket(shared / "a.sock"):
        pass
    with pytest.raises(ConfigError, match="links are not followed"), open_admin_socket(link / "a.sock"):
        pass
    with pytest.raises(ConfigError, match="longer than"), open_admin_socket(tmp_path / ("a" * 100) / "b"):
        pass
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    with pytest.raises(ConfigError, match="belongs to somebody else"), open_admin_socket(tmp_path / "a.sock"):
        pass


def test_without_a_runtime_folder_there_is_one_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert default_socket_path(7880).parts == ("/", "tmp", f"triosfu-{os.geteuid()}", "triosfu-7880.sock")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    with open_admin_socket(default_socket_path(7880)):
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
