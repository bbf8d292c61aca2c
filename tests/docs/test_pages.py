"""The pages are true: what they quote is in the source, and what they name exists."""

from __future__ import annotations

import ast
import re
import textwrap
from inspect import signature

import pytest

from tests.docs.pages import (
    CODE,
    DOCS,
    PACKAGE,
    ROOT,
    anchors,
    defined,
    links,
    modules,
    paths,
    public_async_calls,
    quotes,
    read,
    table_under,
    tree,
    without_blocks,
)
from triosfu.api import twirp
from triosfu.datachannel.core import DataChannels
from triosfu.dtls.core import DtlsConnection
from triosfu.metrics import page as metrics_page
from triosfu.net import egress, http
from triosfu.net.websocket import WebSocketLimits
from triosfu.peer import PeerSettings, connection
from triosfu.rooms import data, directory, negotiation
from triosfu.rooms.settings import RoomSettings
from triosfu.sctp.settings import Settings
from triosfu.server.app import GRACE
from triosfu.signalling import link
from triosfu.webhooks import delivery
from triosfu.webhooks.core import Schedule

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *DOCS.rglob("*.md")])
CANCELLATION = read("docs/cancellation.md")
CALL = re.compile(r"`([\w/]+\.py)` `([\w.]+)`")
MEMBER = re.compile(r"[A-Z]\w+\.\w+")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_quotes_is_in_the_file_that_it_names(page: str) -> None:
    for path, code in quotes(read(page)):
        plain = textwrap.dedent(code)
        lines = [textwrap.indent(plain, " " * depth) for depth in (0, 4, 8, 12, 16, 20)]
        assert any(("\n" + one) in "\n" + read(path) for one in lines), f"{page} quotes what is not in {path}:\n{code}"


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    here = (ROOT / page).parent
    for target, at in links(read(page)):
        place = (here / target).resolve() if target else ROOT / page
        assert place.exists(), f"{page} links to {target}"
        if at:
            assert at in anchors(place.read_text(encoding="utf-8")), f"{page} links to {target}#{at}"


@pytest.mark.parametrize("page", PAGES)
def test_the_paths_that_a_page_names_exist(page: str) -> None:
    assert [path for path in paths(read(page)) if not (ROOT / path).exists()] == []


def test_cancellation_has_a_quote_for_each_rule() -> None:
    rules = re.findall(r"^## \d+\. .*?(?=^## )", CANCELLATION, re.MULTILINE | re.DOTALL)
    assert [int(rule[3:5].strip(". ")) for rule in rules] == list(range(1, 13))
    assert [rule.partition("\n")[0] for rule in rules if not list(quotes(rule))] == []


@pytest.mark.parametrize("page", ["docs/cancellation.md"])
def test_the_methods_that_a_page_names_exist(page: str) -> None:
    known = {name for module in modules() for name in defined(module)}
    named = {code for code in CODE.findall(without_blocks(read(page))) if MEMBER.fullmatch(code)}
    assert named
    assert named - known == set()


def test_every_public_async_call_says_what_it_has_done_when_cancelled() -> None:
    assert [call for call, promise in public_async_calls().items() if "ancel" not in promise] == []


def test_every_public_async_call_is_in_the_table_and_no_other() -> None:
    rows = table_under(CANCELLATION, "What a cancelled call has done")
    listed = [CALL.fullmatch(row[0]) for row in rows]
    assert None not in listed
    assert sorted(match.groups() for match in listed if match) == sorted(public_async_calls())
    assert all(len(row) == 3 and row[1] and row[2] for row in rows)


def test_the_bounds_in_the_table_of_queues_are_those_of_the_code() -> None:
    """Rule 8, row by row. Whoever changes one changes the page."""
    peer, socket, web = PeerSettings(), WebSocketLimits(), http.Limits()
    assert (peer.high_water, peer.hard_limit) == (1 << 20, 16 << 20)
    assert (socket.queue_count, socket.queue_bytes) == (1024, 8 << 20)
    assert (link.MAX_WAITING, data.HELD_BYTES, egress.SLOTS) == (1024, 100_000, 1024)
    assert (RoomSettings().limits.candidates, connection.MAX_REMOTE_CANDIDATES) == (128, 64)
    assert (Schedule().depth, Schedule().size) == (200, 64 << 20)
    assert (Settings().receive_buffer, web.buffered, web.connections) == (1 << 20, 256 << 20, 4096)


def test_the_deadlines_in_the_table_are_those_of_the_code() -> None:
    """Rule 11, row by row."""
    peer, times, web, socket = PeerSettings(), RoomSettings().times, http.Limits(), WebSocketLimits()
    channels, handshake = signature(DataChannels).parameters, signature(DtlsConnection).parameters
    assert (channels["open_timeout"].default, channels["close_timeout"].default) == (10, 10)
    assert (Settings().max_retransmits + 1) * Settings().rto_max == 33
    assert (peer.disconnected_after, peer.failed_after, peer.connect_timeout) == (5, 15, 30)
    assert (handshake["handshake_timeout"].default, times.negotiation, negotiation.TRIES) == (15, 15, 2)
    assert (times.attach, times.join, times.resume) == (10, 60, 5)
    assert (twirp.DEADLINE, directory.PATIENCE, metrics_page.PATIENCE) == (10, 10, 5)
    assert (web.header_deadline, web.body_deadline, web.write_deadline) == (10, 30, 30)
    assert (Schedule().max_age, delivery.ATTEMPT, Schedule().total) == (30, 10, 60)
    assert (socket.write_deadline, socket.flush, GRACE) == (10, 0.25, 5)


def test_a_shield_has_a_deadline_or_is_on_the_page() -> None:
    """Rule 3. `move_on_after` has one by its first argument."""
    without = []
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Call) and any(one.arg == "shield" for one in node.keywords):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                if called not in {"move_on_after", "fail_after", "move_on_at", "fail_at"}:
                    without.append(module.relative_to(PACKAGE).as_posix())
    assert without == ["net/websocket.py"]


def test_nobody_swallows_a_cancellation() -> None:
    """Rule 10. The one that does not raise again is outside of trio, in a thread that ends with it."""
    swallowed = []
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "BaseException"
                again = any(isinstance(one, ast.Raise) for one in node.body)
                if re.search(r"BaseException\b|Cancelled", caught) and not again:
                    swallowed.append(module.relative_to(PACKAGE).as_posix())
    assert swallowed == ["server/threaded.py"]
