"""One of our peer connections and a foreign one, negotiated over a pipe and joined over UDP."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tests.clients.interop.foreign import LIMIT, Foreign, foreign
from tests.clients.network import ADDRESS
from tests.support.relay import Relay, relay
from tests.support.side import Side
from triosfu.net.udp import UdpMux
from triosfu.sdp.directions import Setup
from triosfu.sdp.policy import MediaPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clients.interop.foreign import ForeignProcess
    from triosfu.peer import DataChannel, PeerSettings

FIRST = "first"  # the channel with which the offerer begins
CANDIDATE = re.compile(r"(a=candidate:\S+ \d+ udp \d+) (\S+) (\d+) (typ host)", re.IGNORECASE)


@dataclass
class Conversation:
    """Both ends of it, and what lies between them."""

    ours: Side
    theirs: Foreign
    between: Relay | None

    async def negotiate(self, *, we_offer: bool, first_refused: bool = False) -> None:
        """One offer, one answer, with all candidates in them, until the channel `FIRST` is open, or refused."""
        peer, connection = self.ours.peer, self.theirs.connection
        if we_offer:
            peer.negotiation.enable_data()
            peer.open_channel(FIRST)
            offer = self._told(peer.create_offer())
            peer.accept_answer(self._heard(await self.theirs.ask("answer", connection=connection, sdp=offer)))
        else:
            peer.accept_offer(self._heard(await self.theirs.ask("offer", connection=connection, label=FIRST)))
            await self.theirs.ask("accept", connection=connection, sdp=self._told(peer.create_answer()))
        if first_refused:
            await self.theirs.closed(FIRST)
            return
        await self.ours.opened(FIRST)
        await self.theirs.opened(FIRST)

    def _told(self, sdp: str) -> str:
        """What they are told of us: the relay's address, if there is one."""
        if self.between is None:
            return sdp
        host, port = self.between.address
        return CANDIDATE.sub(rf"\1 {host} {port} \4", sdp)

    def _heard(self, sdp: str) -> str:
        """What we are told of them: behind a relay, no address; they reach us, as from behind a NAT."""
        return sdp if self.between is None else re.sub(r"a=candidate:.*\r\n", "", sdp)

    async def both(self, label: str, *, we_open: bool = True, **options: object) -> tuple[DataChannel, int]:
        """A channel that one side opens, as both have it. Options are the W3C's."""
        if we_open:
            lifetime = options.get("maxPacketLifeTime")
            self.ours.peer.open_channel(
                label,
                protocol=str(options.get("protocol", "")),
                ordered=bool(options.get("ordered", True)),
                max_retransmits=options.get("maxRetransmits"),  # type: ignore[arg-type]
                lifetime=lifetime / 1000 if isinstance(lifetime, int) else None,
            )
        else:
            await self.theirs.open(label, **options)
        ours, event = await self.ours.opened(label), await self.theirs.opened(label)
        return ours, event["channel"]

    def stream(self, channel: DataChannel) -> int:
        """The SCTP stream of one of our channels."""
        stream = self.ours.peer._data.info(channel.id).stream_id
        assert stream is not None
        return stream

    async def closed(self, label: str) -> None:
        """Wait until both sides know that the channel opened last is over."""
        await self.ours.until(lambda side: side.ended[-1:] == [label])
        await self.theirs.closed(label)

    async def is_free(self, stream: int) -> None:
        """Wait until a stream may be used again: both sides have confirmed its end."""
        with trio.fail_after(LIMIT):
            while stream in self.ours.peer._data._by_stream:  # noqa: ASYNC110  of which nobody is told
                await trio.sleep(0.005)

    def reliability(self, channel: DataChannel) -> list[object]:
        """What our side knows of a channel's reliability, in the order and the units of W3C."""
        info = self.ours.peer._data.info(channel.id)
        lifetime = None if info.lifetime is None else round(info.lifetime * 1000)
        return [info.ordered, info.max_retransmits, lifetime]

    async def received(self, label: str, count: int) -> list[str | bytes]:
        """Wait until our side has `count` messages of a channel."""
        await self.ours.until(lambda _: len(self.messages(label)) >= count, within=LIMIT)
        return self.messages(label)

    def messages(self, label: str) -> list[str | bytes]:
        """The messages that our side has of a channel so far."""
        return [data if binary else data.decode() for channel, data, binary in self.ours.messages if channel == label]


@asynccontextmanager
async def conversation(
    process: ForeignProcess,
    *,
    we_offer: bool = True,
    settings: PeerSettings | None = None,
    relayed: int | None = None,
    max_message_size: int | None = None,
    answers: Setup = Setup.ACTIVE,
    first_refused: bool = False,
) -> AsyncIterator[Conversation]:
    """Both sides, connected, with the channel `FIRST` open, or refused; at the end nothing is left of ours.

    `relayed` is the seed of a relay between them, `answers` our DTLS role where they leave it to us. `max_message_size`
    is what we believe of them, whatever they say.
    """
    async with AsyncExitStack() as stack:
        mux = await stack.enter_async_context(UdpMux.open([ADDRESS], 0))
        between = None
        if relayed is not None:
            between = await stack.enter_async_context(relay(mux.local_addresses[0], seed=relayed))
        theirs = await stack.enter_async_context(foreign(process))
        nursery = await stack.enter_async_context(trio.open_nursery())
        ours = Side("ours", mux, offerer=we_offer, settings=settings, policy=MediaPolicy(answers=answers))
        nursery.start_soon(ours.peer.run)
        both = Conversation(ours, theirs, between)
        await both.negotiate(we_offer=we_offer, first_refused=first_refused)
        if max_message_size is not None:
            ours.peer._data.remote_max_message_size = max_message_size
        yield both
        ours.peer.close("the test is over")
