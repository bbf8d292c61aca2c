"""Real clients that lose their connection and come back: who resumes loses nothing, who starts over gets nothing twice.

Everybody numbers its reliable messages, one every 20 ms, and knows which ones of the others' it got.
"""

from __future__ import annotations

from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from tests.clients.browser import chromium
from tests.clients.numbers import (
    HEARD,
    InPage,
    all_heard,
    back,
    check_complete,
    check_none_twice,
    lost,
    patiently,
    settled,
    sounds,
    talkers,
)
from tests.clients.server import RunningServer, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def server(network: None, artifacts: Path) -> Iterator[RunningServer]:
    """A server that has TCP, for those who ask for it."""
    with running_server(artifacts / "resuming_server.log", "--config-body", "rtc: {tcp_port: 7881}") as running:
        yield running


@pytest.fixture(scope="module")
def browser(server: RunningServer) -> Iterator[Browser]:
    with chromium() as running:
        yield running


def test_who_resumes_loses_no_message_and_no_track(server: RunningServer, browser: Browser, artifacts: Path) -> None:
    names = ("wheel-single", "wheel-dual", "chromium-single", "chromium-dual")
    with talkers(server, browser, "resume", artifacts, *names) as found:
        for kinds in (
            ("SIGNAL_RECONNECT", "SIGNAL_RECONNECT", "signal-reconnect", "disconnect-signal-on-resume"),
            ("SIGNAL_RECONNECT", "SIGNAL_RECONNECT", "disconnect-signal-on-resume-no-messages", "signal-reconnect"),
        ):
            for one, kind in zip(found.values(), kinds, strict=True):
                one.simulate(kind)
            back(found)
        before = sounds(found)
        numbers = settled(found)
        check_complete(numbers)
        # A page that hears of somebody by SCTP before it does by its WebSocket does not know who it is.
        counts = {(receiver, sender): len(numbers[receiver][sender]) for receiver, sender in permutations(found, 2)}
        assert min(counts.values()) > 3 * HEARD, counts
        after = sounds(found)
        assert len(after) == 6  # of the two that have a tone, each hears the other, and the pages hear both
        assert all(after[way] > before[way] for way in after), (before, after)
        assert not lost(found)


ROUNDS = (  # what each of the wheel's two clients and the two pages asks for
    ("FULL_RECONNECT", "MIGRATION", "leave-full-reconnect", "resume-reconnect"),
    ("NODE_FAILURE", "FORCE_TCP", "node-failure", "force-tls"),
    ("FORCE_TLS", "DISCONNECT_SIGNAL_ON_RESUME", "force-tcp", "migration"),
)


def test_who_starts_over_gets_nothing_twice(server: RunningServer, browser: Browser, artifacts: Path) -> None:
    """A failed resume, a node that fails and another protocol are new sessions, too: these clients begin them."""
    names = ("wheel-single", "wheel-dual", "chromium-single", "chromium-dual")
    with talkers(server, browser, "restart", artifacts, *names) as found:
        for kinds in ROUNDS:
            for (name, one), kind in zip(found.items(), kinds, strict=True):
                # A message that is being sent when its connection ends holds the wheel up for 15 s, and a page with two
                # connections for ever (docs/interop.md).
                if name != "chromium-single":
                    one.pause()
                one.simulate(kind)
            back(found)
            for one in found.values():
                one.go()
            heard = {name: one.numbers() for name, one in found.items()}
            patiently(partial(all_heard, found, HEARD, beyond=heard), "everybody hears everybody again")
        for page in map(found.get, names[2:]):
            assert isinstance(page, InPage)
            assert set(page.page.evaluate("paths()")) == {"tcp"}, "what it asked for stays"
        check_none_twice(settled(found))


def test_who_asks_for_it_speaks_and_a_server_that_leaves_says_so(
    server: RunningServer, browser: Browser, artifacts: Path
) -> None:
    with talkers(server, browser, "server-leave", artifacts, "wheel-single", "chromium-dual") as found:
        wheel, page = found.values()
        page.simulate("speaker")
        assert isinstance(page, InPage)
        patiently(lambda: "chromium-dual" in page.page.evaluate("seen.speakers.flat()"), "it seems to speak")
        wheel.simulate("SERVER_LEAVE")
        page.simulate("server-leave")
        patiently(lambda: "disconnected" in wheel.lost() and "Disconnected" in page.lost(), "both are told")
        assert not wheel.is_back()
        assert not page.is_back()
