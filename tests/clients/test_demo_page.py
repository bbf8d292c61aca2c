"""The demo page as a newcomer uses it: two tabs, camera, microphone, screen and chat. A screenshot is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.clients.browser import chromium

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.clients.server import RunningServer


# Chromium's fake microphone beeps now and then, which makes nobody a speaker; this tone does not stop.
TONE = """
const usual = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wish) => {
  if (!wish.audio) return usual(wish);
  const context = new AudioContext(), tone = context.createOscillator();
  const output = context.createMediaStreamDestination();
  tone.connect(output);
  tone.start();
  return output.stream;
};
"""
# Whether what a tile plays is loud.
LOUD = """
async () => {
  const context = new AudioContext(), meter = context.createAnalyser();
  context.createMediaStreamSource(document.querySelector('.tile audio').srcObject).connect(meter);
  await new Promise((resolve) => setTimeout(resolve, 200));
  const samples = new Float32Array(meter.fftSize);
  meter.getFloatTimeDomainData(samples);
  return samples.some((sample) => Math.abs(sample) > 0.1);
}
"""


def playing(page: Page, count: int) -> None:
    """Wait until `count` tiles of `page` show a picture that moves."""
    page.wait_for_function(
        "(count) => [...document.querySelectorAll('.tile video')]"
        ".filter((video) => video.videoWidth > 0 && video.currentTime > 0.3).length === count",
        arg=count,
        timeout=15_000,
    )


def test_two_tabs_meet(server: RunningServer, artifacts: Path) -> None:
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1100, "height": 640})
        context.add_init_script(TONE)
        alice, bob = context.new_page(), context.new_page()
        for page, identity in ((alice, "alice"), (bob, "bob")):
            page.goto(f"{server.http}/demo?room=demo&identity={identity}&token={server.token(identity, 'demo')}")
            page.wait_for_selector("#state[data-state=connected]")
        alice.click("#camera")
        alice.click("#microphone")
        bob.click("#camera")
        playing(alice, 2)
        playing(bob, 2)
        bob.wait_for_selector(".tile.speaking")
        bob.wait_for_selector(".tile audio", state="attached")
        bob.wait_for_function(LOUD)
        alice.click("#screen")
        playing(bob, 3)
        alice.fill("#text", "hello bob")
        alice.press("#text", "Enter")
        bob.wait_for_function("document.querySelector('#messages').textContent.includes('alicehello bob')")
        bob.screenshot(path=artifacts / "demo.png")
        alice.click("#microphone")
        bob.wait_for_selector(".tile.muted")
        alice.click("#leave")
        bob.wait_for_function("document.querySelectorAll('.tile').length === 1")
        assert alice.inner_text("#state") == "not joined"


def test_a_tab_without_a_token_asks_for_one(server: RunningServer) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{server.http}/demo")
        page.fill("#identity", "carol")
        page.click("#join-button")
        page.wait_for_selector("#state[data-state=connected]")
