"""The wedge: five habits, none of them strange alone, that together park a server for ever.

A client's network dies while 60 kB are queued for it. Then the server applies a description that opens a channel.
"""

import trio
from trio.testing import MockClock

HOUR = 3600.0


class Association:
    """SCTP over a path that has died: nothing is acknowledged, so what the window lets go first is the last."""

    def __init__(self) -> None:
        self.window = 4  # packets that may leave before one is acknowledged
        self.pending = 0  # packets that wait for the window
        self.expiries = 0
        self.free = trio.Event()
        self.free.set()

    async def write(self, message: bytes) -> None:
        while not self.free.is_set():
            await self.free.wait()  # 2. no deadline
        self.free = trio.Event()  # 3. one boolean for all streams: who writes closes the gate for everybody
        self.pending += 1 + len(message) // 1163
        self.gather()

    def gather(self) -> None:
        moved = min(self.window, self.pending)
        self.window -= moved
        self.pending -= moved
        if moved and not self.pending:
            self.free.set()  # 4. woken on one edge only: this pass moved something, and now all is gone

    async def retransmit(self) -> None:
        while True:  # 5. T3 never gives up
            await trio.sleep(min(2.0**self.expiries, 60.0))
            self.expiries += 1

    def close(self) -> None:
        self.pending = 0  # 4. the end is not that edge either: nobody is woken


class PeerConnection:
    def __init__(self) -> None:
        self.association = Association()
        self.operations = trio.Lock()  # one description at a time

    async def set_remote_description(self, channels: int) -> None:
        async with self.operations:
            for _ in range(channels):
                await self.association.write(b"OPEN")  # 1. the OPEN is written, and waited for, in here


async def fails(peer: PeerConnection) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.association.retransmit)
        await peer.association.write(bytes(60_000))
        say("60 kB are queued, the network is gone; a description that opens a channel is applied")
        nursery.start_soon(peer.set_remote_description, 1)
        await trio.sleep(30)
        say("ICE gives up: the transport is closed")
        peer.association.close()
        await peer.set_remote_description(0)


def say(text: str) -> None:
    print(f"{trio.current_time():6.1f} s  {text}")


async def main() -> None:
    peer = PeerConnection()
    with trio.move_on_after(HOUR):
        await fails(peer)
    say(f"T3 has expired {peer.association.expiries} times; that description waits, and so does the one behind it")


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
