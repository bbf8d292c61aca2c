"""WHIP and WHEP with clients that know nothing of LiveKit: aiortc, FFmpeg, and pages with plain RTCPeerConnections."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import pytest
from aiortc import RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack, VideoStreamTrack
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.clients.browser import chromium, join, open_client, wait
from tests.clients.child import Child
from tests.clients.python_client import Participant, leaving, until
from triosfu.dtls.certificate import Certificate
from triosfu.tokens import VideoGrant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.clients.server import RunningServer

SDP = "application/sdp"

# --- aiortc -----------------------------------------------------------------------------------------------------------


class Viewer:
    """Counts what an aiortc connection plays."""

    def __init__(self) -> None:
        self.frames = {"audio": 0, "video": 0}
        self.tasks: list[asyncio.Task[None]] = []

    def watch(self, track: MediaStreamTrack) -> None:
        self.tasks.append(asyncio.ensure_future(self._drain(track)))

    async def _drain(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                await track.recv()
                self.frames[track.kind] += 1
        except MediaStreamError:
            pass


def ask(
    server: RunningServer, method: str, target: str, token: str, body: str = "", *, kind: str = SDP
) -> tuple[str, str]:
    """One request that must succeed; the Location and the body of the answer."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request(method, target, body, {"Content-Type": kind, "Authorization": f"Bearer {token}"})
        with connection.getresponse() as answer:
            text = answer.read().decode()
            assert answer.status in {200, 201}, text
            return answer.headers.get("Location", ""), text
    finally:
        connection.close()


async def exchange(server: RunningServer, connection: RTCPeerConnection, path: str, token: str) -> str:
    """Post the connection's offer and take the answer; returns where the session is."""
    await connection.setLocalDescription(await connection.createOffer())
    location, answer = await asyncio.to_thread(ask, server, "POST", path, token, connection.localDescription.sdp)
    await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return location


def test_aiortc_publishes_and_another_aiortc_watches(server: RunningServer) -> None:
    async def run() -> None:
        bob, viewer = Participant("bob"), Viewer()
        publisher, player = RTCPeerConnection(), RTCPeerConnection()
        for track in (AudioStreamTrack(), VideoStreamTrack()):
            publisher.addTrack(track)
            player.addTransceiver(track.kind, direction="recvonly")
        player.on("track", viewer.watch)
        tokens = {name: server.token(name, "aiortc") for name in ("alice", "viewer", "bob")}
        async with leaving((bob,)):
            await bob.join(server.url, tokens["bob"], single=True)
            published = await exchange(server, publisher, "/whip/v1", tokens["alice"])
            watched = await exchange(server, player, "/whep/v1", tokens["viewer"])
            await until(lambda: bob.video_frames["alice"] >= 20, seconds=15, what="the wheel sees aiortc")
            await until(lambda: bob.audio_frames["alice"] >= 20, seconds=15, what="the wheel hears aiortc")
            await until(lambda: min(viewer.frames.values()) >= 20, seconds=15, what=f"aiortc plays {viewer.frames}")
            for location, name in ((published, "alice"), (watched, "viewer")):
                await asyncio.to_thread(ask, server, "DELETE", location, tokens[name])
                gone = f"{name} is gone"
                await until(lambda name=name: name not in bob.room.remote_participants, seconds=3, what=gone)  # type: ignore[misc]
        for connection in (publisher, player):
            await connection.close()

    asyncio.run(asyncio.wait_for(run(), 60))


