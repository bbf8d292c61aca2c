"""Captures what real clients send, for the corpus: `python -m fuzz.capture` (needs what `make test` sets up).

A server with a tap behind each of its inputs, two participants of the `livekit` wheel and one in Chromium, all in a
network namespace without a way out, so that every address is the namespace's own; keys and passwords die with it. A tap
sees what a parser is given: STUN and DTLS as they came, RTP, RTCP and SCTP in the clear, signal messages and join
requests without the token that travels beside them. Of each kind a few of different shape are kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuzz.catalogue import CORPUS
from fuzz.seeds import association_scripts, scripted
from triosfu import cli
from triosfu.dtls.records import split
from triosfu.errors import MalformedPacket
from triosfu.peer.connection import PeerConnection
from triosfu.peer.transport import Transport
from triosfu.rtp.framing import split as split_rtcp
from triosfu.rtp.wire import RtpPacket
from triosfu.sctp.wire import Data, Packet
from triosfu.signalling import client, codec, session
from triosfu.stun.wire import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

PORT = 7890
EACH = 6  # files of one kind from one client
MANY = 3000  # datagrams of one kind that are looked at
SECONDS = 8  # of a conversation
FOLDER = "FUZZ_CAPTURE"
DCEP = 50


# --- the server's side ----------------------------------------------------------------------------------------------


def serve() -> int:
    """`triosfu`, with taps."""
    folder = Path(os.environ[FOLDER])
    for owner, name, kind, at in (
        (Transport, "receive_stun", "stun", 1),
        (Transport, "receive_dtls", "dtls", 1),
        (PeerConnection, "transport_rtp", "rtp", 1),
        (PeerConnection, "transport_rtcp", "rtcp", 1),
        (PeerConnection, "transport_data", "sctp", 1),
        (session, "decode", "signal", 0),
        (client, "decode_join_request", "join", 0),
    ):
        _tap(owner, name, folder, kind, at)
    return cli.main(sys.argv[2:]) or 0


def _tap(owner: object, name: str, folder: Path, kind: str, at: int) -> None:
    original: Callable[..., Any] = getattr(owner, name)
    count = 0

    def tapped(*arguments: Any) -> Any:  # noqa: ANN401  whatever it stands before
        nonlocal count
        if count < MANY:
            data = arguments[at]
            (folder / f"{kind}-{count:05}").write_bytes(data.encode() if isinstance(data, str) else bytes(data))
            count += 1
        return original(*arguments)

    setattr(owner, name, tapped)


# --- the clients' side ----------------------------------------------------------------------------------------------


def main() -> None:
    """Capture, and write what is worth keeping to `fuzz/corpus/<check>/<client>-<kind>-<n>`."""
    from tests.clients.network import enter_own_network  # noqa: PLC0415  the server needs none of the clients

    enter_own_network()
    for name, converse in (("livekit", _converse_livekit), ("chromium", _converse_chromium)):
        with tempfile.TemporaryDirectory() as folder:
            with _server(Path(folder)) as running:
                converse(running)
            kept = keep(name, Path(folder))
        sys.stdout.write(f"{name}: {kept}\n")


@contextmanager
def _server(folder: Path) -> Iterator[Any]:
    from tests.clients.server import RunningServer, wait_until_ready  # noqa: PLC0415

    command = [sys.executable, "-m", "fuzz.capture", "serve", "run", "--dev", "--port", str(PORT)]
    log = folder / "log"
    with log.open("wb") as output:
        environment = {**os.environ, FOLDER: str(folder)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)  # noqa: S603
        try:
            running = RunningServer(process, PORT, log)
            wait_until_ready(running)
            yield running
        finally:
            process.terminate()
            process.wait()


def _converse_livekit(server: Any) -> None:  # noqa: ANN401  a RunningServer
    from tests.clients.python_client import Participant, leaving  # noqa: PLC0415

    async def talk() -> None:
        alice, bob = Participant("alice", count=False), Participant("bob", count=False)
        async with leaving((alice, bob)):
            await alice.join(server.url, server.token("alice", "room"), single=True)
            await bob.join(server.url, server.token("bob", "room"), single=False)
            for one in (alice, bob):
                await one.publish_microphone()
                await one.publish_camera()
                await one.room.local_participant.publish_data(b"hello", reliable=True)
                await one.room.local_participant.publish_data(b"hello", reliable=False)
                await one.room.local_participant.send_text("x" * 5000, topic="chat")
            await asyncio.sleep(SECONDS)

    asyncio.run(talk())


def _converse_chromium(server: Any) -> None:  # noqa: ANN401  a RunningServer
    from tests.clients.browser import chromium, join, open_client  # noqa: PLC0415

    with chromium() as browser:
        pages = [open_client(browser, server) for _ in range(2)]
        for page, single, identity in zip(pages, (True, False), ("alice", "bob"), strict=True):
            join(page, server, identity, "room", singlePeerConnection=single)
            page.evaluate("room.localParticipant.enableCameraAndMicrophone()")
            page.evaluate("room.localParticipant.publishData(new Uint8Array(9), {reliable: true})")
            page.evaluate("room.localParticipant.sendText('x'.repeat(5000), {topic: 'chat'})")
        rest = threading.Event()
        rest.wait(SECONDS)
        pages[0].evaluate("room.localParticipant.setMicrophoneEnabled(false)")
        for page in pages:
            page.evaluate("room.disconnect()")
        rest.wait(1)


# --- what is kept ---------------------------------------------------------------------------------------------------


def keep(name: str, folder: Path) -> dict[str, int]:
    """Write the captures of `folder` that differ in shape into the corpus; how many of which kind."""
    captured: defaultdict[str, list[bytes]] = defaultdict(list)
    for path in sorted(folder.glob("*-*")):
        captured[path.name.partition("-")[0]].append(path.read_bytes())
    # An access token begins like this, wherever it stands. None may get here.
    assert not any(b"eyJ" in data for kind in captured.values() for data in kind)
    kept = {kind: _different(captured[kind], SHAPES[kind]) for kind in SHAPES}
    kept["dcep"] = _different(list(_dcep(captured["sctp"])), len)
    written = {
        "check_stun": kept["stun"],
        "check_records": kept["dtls"],
        "check_rtp": kept["rtp"],
        "check_rtcp": kept["rtcp"],
        "check_ingress": [scripted([one for one in captured["rtp"] if len(one) < 256][:24] + kept["rtcp"])],
        "check_sctp": kept["sctp"],
        "check_sctp_association": association_scripts(kept["sctp"])[1:3],
        "check_dcep": kept["dcep"],
        "check_signal_frame": kept["signal"],
        "check_join_request": kept["join"],
        "check_candidate": _different(list(_candidates(captured["signal"])), lambda line: len(line.split())),
    }
    for check, inputs in written.items():
        for old in (CORPUS / check).glob(f"{name}-*"):
            old.unlink()
        for number, data in enumerate(inputs):
            (CORPUS / check / f"{name}-{number:02}").write_bytes(data)
    return {check: len(inputs) for check, inputs in written.items()}


def _different(inputs: list[bytes], shape: Callable[[bytes], Hashable]) -> list[bytes]:
    """The first of each shape, a few."""
    found: dict[Hashable, bytes] = {}
    for data in inputs:
        try:
            found.setdefault(shape(data), data)
        except MalformedPacket:
            found.setdefault("malformed", data)
    return list(found.values())[:EACH]


def _dcep(packets: list[bytes]) -> Iterator[bytes]:
    for packet in packets:
        for chunk in Packet.parse(packet).chunks:
            if isinstance(chunk, Data) and chunk.ppid == DCEP:
                yield chunk.payload


def _candidates(frames: list[bytes]) -> Iterator[bytes]:
    for frame in frames:
        request = codec.decode(frame)
        if request.WhichOneof("message") == "trickle":
            yield json.loads(request.trickle.candidateInit)["candidate"].encode()


def _stun_shape(data: bytes) -> Hashable:
    message = Message.parse(data)
    return message.kind, tuple(kind for kind, _ in message.attributes)


def _rtp_shape(data: bytes) -> Hashable:
    packet = RtpPacket.parse(data)
    return packet.payload_type, packet.padding > 0, tuple(number for number, _, _ in packet.elements())


SHAPES: dict[str, Callable[[bytes], Hashable]] = {
    "stun": _stun_shape,
    "dtls": lambda data: tuple((record.content_type, record.epoch, record.data[13]) for record in split(data)),
    "rtp": _rtp_shape,
    "rtcp": lambda data: tuple((kind, count) for kind, count, _ in split_rtcp(data)),
    "sctp": lambda data: tuple(type(chunk) for chunk in Packet.parse(data).chunks),
    "signal": lambda data: codec.decode(data).WhichOneof("message"),
    "join": len,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        sys.exit(serve())
    main()
