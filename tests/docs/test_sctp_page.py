"""docs/sctp.md is true: its drawing, its tables, its example."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import fields
from random import Random

import pytest

from docs import diagrams
from tests.docs.pages import read, table_under
from triosfu.datachannel.core import DataChannels
from triosfu.ice import state as ice
from triosfu.sctp import state as sctp
from triosfu.sctp.core import Association
from triosfu.sctp.settings import Settings
from triosfu.sctp.timers import Timer

PAGE = read("docs/sctp.md")
EXAMPLE = re.compile(r"^```python\n# two_ends\.py\n(.*?)^```\n\n```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ARROW = re.compile(r"^    (\w+) --> (\w+): (.+)$", re.MULTILINE)


@pytest.mark.parametrize("page", diagrams.drawings())
def test_a_drawing_is_not_older_than_its_table(page: str) -> None:
    text = read(f"docs/{page}")
    assert diagrams.renewed(text, *diagrams.drawings()[page]) == text, f"stale: {diagrams.COMMAND}"


def drawn(text: str) -> set[tuple[str, str, str]]:
    """From, event, to."""
    return {(before, on, after) for before, after, ons in ARROW.findall(text) for on in ons.split(", ")}


def test_a_drawing_has_every_transition() -> None:
    arrows = drawn(diagrams.diagram(sctp.TRANSITIONS, sctp.State.CLOSED))
    once = {(at.name, on.name, to.name) for (at, on), to in sctp.TRANSITIONS.items() if on is not sctp.On.END}
    assert arrows == once | {("OTHER", "END", "ENDED")}
    assert ("OTHER", "CLOSE", "CLOSED") in drawn(diagrams.diagram(ice.TRANSITIONS, ice.IceState.NEW))


def test_a_stale_drawing_is_found_and_renewed() -> None:
    source, drawing = diagrams.drawings()["sctp.md"]
    stale = PAGE.replace("SHUTDOWN_PENDING --> SHUTDOWN_SENT: DRAINED\n", "")
    assert stale != PAGE
    assert diagrams.renewed(stale, source, drawing) == PAGE


def test_each_timer_has_a_row() -> None:
    assert sorted(row[0].strip("`") for row in table_under(PAGE, "Timers")) == sorted(timer.name for timer in Timer)


def test_each_setting_has_its_default() -> None:
    told = {row[0].strip("`"): row[1] for row in table_under(PAGE, "Limits")}
    assert told == {field.name: str(field.default) for field in fields(Settings)}


def test_the_other_limits_are_those_of_the_code() -> None:
    settings, data = Settings(), DataChannels(Association(now=0.0, rng=Random(1)), dtls_client=None)
    assert 4 * settings.receive_buffer // 500 == 8388
    assert (data._open_timeout, data._close_timeout, data._max_channels_by_peer) == (10.0, 10.0, 256)
    assert 5 * settings.rto_max == 15.0
    assert (settings.max_retransmits + 1) * settings.rto_max == 33.0


def test_the_example_prints_what_the_page_says() -> None:
    found = EXAMPLE.search(PAGE)
    assert found is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found[1], "two_ends.py", "exec"), {})  # noqa: S102  a page of ours
    assert printed.getvalue() == found[2]
