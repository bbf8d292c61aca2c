"""The same day on triosfu's own cores: the description is applied at once, and every wait ends."""

from random import Random

import trio
from trio.testing import MockClock

from triosfu.datachannel.core import ChannelClosed, DataChannels, Ended
from triosfu.errors import PeerGone
from triosfu.peer.waiting import WaitingPlace
from triosfu.sctp.core import Association


class PeerConnection:
    """A small driver of the cores of one end; once the two have met, the other end's network is gone."""

    def __init__(self) -> None:
        self.waiting, self.alarm, now = WaitingPlace(), trio.CancelScope(), trio.current_time()
        ends = [DataChannels(Association(now=now, rng=Random(end)), dtls_client=end == 0) for end in (0, 1)]
        self.data, other = ends
        self.first = self.data.open("first", now=now)
        self.data.connect(now)
        for sender, receiver in [(self.data, other), (other, self.data)] * 5:
            for datagram in sender.datagrams_to_send():
                receiver.receive_datagram(datagram, now)

    def set_remote_description(self) -> None:  # 1. synchronous: what applies a description cannot wait
        self.data.open("chat", now=trio.current_time())  # 2. the core arms a deadline for the answer
        self.changed()

    async def send(self, message: bytes) -> None:
        await self.waiting.wait_until(lambda: self.data.buffered(self.first) < 60_000)  # 3. its own channel's
        self.data.send(self.first, message, now=trio.current_time())
        self.changed()

    def changed(self) -> None:
        self.data.datagrams_to_send()  # they get nowhere
        for event in self.data.events():
            if isinstance(event, ChannelClosed):
                say(f"channel {event.id} is closed: {event.reason}")
            elif isinstance(event, Ended):  # 5. T3 has given up
                self.waiting.end(event.reason)
        self.waiting.notify()  # 4. after every change, whatever it was, each writer looks again
        self.alarm.deadline = self.data.next_timeout()

    async def run(self) -> None:
        while self.waiting.ended is None:
            with trio.CancelScope(deadline=self.data.next_timeout()) as self.alarm:
                await trio.sleep_forever()
            self.data.handle_timeout(trio.current_time())
            self.changed()


async def write(peer: PeerConnection) -> None:
    try:
        await peer.send(bytes(60_000))
    except PeerGone as gone:
        say(f"the writer is released: {gone}")


async def holds(closed_after: float) -> None:
    peer = PeerConnection()
    async with trio.open_nursery() as nursery:
        await peer.send(bytes(60_000))
        nursery.start_soon(write, peer)
        peer.set_remote_description()
        say("60 kB are queued, the network is gone; a description that opens a channel is applied")
        with trio.move_on_after(closed_after):
            await peer.run()
        peer.waiting.end("closed by us")  # 4. the end is a wake-up too; of two, the first counts


def say(text: str) -> None:
    print(f"{trio.current_time():6.1f} s  {text}")


if __name__ == "__main__":
    for patience in (3600.0, 5.0):
        trio.run(holds, patience, clock=MockClock(autojump_threshold=0))
