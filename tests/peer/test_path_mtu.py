"""Packets of data channels grow to what the path carries: over a virtual network, loopback, and a narrow loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.clients.network import enter_own_network
from tests.support.side import pair
from tests.support.virtual import Way, joined, virtual_time
from triosfu.ice.core import SelectedPair

if TYPE_CHECKING:
    from tests.support.side import Pair
    from triosfu.peer import PeerConnection

MUCH = 200_000  # bytes
PLAIN, ETHERNET, JUMBO, RECORD = 1191, 1412, 8912, 16_384


def path_mtu(peer: PeerConnection) -> int:
    return peer._data._association.path_mtu


async def connect(both: Pair) -> None:
    await both.connect()
    await both.channel()


async def send_much(both: Pair, messages: int = 4) -> None:
    """Messages to the answerer, until all are there."""
    before = len(both.answerer.messages)
    for _ in range(messages):
        await both.offerer.channels["chat"].send(bytes(MUCH))
    await both.answerer.until(lambda side: len(side.messages) == before + messages)


@pytest.mark.parametrize(("mtu", "found"), [(1300, PLAIN), (1460, ETHERNET), (8_960, JUMBO), (20_000, RECORD)])
def test_a_narrow_way_is_filled_and_not_overfilled(mtu: int, found: int) -> None:
    @virtual_time
    async def run() -> None:
        async with joined(ways=(Way(mtu=mtu), Way(mtu=mtu))) as both:
            await connect(both)
            await send_much(both)
            await trio.sleep(5)
            assert path_mtu(both.offerer.peer) == found
            assert path_mtu(both.answerer.peer) == PLAIN, "it has sent nothing large"

    run()


def test_the_way_to_another_address_is_searched_anew() -> None:
    @virtual_time
    async def run() -> None:
        async with joined(ways=(Way(mtu=9_000), Way(mtu=9_000))) as both:
            await connect(both)
            await send_much(both)
            await trio.sleep(5)
            assert path_mtu(both.offerer.peer) == JUMBO
            both.out.mtu = 1_460
            transport = both.offerer.peer._transport
            assert transport.destination is not None
            transport._destinations.clear()  # so that the pair that is chosen again is another to the transport
            (local,) = both.offerer.mux.local_addresses
            transport.ice._events.append(SelectedPair(local, transport.destination.address))
            both.offerer.peer.drain_soon()
            assert path_mtu(both.offerer.peer) == PLAIN
            await send_much(both)
            await trio.sleep(5)
            assert path_mtu(both.offerer.peer) == ETHERNET

    run()


async def test_over_loopback_packets_are_as_large_as_a_record() -> None:
    async with pair() as both:
        await connect(both)
        await send_much(both, 8)
        assert path_mtu(both.offerer.peer) == RECORD
        assert {message[1] for message in both.answerer.messages} == {bytes(MUCH)}


async def look_at_a_narrow_loopback() -> dict[str, int]:
    """In a process and a network of its own: what is found where the kernel refuses what is too large."""
    async with pair() as both:
        await connect(both)
        await send_much(both)
        await trio.sleep(2)
        offerer = both.offerer
        return {"mtu": path_mtu(offerer.peer), "refused": offerer.mux.counters["send_emsgsize"]}


def test_over_ethernet_the_kernel_says_what_is_too_large() -> None:
    done = subprocess.run([sys.executable, "-m", __name__], check=True, capture_output=True, text=True, cwd=Path.cwd())
    assert json.loads(done.stdout) == {"mtu": ETHERNET, "refused": 3}


if __name__ == "__main__":
    enter_own_network()
    subprocess.run(["ip", "link", "set", "lo", "mtu", "1500"], check=True)
    print(json.dumps(trio.run(look_at_a_narrow_loopback)))  # noqa: T201
