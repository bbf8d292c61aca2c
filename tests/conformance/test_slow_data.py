"""Readers of data that are slow: with a threshold, those above it lose nothing, and those below it hold up nobody."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from tests.clients.child import Child
from tests.clients.python_client import until
from tests.clients.slow_child import DRAINED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.meeting import Meeting

MESSAGE = bytes(60_000)
MESSAGES = 80
# What a reader may lack that others have: a MiB that waits in the server, and the reader's own window. Without anybody
# who waits it would lack nearly all.
LACKS = 5 << 19


def test_who_is_slow_but_not_too_slow_loses_nothing(meeting: Meeting, artifacts: Path) -> None:
    log = artifacts / "conformance_slow.log"

    async def scenario() -> None:
        url, room, mode = meeting.server.url, meeting.room, "single" if meeting.single else "dual"
        with contextlib.ExitStack() as stack:
            async with meeting.both() as (alice, bob):
                steady, closed = (
                    Child("tests.clients.slow_child", kind, url, room, kind, mode, log=log)
                    for kind in ("drains", "window")
                )
                for child in (steady, closed):
                    stack.callback(child.end)
                    child.wait_for("slow")
                began = time.monotonic()
                for number in range(MESSAGES):
                    await alice.room.local_participant.publish_data(number.to_bytes(4, "big") + MESSAGE)
                await until(lambda: len(bob.data) == MESSAGES, seconds=40, what="bob has everything")
                behind, took = MESSAGES - len(steady.events("taken")), time.monotonic() - began
                assert behind * len(MESSAGE) < LACKS, "alice had to wait for who is slow,"
                assert took > (MESSAGES * len(MESSAGE) - LACKS - DRAINED) / DRAINED, "who takes so much a second"
                await until(lambda: len(steady.events("taken")) == MESSAGES, seconds=30, what="so has who is slow")
                assert [event["number"] for event in steady.events("taken")] == list(range(MESSAGES))
                assert [int.from_bytes(payload[:4], "big") for _, payload, _ in bob.data] == list(range(MESSAGES))
                assert not closed.events("over"), "it answers, so it stays"

    meeting.run(scenario())
    assert meeting.modes() == {str(meeting.single)}
