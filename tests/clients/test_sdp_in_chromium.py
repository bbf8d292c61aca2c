"""Chromium accepts every description that we write, and sees in it the tracks that we mean."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from triosfu.sdp.negotiation import (
    AnswerPreferences,
    Changes,
    Direction,
    LocalTransport,
    MediaPolicy,
    Negotiation,
    Sender,
)
from triosfu.sdp.wire import SessionDescription

if TYPE_CHECKING:
    from collections.abc import Iterator

# What LiveKit's JavaScript client does with a peer connection, in a few lines each.
SETUP = """() => {
  window.pc?.close();
  const pc = window.pc = new RTCPeerConnection();
  window.seen = [];
  pc.ontrack = e => seen.push({mid: e.transceiver.mid, track: e.track.id, stream: e.streams[0]?.id ?? null});
  window.video = () => {
    const canvas = document.createElement('canvas');
    canvas.width = 1280; canvas.height = 720; canvas.getContext('2d');
    return canvas.captureStream(5).getVideoTracks()[0];
  };
  window.audio = () => new AudioContext().createMediaStreamDestination().stream.getAudioTracks()[0];
  window.offer = async options => {
    await pc.setLocalDescription(await pc.createOffer(options));
    return pc.localDescription.sdp;
  };
  window.answered = async sdp => {
    seen.length = 0;
    await pc.setRemoteDescription({type: 'answer', sdp});
    return {
      seen: [...seen],
      directions: Object.fromEntries(pc.getTransceivers().map(t => [t.mid, t.currentDirection])),
    };
  };
  window.offered = async sdp => {
    seen.length = 0;
    await pc.setRemoteDescription({type: 'offer', sdp});
    await pc.setLocalDescription();
    return {seen: [...seen], sdp: pc.localDescription.sdp};
  };
}"""
JOIN = """() => {
  for (const kind of ['audio', 'video'])
    for (let i = 0; i < 3; i++) pc.addTransceiver(kind, {direction: 'recvonly'});
  pc.createDataChannel('_reliable');
}"""


class Page:
    """A peer connection in Chromium, with the functions of `SETUP`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.run(SETUP)

    def run(self, script: str, argument: object = None) -> Any:  # noqa: ANN401  whatever the script returns
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([script, argument]) + "\n")
        self._process.stdin.flush()
        result, error = json.loads(self._process.stdout.readline())
        assert error is None, f"{error}\n{argument}"
        return result

    def offer(self, **options: object) -> str:
        return str(self.run("options => offer(options)", options))

    def answered(self, sdp: str) -> Any:  # noqa: ANN401
        return self.run("sdp => answered(sdp)", sdp)

    def offered(self, sdp: str) -> Any:  # noqa: ANN401
        return self.run("sdp => offered(sdp)", sdp)

    def join_round(self, negotiation: Negotiation) -> tuple[Changes, list[tuple[str, str, str]]]:
        """One offer and answer; what changed, and the tracks that the page was told of: mid, stream, track."""
        changes = negotiation.accept_offer(self.offer())
        result = self.answered(negotiation.create_answer())
        for section in negotiation.sections:
            if section.kind != "application" and not section.rejected:
                assert result["directions"][section.mid] == section.direction.reversed
        return changes, named(result)

    def offer_round(self, negotiation: Negotiation) -> tuple[Changes, list[tuple[str, str, str]]]:
        """The same with an offer of ours."""
        result = self.offered(negotiation.create_offer())
        return negotiation.accept_answer(result["sdp"]), named(result)


def named(result: Any) -> list[tuple[str, str, str]]:  # noqa: ANN401
    return [(each["mid"], each["stream"], each["track"]) for each in result["seen"] if each["stream"]]


