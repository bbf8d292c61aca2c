"""What the `livekit` wheel cannot show: livekit-client in Chromium, in both connection modes, also beside the wheel."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from livekit import rtc

from tests.clients.browser import SDK, chromium, join, open_client, wait
from tests.clients.python_client import Participant, leaving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.clients.server import RunningServer

WORKER = SDK.parent / "livekit-client.e2ee.worker.js"
KEY = "between alice and the bot"
# What livekit-client asks of an application that encrypts.
ENCRYPT = """
async ([worker, key]) => {
  const keyProvider = new LivekitClient.ExternalE2EEKeyProvider();
  await keyProvider.setKey(key);
  const url = URL.createObjectURL(new Blob([worker], {type: 'text/javascript'}));
  window.more = {encryption: {keyProvider, worker: new Worker(url)}};
}
"""
# A browser that has never heard of a codec: it is in no description of its own.
FORGET = """
(name) => {
  const without = (sdp) => sdp.split(/(?=^m=)/m).map((section) => {
    const gone = [...section.matchAll(/^a=rtpmap:(\\d+) (\\w+)/gm)].filter(([, , codec]) => codec === name)
      .map(([, type]) => type);
    for (const [, type, of] of section.matchAll(/^a=fmtp:(\\d+) apt=(\\d+)/gm)) if (gone.includes(of)) gone.push(type);
    const left = (words) => words.filter((word, at) => at < 3 || !gone.includes(word));
    const kept = (line) => !gone.some((type) => new RegExp(`^a=(rtpmap|fmtp|rtcp-fb):${type} `).test(line));
    return section.split('\\r\\n').filter(kept)
      .map((line) => line.startsWith('m=') ? left(line.split(' ')).join(' ') : line).join('\\r\\n');
  }).join('');
  for (const method of ['createOffer', 'createAnswer']) {
    const original = RTCPeerConnection.prototype[method];
    RTCPeerConnection.prototype[method] = async function (...given) {
      const made = await original.apply(this, given);
      return {type: made.type, sdp: without(made.sdp)};
    };
  }
}
"""


@pytest.fixture(scope="module")
def browser(server: RunningServer) -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: RunningServer) -> Iterator[Page]:
    made = open_client(browser, server)
    yield made
    made.context.close()


def test_a_ping_is_answered(page: Page, server: RunningServer, single: bool) -> None:
    join(page, server, "alice", room := f"ping-{single}", singlePeerConnection=single)
    assert f" room={room} single={single}\n" in server.log.read_text(encoding="utf-8"), "the mode that was asked for"
    page.evaluate("(room.engine.client.rtt = -1, room.engine.client.sendPing())")
    wait(page, "room.engine.client.rtt >= 0")
    assert page.evaluate("room.engine.client.rtt") < 5000, "milliseconds"


def test_a_codec_that_a_subscriber_lacks_fails_its_subscription_alone(
    browser: Browser, page: Page, server: RunningServer, single: bool
) -> None:
    room = f"codecs-{single}"
    page.evaluate(FORGET, "VP9")
    join(page, server, "bob", room, singlePeerConnection=single)
    page.evaluate(
        "(window.failed = [],"
        " room.on('trackSubscriptionFailed', (sid, who, error) => failed.push([sid, who.identity, error])))"
    )
    alice = open_client(browser, server)
    join(alice, server, "alice", room, singlePeerConnection=single)
    alice.evaluate("room.localParticipant.setMicrophoneEnabled(true)")
    camera = "room.localParticipant.setCameraEnabled(true, {}, {videoCodec: 'vp9', backupCodec: false})"
    sid = alice.evaluate(f"{camera}.then((one) => one.trackSid)")
    wait(page, "(await received())['alice/microphone']?.energy > 0")
    wait(page, "failed.length > 0")
    unsupported = 1  # SubscriptionError.SE_CODEC_UNSUPPORTED
    assert page.evaluate("failed") == [[sid, "alice", unsupported]]
    alice.context.close()


def test_browser_and_wheel_understand_each_other_encrypted(page: Page, server: RunningServer, single: bool) -> None:
    """Sound, pictures, a text stream and a call, both ways; each knows that the other's tracks are encrypted."""
    room, seen = f"encrypted-{single}", threading.Event()
    failures: list[BaseException] = []
    encryption = rtc.E2EEOptions(key_provider_options=rtc.KeyProviderOptions(shared_key=KEY.encode()))

    async def python() -> None:
        bot = Participant("bot")
        async with leaving((bot,)):
            await bot.join(server.url, server.token("bot", room), single=single, encryption=encryption)
            await bot.publish_microphone()
            await bot.publish_camera(width=320, height=180, rate=10)
            await until(lambda: bot.video_frames["alice"] > 20, seconds=20, what="the browser's camera")
            await until(lambda: bot.audio_frames["alice"] > 100, seconds=20, what="the browser's microphone")
            kinds = {one.encryption_type for one in bot.room.remote_participants["alice"].track_publications.values()}
            assert kinds == {rtc.EncryptionType.GCM}
            await bot.room.local_participant.send_text("x" * 40_000, topic="chat")
            answer = await bot.room.local_participant.perform_rpc(
                destination_identity="alice", method="double", payload="4"
            )
            assert answer == "8"
            await until(seen.is_set, seconds=30, what="the browser sees the bot")

    def run() -> None:
        try:
            asyncio.run(asyncio.wait_for(python(), 60))
        except BaseException as error:  # noqa: BLE001  told below
            failures.append(error)

    page.evaluate(ENCRYPT, [WORKER.read_text(encoding="utf-8"), KEY])
    join(page, server, "alice", room, singlePeerConnection=single)
    page.evaluate("room.setE2EEEnabled(true).then(() => room.localParticipant.enableCameraAndMicrophone())")
    worker = threading.Thread(target=run)
    worker.start()
    try:
        wait(page, "(await received())['bot/camera']?.frames > 20", seconds=20)
        wait(page, "(await received())['bot/microphone']?.energy > 0", seconds=20)
        wait(page, "seen.texts.length === 1 && seen.texts[0][0] === 40000", seconds=20)
        assert page.evaluate(
            "[...room.remoteParticipants.get('bot').trackPublications.values()].every((one) => one.isEncrypted)"
        )
    finally:
        seen.set()
        worker.join()
    assert not failures, failures
