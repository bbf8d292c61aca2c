"""What participants that left hold until Python's collector finds them: nothing large.

A participant and its parts refer to each other, so that they go only with a full collection, which may be minutes away.
Memory of OpenSSL's and libsrtp's, packets and messages go when a session is closed. tests/server/test_nothing_stays.py
shows that the collector finds the rest.
"""

from __future__ import annotations

import gc
from collections import Counter

import pytest
import trio
from OpenSSL import SSL

import triosfu
from tests.server.test_nothing_stays import CONFIG
from tests.support.client import join
from tests.support.side import LIMIT
from triosfu.dtls.core import DtlsConnection
from triosfu.media.sent_log import SentLog
from triosfu.sctp.outbound import _Sent
from triosfu.sctp.sendqueue import OutMessage
from triosfu.srtp.core import Inbound, Outbound

GUESTS = 6
LARGE = (SSL.Connection, DtlsConnection, Inbound, Outbound, OutMessage, _Sent)  # or many


def large() -> Counter[str]:
    """How many there are of each type, and of logs that have an entry."""
    everything = gc.get_objects()
    found = Counter(type(one).__name__ for one in everything if type(one) in LARGE)
    found["SentLog"] = sum(1 for one in everything if type(one) is SentLog and one._sent)
    return found


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.usefixtures("no_collector")
async def test_who_left_holds_nothing_large(single: bool) -> None:
    async with triosfu.serve(CONFIG) as server, join(server, "stays") as stays:
        await stays.ready()
        (room,) = server.rooms
        before = large()
        for number in range(GUESTS):
            identity = f"guest {number}"
            async with join(server, identity, single=single) as guest:
                await guest.ready()
                await guest.say(b"hello", to=stays)
                await guest.play(str(number).encode(), to=stays)
                # What is on its way when it vanishes: nobody will acknowledge it.
                for channel in room.participants[identity].data._channels.values():
                    for _ in range(20):
                        channel.send_nowait(bytes(60_000))
                assert large()["OutMessage"] > before["OutMessage"]
                assert large()["DtlsConnection"] > before["DtlsConnection"]
                assert large()["Connection"] == before["Connection"], "OpenSSL's are gone with the handshake"
            with trio.fail_after(LIMIT):
                while identity in room.participants:
                    await trio.lowlevel.checkpoint()
        del guest
        await trio.sleep(0.05)
        assert large() - before == Counter()
