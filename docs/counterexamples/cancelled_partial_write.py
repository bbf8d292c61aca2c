"""A cancelled write on a stream: nobody knows how much of it is out, so nothing may follow it.

Messages go out with their length in front. A large one takes too long and is cancelled; then comes a small one.
"""

import trio
from trio.testing import MockClock

HOUR = 3600.0
LARGE, SMALL = bytes(10_000_000), b"are you there?"


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


class Fails:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send(self, message: bytes) -> None:
        with trio.move_on_after(1):
            await self.stream.send_all(frame(message))  # cancelled, it has written some part


class Holds:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.broken = False

    async def send(self, message: bytes) -> None:
        if self.broken:
            return
        self.broken = True  # until the whole frame is out, also if we are cancelled from outside
        try:
            with trio.move_on_after(1) as scope:
                await self.stream.send_all(frame(message))
            self.broken = scope.cancelled_caught
        finally:
            if self.broken:
                self.stream.socket.close()  # half a frame is the last of this stream, and the reader learns of it


async def read(stream: trio.SocketStream, data: bytearray) -> str:
    """Read one message, later than the writer has patience for."""
    await trio.sleep(5)
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        piece = await stream.receive_some()
        if not piece:
            return "the stream has ended, and the reader knows it"
        data += piece
    return "a message"


async def played(kind: type[Fails | Holds]) -> str:
    ours, theirs = (trio.SocketStream(end) for end in trio.socket.socketpair())
    data = bytearray()

    async def write() -> None:
        writer = kind(ours)
        for message in (LARGE, SMALL):
            await writer.send(message)
            await trio.sleep(10)

    async with ours, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(write)
        with trio.move_on_after(HOUR):
            return await read(theirs, data)
    where = "in the middle of it" if SMALL in data else "nowhere"
    return f"after an hour the first message is not whole, and the second one is {where}"


async def main() -> None:
    for kind in (Fails, Holds):
        print(f"{kind.__name__.lower()}: {await played(kind)}")


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
