"""livekit-client in Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import Browser, Page, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.server import RunningServer

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--auto-select-desktop-capture-source=Entire screen",
]
SDK = Path(__file__).parent / "js" / "node_modules" / "livekit-client" / "dist" / "livekit-client.umd.js"

# What every page can do. `seen` collects events, so that a test can wait for what happened before it asked.
CLIENT = """
window.seen = {texts: [], data: [], gone: [], muted: [], unmuted: [], unpublished: [], speakers: []};
window.join = async (url, token, options) => {
  Object.assign(options, window.more);  // what is no JSON
  const room = window.room = new LivekitClient.Room({adaptiveStream: false, dynacast: false, ...options});
  const event = LivekitClient.RoomEvent;
  room.on(event.TrackSubscribed, (track) => document.body.append(track.attach()));
  room.on(event.DataReceived, (data, from) => seen.data.push([new TextDecoder().decode(data), from?.identity]));
  room.on(event.ParticipantDisconnected, (participant) => seen.gone.push([participant.identity, Date.now()]));
  room.on(event.TrackMuted, (publication) => seen.muted.push([publication.source, Date.now()]));
  room.on(event.TrackUnmuted, (publication) => seen.unmuted.push([publication.source, Date.now()]));
  room.on(event.TrackUnpublished, (publication) => seen.unpublished.push([publication.source, Date.now()]));
  room.on(event.ActiveSpeakersChanged, (speakers) => seen.speakers.push(speakers.map((one) => one.identity)));
  room.registerTextStreamHandler('chat', async (reader, from) => {
    const text = await reader.readAll();
    seen.texts.push([text.length, text.slice(0, 10), text.slice(-10), from.identity]);
  });
  room.localParticipant.registerRpcMethod('double', async ({payload}) => String(2 * Number(payload)));
  await room.connect(url, token);
  return room.localParticipant.identity;
};
window.received = async () => {
  const reports = {};
  for (const participant of room.remoteParticipants.values()) {
    for (const publication of participant.trackPublications.values()) {
      if (!publication.track) continue;
      for (const entry of (await publication.track.receiver.getStats()).values()) {
        if (entry.type !== 'inbound-rtp') continue;
        reports[`${participant.identity}/${publication.source}`] = {
          frames: entry.framesDecoded, width: entry.frameWidth, samples: entry.totalSamplesReceived,
          energy: entry.totalAudioEnergy, packets: entry.packetsReceived, lost: entry.packetsLost,
          delay: entry.jitterBufferDelay / entry.jitterBufferEmittedCount,
          concealed: entry.concealedSamples, silent: entry.silentConcealedSamples,
        };
      }
    }
  }
  return reports;
};
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium with fake devices."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def open_client(browser: Browser, server: RunningServer, *, user_agent: str | None = None) -> Page:
    """A page with livekit-client, on an origin that has devices."""
    page = browser.new_context(user_agent=user_agent).new_page()
    page.on("console", lambda message: print(f"console: {message.text}"))  # noqa: T201  for the report of a failure
    page.goto(f"{server.http}/")
    page.add_script_tag(path=SDK)
    page.add_script_tag(content=CLIENT)
    return page


def join(page: Page, server: RunningServer, identity: str, room: str, **options: Any) -> None:  # noqa: ANN401  RoomOptions
    """Join `room` from `page`."""
    page.evaluate(
        "([url, token, options]) => join(url, token, options)", [server.url, server.token(identity, room), options]
    )


def wait(page: Page, condition: str, *, seconds: float = 10) -> None:
    """Wait until `condition`, JavaScript that may await, holds in `page`."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(f"async () => Boolean({condition})"):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {seconds} s: {condition}; {page.evaluate('seen')} {page.evaluate('received()')}"
            )
        page.wait_for_timeout(30)
