"""A browser publishes VP9 and keeps VP8 for those who need it: livekit-client in Chromium, in both connection modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.browser import chromium, join, open_client, wait
from tests.conformance.test_browser import FORGET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.clients.server import RunningServer

PUBLISH = """
(policy) => room.localParticipant.setCameraEnabled(true, {resolution: {width: 320, height: 180, frameRate: 15}}, {
  videoCodec: 'vp9', backupCodec: true, backupCodecPolicy: LivekitClient.BackupCodecPolicy[policy],
})
"""
UNPUBLISH = "room.localParticipant.unpublishTrack(room.localParticipant.getTrackPublication('camera').track)"
# Frames by codec: what is received of the one camera, what is encoded for it.
CODECS = """
window.codecs = async () => {
  const counted = {};
  const count = (report, type, key) => {
    for (const entry of report.values()) {
      if (entry.type !== type || entry.kind !== 'video') continue;
      const mime = report.get(entry.codecId)?.mimeType ?? '';
      counted[mime] = (counted[mime] ?? 0) + entry[key];
    }
  };
  for (const one of room.remoteParticipants.values()) {
    for (const publication of one.videoTrackPublications.values()) {
      if (publication.track) count(await publication.track.receiver.getStats(), 'inbound-rtp', 'framesDecoded');
    }
  }
  for (const publication of room.localParticipant.videoTrackPublications.values()) {
    const {sender, simulcastCodecs} = publication.track;
    for (const one of [sender, ...[...simulcastCodecs.values()].map((codec) => codec.sender)]) {
      if (one) count(await one.getStats(), 'outbound-rtp', 'framesEncoded');
    }
  }
  return counted;
};
"""
OFF = """
room.localParticipant.getTrackPublication('camera').track.sender.getParameters().encodings.every((one) => !one.active)
"""
VP8, VP9 = "(await codecs())['video/VP8']", "(await codecs())['video/VP9']"


@pytest.fixture(scope="module")
def browser(server: RunningServer) -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def pages(
    browser: Browser, server: RunningServer, single: bool, request: pytest.FixtureRequest
) -> Iterator[list[Page]]:
    """Alice, who publishes; Bob, who knows no VP9; Carol, who knows all."""
    opened = [open_client(browser, server) for _ in range(3)]
    opened[1].evaluate(FORGET, "VP9")
    for page, identity in zip(opened, ("alice", "bob", "carol"), strict=True):
        page.add_script_tag(content=CODECS)
        join(page, server, identity, request.node.name, singlePeerConnection=single)
    yield opened
    for page in opened:
        page.context.close()


def test_who_lacks_the_codec_gets_the_backup_and_the_policy_says_what_the_others_get(pages: list[Page]) -> None:
    alice, bob, carol = pages
    alice.evaluate(PUBLISH, "SIMULCAST")
    wait(bob, f"{VP8} > 20", seconds=20)
    wait(carol, f"{VP9} > 20", seconds=20)
    assert set(bob.evaluate("codecs()")) == {"video/VP8"}
    assert set(carol.evaluate("codecs()")) == {"video/VP9"}

    alice.evaluate(UNPUBLISH)
    wait(bob, "seen.unpublished.length === 1")
    wait(carol, "seen.unpublished.length === 1")
    alice.evaluate(PUBLISH, "PREFER_REGRESSION")
    wait(bob, f"{VP8} > 20", seconds=20)
    wait(carol, f"{VP8} > 20", seconds=20)
    assert carol.evaluate("seen.unpublished.length") == 1, "the track goes on, in another codec"
    wait(alice, OFF)
    frames = carol.evaluate("codecs()")["video/VP8"]
    wait(carol, f"{VP8} > {frames} + 20")
