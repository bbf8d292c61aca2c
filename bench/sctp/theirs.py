"""An aiortc peer, as `ours.py`: `python -m bench.sctp.theirs send|receive SECONDS MESSAGE_SIZE`."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from bench.sctp.wire import Tally, hear, tell

HIGH_WATER = 1 << 20


async def send(peer: RTCPeerConnection, seconds: float, size: int) -> None:
    """Offer, and send for so long."""
    channel = peer.createDataChannel("bench")
    opened, room = asyncio.Event(), asyncio.Event()
    channel.on("open", opened.set)
    channel.on("bufferedamountlow", room.set)
    channel.bufferedAmountLowThreshold = HIGH_WATER // 2
    await peer.setLocalDescription(await peer.createOffer())
    tell(sdp=peer.localDescription.sdp)
    await peer.setRemoteDescription(RTCSessionDescription(hear()["sdp"], "answer"))
    await opened.wait()
    message = bytes(size)
    before, until = time.process_time(), time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        channel.send(message)
        await asyncio.sleep(0)
        if channel.bufferedAmount > HIGH_WATER:
            room.clear()
            try:
                await asyncio.wait_for(room.wait(), left)
            except TimeoutError:
                break
    tell(cpu=time.process_time() - before)


async def receive(peer: RTCPeerConnection) -> None:
    """Answer, and count until told to stop."""
    tally, end = Tally(), asyncio.Event()

    def adopt(channel: RTCDataChannel) -> None:
        channel.on("message", lambda message: tally.count(len(message)))

    peer.on("datachannel", adopt)
    await peer.setRemoteDescription(RTCSessionDescription(hear()["sdp"], "offer"))
    await peer.setLocalDescription(await peer.createAnswer())
    tell(sdp=peer.localDescription.sdp)
    asyncio.get_running_loop().add_reader(0, end.set)
    await end.wait()
    tally.tell()


async def main(role: str, seconds: float, size: int) -> None:
    """Play one of the two."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    await (send(peer, seconds, size) if role == "send" else receive(peer))
    sys.stdout.flush()
    os._exit(0)  # its goodbyes are not what is measured


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
