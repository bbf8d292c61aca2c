"""livekit-client in Chromium that numbers its reliable messages, in a process of its own, which may sit behind a cable.

Usage: python -m tests.clients.numbers_page_child URL TOKEN single|dual

The page publishes a tone, subscribes to everybody's, and sends a number to all every 20 ms. What its parent says and is
told is as with `tests.clients.numbers_child`; `simulate` takes livekit-client's names.
"""

from __future__ import annotations

import select
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

from tests.clients.browser import CLIENT, SDK, chromium
from tests.clients.child import tell
from tests.clients.numbers import COUNTING

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Not from a microphone: a page that comes from another machine without TLS gets no devices.
TONE = """
window.tone = async () => {
  const context = new AudioContext(), oscillator = context.createOscillator();
  const sink = context.createMediaStreamDestination();
  oscillator.connect(sink);
  oscillator.start();
  await room.localParticipant.publishTrack(sink.stream.getAudioTracks()[0], {source: 'microphone'});
};
window.ufrags = () => [room.engine.pcManager.publisher, room.engine.pcManager.subscriber].filter(Boolean).map(
  (transport) => /a=ice-ufrag:(\\S+)/.exec(transport.getLocalDescription()?.sdp)?.[1]);
"""
NAMES = {
    "Reconnecting": "restarting", "SignalReconnecting": "reconnecting", "Reconnected": "reconnected",
    "Disconnected": "disconnected", "TrackUnsubscribed": "track_unsubscribed",
    "ParticipantDisconnected": "participant_disconnected",
}  # fmt: skip


def report(page: Page) -> None:
    """Tell what came."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for text, sender in page.evaluate("seen.data"):
        if sender:
            numbers[sender].append(int(text))
    reports = page.evaluate("received()")
    loud = {key.split("/")[0]: found["packets"] for key, found in reports.items()}
    sent, sid, ufrags = page.evaluate("[sent, room.localParticipant.sid, ufrags()]")
    tell("report", numbers=numbers, loud=loud, sent=sent, sid=sid, ufrags=ufrags, paths=page.evaluate("paths()"))


def main(url: str, token: str, shape: str) -> None:
    """Join, talk, and do as told."""
    with chromium() as browser:
        page = browser.new_context().new_page()
        page.on("console", lambda message: print(message.text, file=sys.stderr))  # noqa: T201  for its log
        page.goto(f"{url.replace('ws:', 'http:')}/")
        page.add_script_tag(path=SDK)
        for script in (CLIENT, COUNTING, TONE):
            page.add_script_tag(content=script)
        page.evaluate(
            "([url, token, options]) => join(url, token, options)",
            [url, token, {"singlePeerConnection": shape == "single"}],
        )
        page.evaluate("tone()")
        page.evaluate("() => { count(); }")
        tell("ready")
        told = 0
        while True:
            events = page.evaluate("told")
            for name in events[told:]:
                tell(NAMES[name])
            told = len(events)
            if not select.select([sys.stdin], [], [], 0)[0]:
                page.wait_for_timeout(50)
                continue
            match sys.stdin.readline().split():
                case ["simulate", kind]:
                    page.evaluate("(kind) => { room.simulateScenario(kind); }", kind)
                case ["pause"]:
                    tell("paused", sent=page.evaluate("sending = false, sent"))
                case ["go"]:
                    page.evaluate("sending = true")
                case ["report"]:
                    report(page)
                case _:
                    return


if __name__ == "__main__":
    main(*sys.argv[1:])
