"""livekit-client in Chromium, a page for each client. Usage: python -m tests.clients.chromium_child URL [ROLE TOKEN]...

Roles as of `tests.clients.wheel_child`: `idle`, `sends`, `receives`. Tells when a page listens and when it is ready, by
its identity, and ends when it is told to.
"""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING

from tests.clients.browser import CLIENT, SDK, chromium
from tests.clients.child import tell
from tests.clients.wheel_child import BURST, FLOWING, PAUSE, STAYS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EXCHANGE = """
window.say = (data) => room.localParticipant.publishData(data, {reliable: true, destinationIdentities: ['%(stays)s']});
window.rest = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
window.sent = 0;
window.play = async (role) => {
  while (!seen.data.length) { await say(new TextEncoder().encode('hello')); await rest(0.3); }
  while (role === 'sends') { await say(new Uint8Array(%(size)d)); sent++; await rest(%(pause)f); }
};
""" % {"stays": STAYS, "size": len(BURST), "pause": PAUSE}  # noqa: UP031  JavaScript has braces of its own
LISTENING = "seen.data.length > 0"
READY = {"idle": LISTENING, "sends": f"sent > {FLOWING}", "receives": f"seen.data.length > {FLOWING}"}


def open_page(browser: Browser, url: str) -> Page:
    """A page with livekit-client that comes from the server."""
    page = browser.new_context().new_page()
    page.goto(f"{url.replace('ws:', 'http:')}/")
    page.add_script_tag(path=SDK)
    page.add_script_tag(content=CLIENT)
    page.add_script_tag(content=EXCHANGE)
    return page


def main(url: str, *pairs: str) -> None:
    """Join with every page, then tell how far each is until told to end."""
    with chromium() as browser:
        pages: dict[str, tuple[str, Page]] = {}
        for number, (role, token) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            page = open_page(browser, url)
            options = {"singlePeerConnection": number % 2 == 0}
            identity = page.evaluate("([url, token, options]) => join(url, token, options)", [url, token, options])
            page.evaluate("(role) => { play(role); }", role)
            pages[identity] = role, page
        listening, ready = set(pages), set(pages)
        while not select.select([sys.stdin], [], [], 0)[0]:
            for name, waiting in (("listening", listening), ("ready", ready)):
                for identity in list(waiting):
                    role, page = pages[identity]
                    if page.evaluate(LISTENING if name == "listening" else READY[role]):
                        waiting.discard(identity)
                        tell(name, identity=identity)
            page.wait_for_timeout(100)


if __name__ == "__main__":
    main(*sys.argv[1:])
