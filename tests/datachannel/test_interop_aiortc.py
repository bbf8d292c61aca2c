"""Against aiortc's RTCSctpTransport over an in-memory pipe: another implementation of SCTP and DCEP, in both roles."""

from __future__ import annotations

import asyncio
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from aiortc import rtcsctptransport
from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

from triosfu.datachannel.core import ChannelClosed, ChannelMessage, ChannelOpened, DataChannels, Ended, Event
from triosfu.sctp.core import Association, State
from triosfu.sctp.wire import Packet

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Pipe:
    """The DTLS transport that aiortc believes to have; behind it our core, run on asyncio's clock."""

    state = "connected"

    def __init__(self, *, aiortc_is_client: bool, loss: float = 0.0) -> None:
        self._role = "client" if aiortc_is_client else "server"
        self.loop = asyncio.get_running_loop()
        self.rng = Random(3)
        self.loss = loss
        self.core = Association(now=self.loop.time(), rng=Random(4))
        self.ours = DataChannels(self.core, dtls_client=not aiortc_is_client)
        self.ours.remote_max_message_size = 262_144
        self.theirs = RTCSctpTransport(self)  # type: ignore[arg-type]  # as much of one as it uses
        self.opened: list[RTCDataChannel] = []
        self.messages: list[Any] = []
        self.theirs.on("datachannel", self._their_channel)
        self.events: list[Event] = []
        self._receiver: Any = None
        self._arriving: deque[bytes] = deque()
        self._wake = asyncio.Event()

    @property
    def now(self) -> float:
        return self.loop.time()

    def _their_channel(self, channel: RTCDataChannel) -> None:
        self.opened.append(channel)
        channel.on("message", self.messages.append)

    def _register_data_receiver(self, receiver: object) -> None:
        self._receiver = receiver

    def _unregister_data_receiver(self, _receiver: object) -> None:
        self._receiver = None

    async def _send_data(self, data: bytes) -> None:
        Packet.parse(data)  # what aiortc sends, we can read
        if self.rng.random() >= self.loss:
            self._arriving.append(data)
            self._wake.set()

    async def run(self) -> None:
        while True:
            while self._arriving:
                self.ours.receive_datagram(self._arriving.popleft(), self.now)
            self.ours.handle_timeout(self.now)
            self.events += self.ours.events()
            for data in self.ours.datagrams_to_send():
                if self._receiver is not None and self.rng.random() >= self.loss:
                    await self._receiver._handle_data(data)
            if self._arriving:
                continue
            self._wake.clear()
            wait = min(self.ours.next_timeout() - self.now, 0.02)
            try:
                async with asyncio.timeout(max(wait, 0.0)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not done():  # noqa: ASYNC110  aiortc tells nobody
                await asyncio.sleep(0.005)

    async def start(self, *, both: bool = True) -> None:
        if both:
            self.ours.connect(self.now)
        await self.theirs.start(RTCSctpCapabilities(maxMessageSize=262_144), 5000)
        await self.until(lambda: self.core.state is State.ESTABLISHED and self.theirs.state == "connected")

    def they_open(self, **options: Any) -> RTCDataChannel:  # noqa: ANN401  aiortc's own parameters
        channel = RTCDataChannel(self.theirs, RTCDataChannelParameters(**options))
        channel.on("message", self.messages.append)
        return channel

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def play(
    test: Callable[[Pipe], Coroutine[Any, Any, None]], *, aiortc_is_client: bool = True, loss: float = 0.0
) -> None:
    """Run a scene with both ends, then leave nothing behind."""

    async def scene() -> None:
        pipe = Pipe(aiortc_is_client=aiortc_is_client, loss=loss)
        runner = asyncio.create_task(pipe.run())
        try:
            await test(pipe)
        finally:
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)
            await pipe.theirs.stop()

    asyncio.run(scene())