@pytest.fixture(scope="module")
def chromium(network: None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("sdp_page.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


@pytest.fixture
def page(chromium: subprocess.Popen[str]) -> Page:
    return Page(chromium)


def local(name: str = "first") -> LocalTransport:
    return LocalTransport(
        ufrag=f"triosfu{name}",
        pwd=f"password-of-{name}-generation",
        fingerprint=":".join(["A1"] * 32),
        candidates=["candidate:1 1 udp 2130706431 127.0.0.1 7882 typ host"],
    )


def negotiation(*, single: bool) -> Negotiation:
    return Negotiation(local=local(), policy=MediaPolicy(), single=single, rng=Random(1))


def sender(kind: str, number: int, *codecs: str) -> Sender:
    track = f"TR_{kind[0].upper()}x{number:010}"
    return Sender(
        kind=kind,
        track_id=track,
        stream_id=f"PA_publisher{number}|{track}",
        ssrc=1000 + 2 * number,
        rtx_ssrc=1001 + 2 * number if kind == "video" else None,
        codecs=codecs or (["audio/red", "audio/opus"] if kind == "audio" else ["video/VP8"]),
    )


def told(one: Sender) -> tuple[str, str, str]:
    assert one.mid is not None
    return one.mid, one.stream_id, one.track_id


def test_a_publisher_gets_the_layers_and_the_codecs_that_were_asked_for(page: Page) -> None:
    page.run("""() => {
      pc.createDataChannel('_reliable');
      pc.addTransceiver(audio(), {direction: 'sendonly', streams: [new MediaStream()]});
      const layer = (rid, scale) => ({rid, scaleResolutionDownBy: scale});
      pc.addTransceiver(video(), {direction: 'sendonly', streams: [new MediaStream()],
                                  sendEncodings: [layer('q', 4), layer('h', 2), layer('f', 1)]});
    }""")
    server = negotiation(single=False)
    changes = server.accept_offer(page.offer())
    audio, video = changes.added
    assert video.incoming is not None
    assert video.incoming.rids == ["q", "h", "f"]
    audio.preferences = AnswerPreferences(stereo=True, dtx=True, red=True)
    video.preferences = AnswerPreferences(mime="video/H264")
    page.answered(server.create_answer())
    parameters = page.run("() => pc.getSenders().map(s => s.getParameters())")
    assert [codec["mimeType"] for codec in parameters[0]["codecs"]][:2] == ["audio/red", "audio/opus"]
    assert "stereo=1" in parameters[0]["codecs"][1]["sdpFmtpLine"]
    assert "usedtx=1" in parameters[0]["codecs"][1]["sdpFmtpLine"]
    assert parameters[1]["codecs"][0]["mimeType"] == "video/H264"
    assert "profile-level-id=42e01f" in parameters[1]["codecs"][0]["sdpFmtpLine"]
    assert [(layer["rid"], layer["active"]) for layer in parameters[1]["encodings"]] == [
        ("q", True),
        ("h", True),
        ("f", True),
    ]
    extensions = {each["uri"] for each in parameters[1]["headerExtensions"]}
    assert set(video.incoming.extensions.values()) == extensions
    assert page.run("() => pc.sctp.maxMessageSize") == 262144


def test_an_unpublished_track_ends_and_its_section_carries_the_next_one(page: Page) -> None:
    page.run("() => { window.one = pc.addTransceiver(audio(), {direction: 'sendonly', streams: [new MediaStream()]}) }")
    server = negotiation(single=False)
    (added,) = page.join_round(server)[0].added
    page.run("() => { pc.removeTrack(one.sender) }")
    assert page.join_round(server)[0].ended == [added]
    page.run("async () => { one.direction = 'sendonly'; await one.sender.replaceTrack(audio()) }")
    assert page.join_round(server)[0].added == [added]


def test_a_stopped_section_is_replaced_by_a_new_one(page: Page) -> None:
    page.run("() => { pc.createDataChannel('x'); window.one = pc.addTransceiver(video(), {direction: 'sendonly'}) }")
    server = negotiation(single=False)
    (old,) = page.join_round(server)[0].added
    page.run("() => one.stop()")
    assert page.join_round(server)[0].ended == [old]
    page.run("() => { pc.addTransceiver(audio(), {direction: 'sendonly'}) }")
    (new,) = page.join_round(server)[0].added
    assert (new.kind, len(server.sections)) == ("audio", 2)


def test_subscribing_and_unsubscribing_with_two_peer_connections(page: Page) -> None:
    server = negotiation(single=False)
    server.enable_data()
    page.offer_round(server)
    assert server.dtls_client is False
    assert server.remote is not None
    assert (server.remote.sctp_port, server.remote.max_message_size) == (5000, 262144)
    first, second = sender("audio", 1), sender("video", 2)
    server.add_sender(first)
    server.add_sender(second)
    changes, seen = page.offer_round(server)
    assert sorted(seen) == sorted([told(first), told(second)])
    assert changes.senders_negotiated == [first, second]
    assert [codec.mime for codec in first.negotiated] == ["audio/red", "audio/opus"]
    assert [(codec.payload_type, codec.rtx_payload_type) for codec in second.negotiated] == [(96, 97)]
    assert second.extensions
    server.remove_sender(second)
    assert page.offer_round(server)[1] == []
    third = sender("video", 3)
    section = server.add_sender(third)
    assert section is not None
    assert (section.mid, len(server.sections)) == ("2", 3)
    seen = page.offer_round(server)[1]
    # JavaScript keeps the track object of a transceiver, so the stream alone names the new track (section 5.5).
    assert [(mid, stream) for mid, stream, _ in seen] == [(third.mid, third.stream_id)]


def test_subscribing_with_one_peer_connection(page: Page) -> None:
    page.run(JOIN)
    server = negotiation(single=True)
    tracks = [sender("audio" if number < 4 else "video", number) for number in range(5)]
    for track in tracks:
        server.add_sender(track)
    assert server.missing_sections() == {"audio": 4, "video": 1}
    _, seen = page.join_round(server)
    assert len(seen) == 4
    assert server.missing_sections() == {"audio": 1, "video": 0}
    assert server.waiting == [tracks[3]]
    page.run("() => { pc.addTransceiver('audio', {direction: 'recvonly'}) }")
    changes, seen = page.join_round(server)
    assert [(mid, stream) for mid, stream, _ in seen] == [(tracks[3].mid, tracks[3].stream_id)]
    assert changes.senders_negotiated == [tracks[3]]
    assert server.mid_to_track_id() == {str(track.mid): track.track_id for track in tracks}
    # One leaves, another comes: its section is used again only after the client saw it inactive.
    server.remove_sender(tracks[0])
    late = sender("audio", 9)
    server.add_sender(late)
    assert page.join_round(server)[1] == []
    seen = page.join_round(server)[1]
    assert [(mid, stream) for mid, stream, _ in seen] == [(tracks[0].mid or "0", late.stream_id)]


def test_publishing_and_subscribing_on_one_peer_connection(page: Page) -> None:
    page.run(JOIN)
    server = negotiation(single=True)
    page.join_round(server)
    server.add_sender(sender("video", 1))
    page.run("() => { pc.addTransceiver(video(), {direction: 'sendonly', streams: [new MediaStream()]}) }")
    changes, seen = page.join_round(server)
    assert [section.kind for section in changes.added] == ["video"]
    assert len(seen) == 1


def test_a_codec_that_the_browser_lacks_is_refused_in_both_modes(page: Page) -> None:
    one = sender("video", 1, "video/H265")
    dual = negotiation(single=False)
    dual.add_sender(one)
    page.offer_round(dual)
    assert one.refused
    page.run(SETUP)
    page.run(JOIN)
    two = sender("video", 2, "video/H265")
    single = negotiation(single=True)
    single.add_sender(two)
    page.join_round(single)
    assert two.refused
    assert single.waiting == []


def test_ice_restarts_from_either_side(page: Page) -> None:
    page.run(JOIN)
    server = negotiation(single=True)
    assert not page.join_round(server)[0].ice_restart
    assert not page.join_round(server)[0].ice_restart
    changes = server.accept_offer(page.offer(iceRestart=True))
    assert changes.ice_restart
    server.local = local("second")
    page.answered(server.create_answer())

    page.run(SETUP)
    offerer = negotiation(single=False)
    offerer.enable_data()
    page.offer_round(offerer)
    offerer.local = local("second")
    assert page.offer_round(offerer)[0].ice_restart


@pytest.mark.parametrize("seed", range(3))
def test_a_long_life_with_two_peer_connections(page: Page, seed: int) -> None:
    rng = Random(seed)
    server = negotiation(single=False)
    server.enable_data()
    alive: list[Sender] = []
    for number in range(12):
        before = set(alive)
        change(rng, server, alive, number)
        _, seen = page.offer_round(server)
        assert sorted(stream for _, stream, _ in seen) == sorted(one.stream_id for one in set(alive) - before)
        assert all(one.negotiated for one in alive)
        assert not server.needs_negotiation


@pytest.mark.parametrize("seed", range(3))
def test_a_long_life_with_one_peer_connection(page: Page, seed: int) -> None:
    rng = Random(seed)
    page.run(JOIN)
    server = negotiation(single=True)
    alive: list[Sender] = []
    for number in range(12):
        before = set(alive)
        change(rng, server, alive, number)
        missing = server.missing_sections()
        page.run(
            "kinds => Object.entries(kinds).forEach(([kind, count]) => {"
            " for (let i = 0; i < count; i++) pc.addTransceiver(kind, {direction: 'recvonly'}) })",
            missing,
        )
        if rng.random() < 0.3:
            page.run("() => { pc.addTransceiver(video(), {direction: 'sendonly', streams: [new MediaStream()]}) }")
        _, seen = page.join_round(server)
        assert server.waiting == []
        assert sorted(stream for _, stream, _ in seen) == sorted(one.stream_id for one in set(alive) - before)
        assert server.mid_to_track_id() == {str(one.mid): one.track_id for one in alive}


def change(rng: Random, server: Negotiation, alive: list[Sender], number: int) -> None:
    """Remove some tracks, add some."""
    for one in [one for one in alive if rng.random() < 0.3]:
        alive.remove(one)
        server.remove_sender(one)
    for at in range(rng.randrange(3)):
        one = sender(rng.choice(["audio", "video"]), 10 * number + at)
        alive.append(one)
        server.add_sender(one)


def test_what_chromium_writes_survives_our_parser(page: Page) -> None:
    page.run(JOIN)
    sdp = page.offer()
    parsed = SessionDescription.parse(sdp)
    assert SessionDescription.parse(parsed.serialize()) == parsed
    assert [media.direction for media in parsed.media[:6]] == [Direction.RECVONLY] * 6