class Tone(AudioStreamTrack):
    """A tone of 500 Hz, in what an aiortc track without a source takes its frames for: 8,000 samples a second."""

    async def recv(self) -> av.AudioFrame:
        frame = cast("av.AudioFrame", await super().recv())
        wave = np.tile(np.repeat(np.array([8000, -8000], np.int16), 8), frame.samples // 16)
        frame.planes[0].update(wave.tobytes())
        return frame


def test_telephones_are_heard(server: RunningServer) -> None:
    """G.711, which no LiveKit client publishes: from aiortc to the wheel."""

    async def run() -> None:
        bob, publishers = Participant("bob"), [RTCPeerConnection() for _ in range(2)]
        async with leaving((bob,)):
            await bob.join(server.url, server.token("bob", "g711"), single=True)
            for connection, name in zip(publishers, ("PCMU", "PCMA"), strict=True):
                transceiver = connection.addTransceiver(Tone(), direction="sendonly")
                known = RTCRtpSender.getCapabilities("audio").codecs
                transceiver.setCodecPreferences([one for one in known if one.mimeType == f"audio/{name}"])
                await exchange(server, connection, "/whip/v1", server.token(name, "g711"))
            for name in ("PCMU", "PCMA"):
                await until(lambda name=name: bob.loud_frames[name] >= 50, seconds=15, what=f"the wheel hears {name}")  # type: ignore[misc]
                (remote,) = bob.room.remote_participants[name].track_publications.values()
                assert remote.mime_type == f"audio/{name}"
        for connection in publishers:
            await connection.close()

    asyncio.run(asyncio.wait_for(run(), 40))


# --- FFmpeg -----------------------------------------------------------------------------------------------------------


class Broadcast(threading.Thread):
    """FFmpeg's WHIP muxer: a picture in H.264 and a tone in Opus, until told to stop."""

    def __init__(self, url: str, token: str, folder: Path) -> None:
        super().__init__()
        # With GnuTLS its own certificate is on a curve that OpenSSL has no more: it is given one (docs/interop.md).
        ours = Certificate.generate()
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        certificate.write_bytes(ours._certificate.public_bytes(Encoding.PEM))
        key.write_bytes(ours._key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        self.options = {"authorization": token, "cert_file": str(certificate), "key_file": str(key)}
        self.url = url
        self.over = threading.Event()
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with av.open(self.url, "w", format="whip", options=self.options) as output:
                self._play(output)
        except Exception as failure:  # noqa: BLE001  told where the test waits
            self.failure = failure

    def _play(self, output: av.container.OutputContainer) -> None:
        video: Any = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        video.options = {"profile": "baseline", "tune": "zerolatency", "preset": "ultrafast"}
        video.codec_context.gop_size = 25
        audio: Any = output.add_stream("libopus", rate=48_000, layout="stereo")
        wave = (np.arange(1920) % 96 * 200).astype(np.int16).reshape(1, -1)  # 20 ms
        begun, number = time.monotonic(), 0
        while not self.over.is_set():
            shade = np.full((360, 320), number * 3 % 256, np.uint8)
            picture = av.VideoFrame.from_ndarray(shade, format="yuv420p")
            picture.pts = number
            output.mux(video.encode(picture))
            for half in range(2):
                sound = av.AudioFrame.from_ndarray(wave, format="s16", layout="stereo")
                sound.sample_rate, sound.pts = 48_000, (2 * number + half) * 960
                output.mux(audio.encode(sound))
            number += 1
            time.sleep(max(0.0, begun + number / 25 - time.monotonic()))


def test_ffmpeg_publishes(server: RunningServer, tmp_path: Path) -> None:
    async def run() -> None:
        bob = Participant("bob")
        async with leaving((bob,)):
            await bob.join(server.url, server.token("bob", "ffmpeg"), single=True)
            url = f"http://{server.host}:{server.port}/whip/v1"
            broadcast = Broadcast(url, server.token("ffmpeg", "ffmpeg"), tmp_path)
            broadcast.start()
            try:
                heard, seen = bob.loud_frames, bob.video_frames
                flowing = lambda: min(seen["ffmpeg"], heard["ffmpeg"]) >= 20  # noqa: E731
                await until(lambda: broadcast.failure is not None or flowing(), seconds=15, what="FFmpeg is seen")  # type: ignore[no-untyped-call]
                assert broadcast.failure is None
            finally:
                broadcast.over.set()
                await asyncio.to_thread(broadcast.join, 10)
            await until(lambda: not bob.room.remote_participants, seconds=3, what="FFmpeg says that it ends")

    asyncio.run(asyncio.wait_for(run(), 60))


# --- a browser --------------------------------------------------------------------------------------------------------

PLAIN = """
window.sessions = {};
window.begin = async (name, path, token, connection) => {
  const session = sessions[name] = {connection, token, waiting: [], patched: []};
  connection.onicecandidate = ({candidate}) => { if (candidate) session.waiting.push(candidate); };
  await connection.setLocalDescription();
  const reply = await fetch(path, {
    method: 'POST', body: connection.localDescription.sdp,
    headers: {'Content-Type': 'application/sdp', Authorization: `Bearer ${token}`},
  });
  if (reply.status !== 201) throw new Error(`${reply.status} ${await reply.text()}`);
  session.etag = reply.headers.get('ETag');
  session.url = new URL(reply.headers.get('Location'), location.href);
  session.answer = await reply.text();
  await connection.setRemoteDescription({type: 'answer', sdp: session.answer});
  await trickle(session, session.etag);
  connection.onicecandidate = ({candidate}) => {
    if (candidate) { session.waiting.push(candidate); trickle(session, session.etag); }
  };
};
window.patch = (session, match, lines) => fetch(session.url, {
  method: 'PATCH', body: lines.join('\\r\\n') + '\\r\\n',
  headers: {'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': match,
            Authorization: `Bearer ${session.token}`},
});
window.line = (sdp, name) => sdp.split('\\r\\n').find((line) => line.startsWith(`a=${name}:`));
window.fragment = (session) => {
  const sdp = session.connection.localDescription.sdp;
  const candidates = session.waiting.splice(0).map((one) => `a=${one.candidate}`);
  return [line(sdp, 'ice-ufrag'), line(sdp, 'ice-pwd'), 'm=audio 9 UDP/TLS/RTP/SAVPF 0', 'a=mid:0', ...candidates];
};
window.trickle = async (session, etag) => {
  const reply = await patch(session, etag, fragment(session));
  session.patched.push(reply.status);
};
window.restart = async (name) => {
  const session = sessions[name], {connection} = session;
  await connection.setLocalDescription(await connection.createOffer({iceRestart: true}));
  const reply = await patch(session, '*', fragment(session));
  session.etag = reply.headers.get('ETag');
  const said = await reply.text();
  for (const part of ['ice-ufrag', 'ice-pwd']) {
    session.answer = session.answer.replaceAll(line(session.answer, part), line(said, part));
  }
  await connection.setRemoteDescription({type: 'answer', sdp: session.answer});
  return reply.status;
};
window.end = async (name) => (await fetch(sessions[name].url, {
  method: 'DELETE', headers: {Authorization: `Bearer ${sessions[name].token}`},
})).status;
window.publish = async (token) => {
  const connection = new RTCPeerConnection();
  const stream = await navigator.mediaDevices.getUserMedia({audio: true, video: {width: 960, height: 540}});
  connection.addTransceiver(stream.getAudioTracks()[0], {direction: 'sendonly', streams: [stream]});
  connection.addTransceiver(stream.getVideoTracks()[0], {direction: 'sendonly', streams: [stream], sendEncodings: [
    {rid: 'q', scaleResolutionDownBy: 4}, {rid: 'h', scaleResolutionDownBy: 2}, {rid: 'f'},
  ]});
  await begin('publish', '/whip/v1', token, connection);
};
window.watch = async (token, query) => {
  const connection = new RTCPeerConnection();
  for (const kind of ['audio', 'video']) connection.addTransceiver(kind, {direction: 'recvonly'});
  connection.ontrack = ({track}) => {
    const element = document.createElement(track.kind);
    element.srcObject = new MediaStream([track]);
    element.autoplay = true;
    document.body.append(element);
  };
  await begin('watch', `/whep/v1?${query}`, token, connection);
};
window.received = async () => {
  const found = {frames: 0, energy: 0};
  for (const entry of (await sessions.watch.connection.getStats()).values()) {
    if (entry.type !== 'inbound-rtp') continue;
    if (entry.kind === 'video') Object.assign(found, {frames: entry.framesDecoded, width: entry.frameWidth});
    else found.energy = entry.totalAudioEnergy;
  }
  return found;
};
window.seen = {};
"""


@pytest.fixture(scope="module")
def browser(server: RunningServer) -> Iterator[Browser]:
    with chromium() as running:
        yield running


def plain_page(browser: Browser, server: RunningServer) -> Page:
    """A page that has nothing but what the browser brings."""
    page = browser.new_context().new_page()
    page.goto(f"{server.http}/")
    page.add_script_tag(content=PLAIN)
    return page


def test_a_plain_page_publishes_simulcast_and_restarts_ice(browser: Browser, server: RunningServer) -> None:
    alice, bob = plain_page(browser, server), open_client(browser, server)
    join(bob, server, "bob", "page")
    alice.evaluate("(token) => publish(token)", server.token("alice", "page"))
    wait(bob, "(await received())['alice/camera']?.frames > 20")
    wait(bob, "(await received())['alice/microphone']?.energy > 0")
    wait(bob, "(await received())['alice/camera'].width > 240", seconds=20)  # a layer above the lowest
    layers = "[...room.remoteParticipants.values()][0].videoTrackPublications.values().next().value.trackInfo.layers"
    assert bob.evaluate(f"{layers}.map((layer) => layer.rid)") == ["q", "h", "f"]
    assert set(alice.evaluate("sessions.publish.patched")) == {204}
    assert alice.evaluate("restart('publish')") == 200
    pair = "sessions.publish.connection.iceConnectionState"
    wait(alice, f"['connected', 'completed'].includes({pair})")
    frames = bob.evaluate("received()")["alice/camera"]["frames"]
    wait(bob, f"(await received())['alice/camera'].frames > {frames} + 30")
    assert alice.evaluate("end('publish')") == 200
    wait(bob, "seen.gone.length === 1")
    for page in (alice, bob):
        page.context.close()


def test_a_plain_page_watches_whoever_publishes(browser: Browser, server: RunningServer, artifacts: Path) -> None:
    viewer, bob = plain_page(browser, server), open_client(browser, server)
    # Nobody is there yet; then a wheel, and when that is put out, a browser, in the same two sections.
    hidden = VideoGrant(room_join=True, room="show", hidden=True, can_publish=False)
    viewer.evaluate("(token) => watch(token, '')", server.token("viewer", "show", hidden))
    wheel = Child("tests.clients.one", server.url, server.token("alice", "show"), log=artifacts / "whip-wheel.log")
    try:
        wait(viewer, "(await received()).frames > 20 && (await received()).energy > 0", seconds=20)
    finally:
        wheel.end()
    admin = server.token("", "show", VideoGrant(room_admin=True, room="show"))
    alice = '{"room": "show", "identity": "alice"}'
    ask(server, "POST", "/twirp/livekit.RoomService/RemoveParticipant", admin, alice, kind="application/json")
    join(bob, server, "bob", "show")
    assert bob.evaluate("room.remoteParticipants.size") == 0, "who watches is hidden, as its token says"
    before = viewer.evaluate("received()")
    bob.evaluate("room.localParticipant.enableCameraAndMicrophone()")
    wait(viewer, f"(await received()).frames > {before['frames']} + 20", seconds=20)
    wait(viewer, f"(await received()).energy > {before['energy']}")
    assert viewer.evaluate("end('watch')") == 200
    for page in (viewer, bob):
        page.context.close()


def test_red_is_opened_for_a_viewer_that_lacks_it(browser: Browser, server: RunningServer) -> None:
    """livekit-client publishes with redundancy; another one takes it as it is, aiortc gets plain Opus."""
    alice, bob = open_client(browser, server), open_client(browser, server)
    for page, identity in ((alice, "alice"), (bob, "bob")):
        join(page, server, identity, "red")
    alice.evaluate("room.localParticipant.setMicrophoneEnabled(true)")

    async def view() -> None:
        viewer, player = Viewer(), RTCPeerConnection()
        player.addTransceiver("audio", direction="recvonly")
        player.on("track", viewer.watch)
        await exchange(server, player, "/whep/v1", server.token("viewer", "red"))
        await until(lambda: viewer.frames["audio"] >= 50, seconds=15, what=f"aiortc plays {viewer.frames}")
        await player.close()

    with ThreadPoolExecutor(1) as thread:
        viewing = thread.submit(lambda: asyncio.run(asyncio.wait_for(view(), 30)))
        wait(bob, "(await received())['alice/microphone']?.energy > 0")
        track = "room.remoteParticipants.get('alice').audioTrackPublications.values().next().value"
        assert bob.evaluate(f"{track}.trackInfo.mimeType") == "audio/red"
        # Chromium says Opus of what it has taken out of RED; what it got twice it counts as discarded.
        twice = f"[...(await {track}.track.receiver.getStats()).values()].find((one) => one.packetsDiscarded > 10)"
        wait(bob, twice)
        viewing.result(30)
    for page in (alice, bob):
        page.context.close()
