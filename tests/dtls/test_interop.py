"""Against aiortc's DTLS transport, which shares OpenSSL with us and no line of the code around it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport

from triosfu.dtls import ApplicationData, Certificate, Closed, Connected, DtlsConnection, Fingerprint, Role
from triosfu.srtp import Inbound, Outbound

if TYPE_CHECKING:
    from collections.abc import Callable

RTP = b"\x80\x60\x00\x01" + bytes(4) + b"\x00\x00\x00\x07" + b"payload of a packet"
RTCP = b"\x80\xc9\x00\x01\x00\x00\x00\x07"


@dataclass
class Link:
    """The ICE transport that aiortc believes to have; its other end is the list and the queue."""

    role: str
    arriving: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    sent: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)

    async def _send(self, data: bytes) -> None:
        self.sent.put_nowait(data)

    async def _recv(self) -> bytes:
        return await self.arriving.get()


class Ours:
    """Runs our core against a link."""

    def __init__(self, core: DtlsConnection, link: Link) -> None:
        self.core, self.link = core, link
        self.happened: list[object] = []
        self.media: list[bytes] = []

    def drain(self) -> None:
        self.happened += self.core.events()
        for datagram in self.core.datagrams_to_send():
            self.link.arriving.put_nowait(datagram)

    async def until(self, done: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while not done():
                self.drain()
                wait = min(self.core.next_timeout() - loop.time(), 0.05)  # `done` may come true on aiortc's side
                try:
                    data = await asyncio.wait_for(self.link.sent.get(), max(wait, 0.01))
                except TimeoutError:
                    self.core.handle_timeout(loop.time())
                    continue
                if data[0] >= 128:
                    self.media.append(data)
                else:
                    self.core.receive_datagram(data, loop.time())
                self.drain()

    def all(self, kind: type) -> list[Any]:
        return [event for event in self.happened if isinstance(event, kind)]


class Receiver:
    """What aiortc delivers data to."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    async def _handle_data(self, data: bytes) -> None:
        self.got.append(data)


async def talk(role: Role) -> None:
    certificate, theirs = Certificate.generate(), RTCCertificate.generateCertificate()
    link = Link("controlling" if role is Role.CLIENT else "controlled")  # which aiortc derives its role from
    transport = RTCDtlsTransport(link, [theirs])  # type: ignore[arg-type]
    receiver = Receiver()
    transport._register_data_receiver(receiver)
    now = asyncio.get_running_loop().time()
    fingerprints = [Fingerprint(each.algorithm, each.value) for each in theirs.getFingerprints()]
    ours = Ours(DtlsConnection(certificate=certificate, role=role, remote_fingerprints=fingerprints, now=now), link)
    ours.core.start(now)
    parameters = RTCDtlsParameters(fingerprints=[RTCDtlsFingerprint("sha-256", certificate.fingerprint)])
    starting = asyncio.create_task(transport.start(parameters))
    await ours.until(lambda: bool(ours.happened) and starting.done())
    assert transport.state == "connected"

    [connected] = ours.all(Connected)
    outbound, inbound = Outbound(connected.srtp), Inbound(connected.srtp)
    assert transport._rx_srtp.unprotect(outbound.protect(RTP)) == RTP
    assert transport._rx_srtp.unprotect_rtcp(outbound.protect_rtcp(RTCP)) == RTCP
    await transport._send_rtp(RTP)
    await transport._send_rtp(RTCP)
    await ours.until(lambda: len(ours.media) == 2)
    assert [inbound.unprotect(ours.media[0]), inbound.unprotect_rtcp(ours.media[1])] == [RTP, RTCP]

    await transport._send_data(b"from aiortc")
    ours.core.send(b"from triosfu")
    await ours.until(lambda: bool(ours.all(ApplicationData)) and bool(receiver.got))
    assert (ours.all(ApplicationData), receiver.got) == ([ApplicationData(b"from aiortc")], [b"from triosfu"])

    await transport.stop()
    await ours.until(lambda: bool(ours.all(Closed)))
    assert ours.all(Closed) == [Closed("close_notify")]


@pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER], ids=lambda role: role.name)
def test_aiortc_agrees_about_keys_data_and_the_end(role: Role) -> None:
    asyncio.run(talk(role))