@pytest.mark.parametrize("aiortc_is_client", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_both_ends_open_channels_and_talk(aiortc_is_client: bool, both: bool) -> None:
    async def scene(pipe: Pipe) -> None:
        await pipe.start(both=both)
        mine = pipe.ours.open("from us", protocol="p", ordered=False, max_retransmits=2, now=pipe.now)
        theirs = pipe.they_open(label="from aiortc", protocol="q")
        await pipe.until(lambda: len(pipe.of(ChannelOpened)) == 2 and bool(pipe.opened))
        assert {(e.label, e.protocol, e.ordered, e.by_peer) for e in pipe.of(ChannelOpened)} == {
            ("from us", "p", False, False),
            ("from aiortc", "q", True, True),
        }
        (seen,) = pipe.opened
        assert (seen.label, seen.protocol, seen.ordered, seen.maxRetransmits) == ("from us", "p", False, 2)
        assert seen.id is not None
        assert seen.id % 2 == (1 if aiortc_is_client else 0)
        pipe.ours.send(mine, b"bytes", now=pipe.now)
        pipe.ours.send(mine, "Grüße".encode(), binary=False, now=pipe.now)
        pipe.ours.send(mine, b"", binary=False, now=pipe.now)
        for message in (b"bytes", "Grüße", b"", ""):
            theirs.send(message)
        await pipe.until(lambda: len(pipe.messages) == 3 and len(pipe.of(ChannelMessage)) == 4)
        assert pipe.messages == [b"bytes", "Grüße", ""]
        assert [(e.data, e.binary) for e in pipe.of(ChannelMessage)] == [
            (b"bytes", True),
            ("Grüße".encode(), False),
            (b"", True),
            (b"", False),
        ]

    play(scene, aiortc_is_client=aiortc_is_client)


def test_large_messages_pass_in_both_directions() -> None:
    async def scene(pipe: Pipe) -> None:
        await pipe.start()
        mine = pipe.ours.open("large", now=pipe.now)
        theirs = pipe.they_open(label="large")
        await pipe.until(lambda: theirs.readyState == "open")
        data = Random(9).randbytes(60_000)
        for _ in range(4):
            pipe.ours.send(mine, data, now=pipe.now)
            theirs.send(data)
        await pipe.until(lambda: len(pipe.messages) == len(pipe.of(ChannelMessage)) == 4)
        assert pipe.messages == [event.data for event in pipe.of(ChannelMessage)] == [data] * 4

    play(scene)


def test_a_lossy_pipe_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtcsctptransport, "SCTP_RTO_INITIAL", 0.2)
    monkeypatch.setattr(rtcsctptransport, "SCTP_RTO_MIN", 0.1)

    async def scene(pipe: Pipe) -> None:
        await pipe.start()
        mine = pipe.ours.open("lossy", now=pipe.now)
        theirs = pipe.they_open(label="lossy")
        await pipe.until(lambda: theirs.readyState == "open")
        sent = [bytes([n]) * (n * 40 + 1) for n in range(60)]
        for data in sent:
            pipe.ours.send(mine, data, now=pipe.now)
            theirs.send(data)
        await pipe.until(lambda: len(pipe.messages) == len(pipe.of(ChannelMessage)) == 60)
        assert pipe.messages == [event.data for event in pipe.of(ChannelMessage)] == sent

    play(scene, loss=0.03)


def test_partial_reliability_passes_over_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtcsctptransport, "SCTP_RTO_INITIAL", 0.2)
    monkeypatch.setattr(rtcsctptransport, "SCTP_RTO_MIN", 0.1)

    async def scene(pipe: Pipe) -> None:
        await pipe.start()
        mine = pipe.ours.open("lossy", max_retransmits=0, now=pipe.now)
        theirs = pipe.they_open(label="lossy", maxRetransmits=0)
        await pipe.until(lambda: len(pipe.of(ChannelOpened)) == 2 and bool(pipe.opened))
        pipe.loss = 0.1
        for number in range(100):
            pipe.ours.send(mine, bytes([number]) * 1000, now=pipe.now)
            theirs.send(bytes([number]) * 1000)
        await pipe.until(lambda: pipe.ours.total_buffered == 0 and theirs.bufferedAmount == 0)
        pipe.loss = 0.0
        pipe.ours.send(mine, b"last", now=pipe.now)
        theirs.send(b"last")
        await pipe.until(lambda: b"last" in pipe.messages and pipe.of(ChannelMessage)[-1].data == b"last")
        for got in (pipe.messages, [event.data for event in pipe.of(ChannelMessage)]):
            numbers = [data[0] for data in got[:-1]]
            assert numbers == sorted(set(numbers))
            assert 40 < len(numbers) < 101

    play(scene)


@pytest.mark.parametrize("we_close", [False, True])
def test_a_close_reaches_the_other_end(we_close: bool) -> None:
    async def scene(pipe: Pipe) -> None:
        await pipe.start()
        theirs = pipe.they_open(label="short")
        await pipe.until(lambda: bool(pipe.of(ChannelOpened)))
        (channel,) = [event.id for event in pipe.of(ChannelOpened)]
        if we_close:
            pipe.ours.close(channel, pipe.now)
        else:
            theirs.close()
        await pipe.until(lambda: theirs.readyState == "closed" and bool(pipe.of(ChannelClosed)))
        await pipe.until(lambda: not pipe.ours._by_stream)
        assert pipe.of(ChannelClosed) == [ChannelClosed(channel, "closed" if we_close else "closed by the peer")]

    play(scene)


@pytest.mark.parametrize("we_abort", [False, True])
def test_an_abort_reaches_the_other_end(we_abort: bool) -> None:
    async def scene(pipe: Pipe) -> None:
        await pipe.start()
        if we_abort:
            pipe.ours.abort("bye", pipe.now)
        else:
            await pipe.theirs._abort()
        await pipe.until(lambda: bool(pipe.of(Ended)) and (not we_abort or pipe.theirs.state == "closed"))

    play(scene)
