"""Simulcast layers with real clients: who gets which, when a wish changes, and what the publisher is spared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.browser import chromium, join, open_client, wait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.clients.server import RunningServer

# The machine is slow: few frames. The bits suffice for the upper layer to begin at once.
PUBLISH = """
async () => {
  const publication = await room.localParticipant.setCameraEnabled(
    true,
    {resolution: {width: 1280, height: 720, frameRate: 10}},
    {
      simulcast: true, videoCodec: 'vp8', videoEncoding: {maxBitrate: 1700000, maxFramerate: 10},
      videoSimulcastLayers: [
        {width: 320, height: 180, encoding: {maxBitrate: 80000, maxFramerate: 10}},
        {width: 640, height: 360, encoding: {maxBitrate: 250000, maxFramerate: 10}},
      ].map((layer) => new LivekitClient.VideoPreset(
        {...layer, maxBitrate: layer.encoding.maxBitrate, maxFramerate: layer.encoding.maxFramerate})),
      degradationPreference: 'maintain-resolution',
    },
  );
  window.encodings = () => publication.track.sender.getParameters().encodings
    .filter((encoding) => encoding.active).map((encoding) => encoding.rid).sort().join('');
}
"""
PUBLISH_SVC = """
() => room.localParticipant.setCameraEnabled(
  true,
  {resolution: {width: 960, height: 540, frameRate: 10}},
  {
    videoCodec: 'vp9', scalabilityMode: 'L3T3_KEY', backupCodec: false,
    videoEncoding: {maxBitrate: 1200000, maxFramerate: 10}, degradationPreference: 'maintain-resolution',
  },
)
"""
# Bob's view of Alice's camera; `gap` is the longest time without a new frame, in milliseconds, since it was reset.
WATCH = """
() => {
  window.qualities = new Set();
  room.on(LivekitClient.RoomEvent.ConnectionQualityChanged, (quality) => qualities.add(quality));
  window.camera = () => {
    const [alice] = room.remoteParticipants.values();
    return alice && [...alice.videoTrackPublications.values()][0];
  };
  window.view = async () => (await received())['alice/camera'] ?? {frames: 0, packets: 0, width: 0};
  window.gap = 0;
  window.framed = performance.now();
  let frames = 0;
  setInterval(async () => {
    const now = await view();
    if (now.frames !== frames) {
      frames = now.frames;
      framed = performance.now();
    }
    gap = Math.max(gap, performance.now() - framed);
  }, 50);
}
"""
TOP, LOW = 1280, 320
FREEZE = 1500  # milliseconds; a picture that stands this long is a frozen one, even on a slow machine


@pytest.fixture(scope="module")
def browser(server: RunningServer) -> Iterator[Browser]:
    with chromium() as running:
        yield running


def meet(
    browser: Browser, server: RunningServer, room: str, alice: dict[str, object], bob: dict[str, object]
) -> tuple[Page, Page]:
    """Alice and Bob in a room of their own, with these room options; Bob watches."""
    pages = open_client(browser, server), open_client(browser, server)
    for page, identity, options in zip(pages, ("alice", "bob"), (alice, bob), strict=True):
        join(page, server, identity, room, **options)
    pages[1].evaluate(WATCH)
    wait(pages[0], "room.remoteParticipants.size === 1")
    return pages


@pytest.fixture(params=["single", "dual"])
def pair(browser: Browser, server: RunningServer, request: pytest.FixtureRequest) -> Iterator[tuple[Page, Page]]:
    options: dict[str, object] = {"singlePeerConnection": request.param == "single"}
    alice, bob = meet(browser, server, request.node.name, options, options)
    alice.evaluate(PUBLISH)
    wait(bob, f"(await view()).width === {TOP}", seconds=20)
    yield alice, bob
    for page in (alice, bob):
        page.context.close()


def test_a_wish_for_a_lower_layer_is_followed_and_back_without_a_freeze(pair: tuple[Page, Page]) -> None:
    _, bob = pair
    for quality, width in (("LOW", LOW), ("HIGH", TOP), ("MEDIUM", 640), ("HIGH", TOP)):
        bob.evaluate(
            f"(gap = 0, framed = performance.now(), camera().setVideoQuality(LivekitClient.VideoQuality.{quality}))"
        )
        wait(bob, f"(await view()).width === {width}", seconds=5)
        frames = bob.evaluate("view()")["frames"]
        wait(bob, f"(await view()).frames > {frames} + 5")
        assert bob.evaluate("gap") < FREEZE


def test_dimensions_choose_the_smallest_layer_that_covers_them(pair: tuple[Page, Page]) -> None:
    _, bob = pair
    bob.evaluate("camera().setVideoDimensions({width: 400, height: 225})")
    wait(bob, "(await view()).width === 640", seconds=5)


def test_a_disabled_track_sends_nothing_and_resumes_at_once(pair: tuple[Page, Page]) -> None:
    _, bob = pair
    bob.evaluate("camera().setEnabled(false)")
    bob.wait_for_timeout(500)
    before = bob.evaluate("view()")
    bob.wait_for_timeout(1000)
    assert bob.evaluate("view()")["packets"] == before["packets"]
    bob.evaluate("camera().setEnabled(true)")
    wait(bob, f"(await view()).frames > {before['frames']}", seconds=1.5)


def test_a_publisher_is_spared_the_layers_that_nobody_watches(browser: Browser, server: RunningServer) -> None:
    alice, bob = meet(browser, server, "dynacast", {"dynacast": True}, {"adaptiveStream": True})
    bob.evaluate("room.disconnect()")
    wait(alice, "room.remoteParticipants.size === 0")
    alice.evaluate(PUBLISH)
    assert alice.evaluate("encodings()") == "fhq"
    wait(alice, "encodings() === ''", seconds=16)  # a fresh track is left alone for ten seconds
    bob.context.close()

    bob = open_client(browser, server)
    bob.add_style_tag(content="video { width: 1280px; height: 720px; position: fixed; left: 0; top: 0 }")
    join(bob, server, "bob", "dynacast", adaptiveStream=True)
    bob.evaluate(WATCH)
    wait(alice, "encodings() === 'fhq'", seconds=5)
    wait(bob, f"(await view()).width === {TOP}", seconds=20)
    bob.add_style_tag(content="video { width: 200px !important; height: 112px !important }")
    wait(bob, f"(await view()).width === {LOW}", seconds=5)
    wait(alice, "encodings() === 'q'", seconds=10)
    bob.add_style_tag(content="video { display: none }")
    wait(alice, "encodings() === ''", seconds=20)
    bob.add_style_tag(content="video { display: block !important }")
    frames = bob.evaluate("view()")["frames"]
    wait(alice, "encodings() === 'q'", seconds=3)
    wait(bob, f"(await view()).frames > {frames} + 5", seconds=5)
    assert bob.evaluate("[...qualities].filter((one) => !['excellent', 'good'].includes(one))") == []
    assert bob.evaluate("qualities.has('excellent')")
    for page in (alice, bob):
        page.context.close()


def test_layers_within_one_stream_are_chosen_too(browser: Browser, server: RunningServer) -> None:
    """SVC: VP9 in L3T3_KEY, as livekit-client publishes it; temporal layers by the frame rate."""
    options: dict[str, object] = {"singlePeerConnection": True}
    alice, bob = meet(browser, server, "svc", options, options)
    alice.evaluate(PUBLISH_SVC)
    for quality, width in (("HIGH", 960), ("LOW", 240), ("MEDIUM", 480)):
        wait(bob, "camera()?.track")
        bob.evaluate(f"camera().setVideoQuality(LivekitClient.VideoQuality.{quality})")
        wait(bob, f"(await view()).width === {width}", seconds=20)
        frames = bob.evaluate("view()")["frames"]
        wait(bob, f"(await view()).frames > {frames} + 5")

    def frames_in_a_second() -> int:
        before = bob.evaluate("view()")["frames"]
        bob.wait_for_timeout(1000)
        return int(bob.evaluate("view()")["frames"]) - int(before)

    usual = frames_in_a_second()
    bob.evaluate("camera().setVideoFPS(5)")
    bob.wait_for_timeout(500)  # what was on its way
    assert 0 < frames_in_a_second() <= usual / 2
    for page in (alice, bob):
        page.context.close()
