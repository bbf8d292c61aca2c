"""Networks that are not as they should be: a link that goes down and comes back, and one that no UDP gets through.

Nobody is told to leave, to come back or to go another way: the clients and the server find out by themselves.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.clients.cable import SERVER, SWITCH, Cable, ip, switch
from tests.clients.child import Child
from tests.clients.numbers import HEARD, InProcess, all_heard, check_complete, lost, patiently, settled
from tests.clients.server import RunningServer, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PORT = 7894
DOWN = 6.5  # seconds: ICE has noticed, after five; who stays away is gone after twenty


@pytest.fixture(scope="module")
def far_server(network: None, artifacts: Path) -> Iterator[RunningServer]:
    """A server at the switch where the cables end."""
    options = ("--config-body", "rtc: {tcp_port: 7881}")
    with switch(), running_server(artifacts / "cable_server.log", *options, port=PORT, host=SERVER) as running:
        yield running


@contextmanager
def behind_cables(server: RunningServer, logs: Path, *names: str) -> Iterator[tuple[dict[str, InProcess], list[Cable]]]:
    """The named clients in a room, each but `stays` behind a cable; each has heard each of the others."""
    with ExitStack() as stack:
        found: dict[str, InProcess] = {}
        cables: list[Cable] = []
        room = f"cable-{time.monotonic_ns()}"  # who was killed in another one may still be thought to be there
        for number, name in enumerate(names):
            _, program, shape = name.split("-")
            cable = None
            if not name.startswith("stays"):
                cable = Cable(100 + number)
                stack.callback(cable.remove)
                cables.append(cable)
            module = "tests.clients.numbers_child" if program == "wheel" else "tests.clients.numbers_page_child"
            arguments = (server.url, server.token(name, room), shape)
            child = Child(module, *arguments, log=logs / "cable_clients.log", cable=cable)
            stack.callback(child.end, patience=10 if program == "chromium" else 0)
            found[name] = InProcess(child)
        for one in found.values():
            one.child.wait_for("ready")
        patiently(lambda: all_heard(found, HEARD), "everybody hears everybody")
        yield found, cables


def test_a_cable_that_comes_back_has_cost_nothing(far_server: RunningServer, artifacts: Path) -> None:
    """Chromium sees its network go and come; of the wheel's connections one is reset when the network is back."""
    names = ("far-wheel-dual", "far-chromium-single", "stays-wheel-single")
    with behind_cables(far_server, artifacts, *names) as (found, cables):
        earlier = {name: one.report() for name, one in found.items()}
        for cable in cables:
            cable.pull()
        time.sleep(DOWN)
        away = {name: one.numbers() for name, one in found.items()}
        for cable in cables:
            cable.plug_back()
        cables[0].reset_connections()
        patiently(lambda: all(found[name].is_back() for name in names[:2]), "both have resumed")
        patiently(lambda: all_heard(found, HEARD, beyond=away), "everybody hears everybody again")
        later = {name: one.report() for name, one in found.items()}
        check_complete(settled(found))
        assert all(later[name]["sid"] == report["sid"] for name, report in earlier.items())
        assert later[names[1]]["ufrags"] != earlier[names[1]]["ufrags"]
        for name, report in later.items():
            assert len(report["loud"]) == 2, "the tones of both others"
            assert all(much > earlier[name]["loud"][other] for other, much in report["loud"].items())
        assert not lost(found)


def test_where_no_udp_gets_through_there_is_tcp(far_server: RunningServer, artifacts: Path) -> None:
    """Sound and data, both ways, of clients that offer UDP as ever."""
    names = ("far-wheel-dual", "far-chromium-single", "stays-wheel-single")
    with without_udp(), behind_cables(far_server, artifacts, *names) as (found, _):
        reports = {name: one.report() for name, one in found.items()}
        assert reports[names[1]]["paths"] == ["tcp"]
        patiently(lambda: all(len(one.report()["loud"]) == 2 for one in found.values()), "everybody's tone")
        check_complete(settled(found))
        assert not lost(found)


@contextmanager
def without_udp() -> Iterator[None]:
    """Nothing of UDP comes from behind the cables: a rule that goes before the table of local addresses."""
    ip("rule", "add", "pref", 10, "lookup", "local")
    ip("rule", "delete", "pref", 0)
    ip("rule", "add", "pref", 5, "iif", SWITCH, "ipproto", "udp", "blackhole")
    try:
        yield
    finally:
        ip("rule", "delete", "pref", 5)
        ip("rule", "add", "pref", 0, "lookup", "local")
        ip("rule", "delete", "pref", 10)
