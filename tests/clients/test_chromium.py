"""livekit-client 2.23 in Chromium: two browsers in a room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.browser import chromium, join, open_client, wait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.clients.server import RunningServer


@pytest.fixture(scope="module")
def browser(server: RunningServer) -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(params=["single", "dual"])
def pair(browser: Browser, server: RunningServer, request: pytest.FixtureRequest) -> Iterator[tuple[Page, Page]]:
    """Alice and Bob in a room of their own, with one peer connection each or with two."""
    pages = open_client(browser, server), open_client(browser, server)
    for page, identity in zip(pages, ("alice", "bob"), strict=True):
        room = f"{request.node.name}"
        join(page, server, identity, room, singlePeerConnection=request.param == "single")
    wait(pages[0], "room.remoteParticipants.size === 1")
    yield pages
    for page in pages:
        page.context.close()


def test_camera_and_microphone_are_decoded_at_the_other_side(pair: tuple[Page, Page]) -> None:
    alice, bob = pair
    alice.evaluate("room.localParticipant.enableCameraAndMicrophone()")
    wait(bob, "(await received())['alice/camera']?.frames > 30")
    wait(bob, "(await received())['alice/microphone']?.energy > 0")
    report = bob.evaluate("received()")
    assert report["alice/camera"]["lost"] == 0
    assert report["alice/microphone"]["lost"] == 0


def test_a_shared_screen_is_decoded_at_the_other_side(pair: tuple[Page, Page]) -> None:
    alice, bob = pair
    alice.evaluate("room.localParticipant.setScreenShareEnabled(true)")
    wait(bob, "(await received())['alice/screen_share']?.frames > 5")


def test_chat_data_and_a_remote_procedure_call_arrive(pair: tuple[Page, Page]) -> None:
    alice, bob = pair
    alice.evaluate("room.localParticipant.sendText('start' + 'x'.repeat(39990) + 'ended', {topic: 'chat'})")
    alice.evaluate("room.localParticipant.publishData(new TextEncoder().encode('hello'), {reliable: false})")
    wait(bob, "seen.texts.length === 1")
    assert bob.evaluate("seen.texts[0]") == [40_000, "startxxxxx", "xxxxxended", "alice"]
    wait(bob, "seen.data.length === 1")
    assert bob.evaluate("seen.data[0]") == ["hello", "alice"]
    answer = alice.evaluate(
        "room.localParticipant.performRpc({destinationIdentity: 'bob', method: 'double', payload: '21'})"
    )
    assert answer == "42"


def test_mute_unmute_unpublish_and_leave_reach_the_other_within_300_ms(pair: tuple[Page, Page]) -> None:
    alice, bob = pair
    alice.evaluate("room.localParticipant.enableCameraAndMicrophone()")
    wait(bob, "(await received())['alice/microphone']?.energy > 0")
    # A muted camera stops its device, so the SDK itself takes a while: the microphone measures us.
    for wish, event in (("false", "muted"), ("true", "unmuted")):
        asked = alice.evaluate(f"(room.localParticipant.setMicrophoneEnabled({wish}), Date.now())")
        wait(bob, f"seen.{event}.length === 1")
        assert bob.evaluate(f"seen.{event}[0][1]") - asked < 300
    asked = alice.evaluate(
        "(() => { const [one] = room.localParticipant.videoTrackPublications.values();"
        " room.localParticipant.unpublishTrack(one.track); return Date.now(); })()"
    )
    wait(bob, "seen.unpublished.length === 1")
    assert bob.evaluate("seen.unpublished[0][1]") - asked < 300
    asked = alice.evaluate("(room.disconnect(), Date.now())")
    wait(bob, "seen.gone.length === 1")
    assert bob.evaluate("seen.gone[0][1]") - asked < 300


def test_the_speaker_is_told(pair: tuple[Page, Page]) -> None:
    alice, bob = pair
    # The fake microphone only beeps now and then; this one does not stop.
    alice.evaluate(
        """async () => {
            const context = new AudioContext(), tone = context.createOscillator();
            const output = context.createMediaStreamDestination();
            tone.connect(output);
            tone.start();
            await room.localParticipant.publishTrack(output.stream.getAudioTracks()[0], {source: 'microphone'});
        }"""
    )
    wait(bob, "seen.speakers.some((names) => names.includes('alice'))")


def test_signalling_is_compressed_as_the_browser_offers_it(browser: Browser, server: RunningServer) -> None:
    page = open_client(browser, server)
    tools = page.context.new_cdp_session(page)
    answers: list[str] = []
    tools.on(
        "Network.webSocketHandshakeResponseReceived",
        lambda event: answers.append(event["response"]["headers"].get("Sec-WebSocket-Extensions", "")),
    )
    tools.send("Network.enable")
    join(page, server, "alice", "compressed")
    page.evaluate("room.localParticipant.setMicrophoneEnabled(true)")  # each side has said something long
    assert answers == ["permessage-deflate; server_no_context_takeover; client_no_context_takeover"]
    page.context.close()


@pytest.mark.parametrize("single", [True, False])
def test_a_page_is_told_what_its_browser_does_badly(server: RunningServer, browser: Browser, *, single: bool) -> None:
    """By its User-Agent: livekit-client says nothing of it."""
    firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"
    for agent, disabled in ((firefox, ["video/H264"]), (None, [])):
        page = open_client(browser, server, user_agent=agent)
        join(page, server, "alice", f"devices-{single}", singlePeerConnection=single)
        told = "(room.engine.clientConfiguration?.disabledCodecs?.publish ?? []).map((codec) => codec.mime)"
        assert page.evaluate(told) == disabled
        usual = page.evaluate("room.localParticipant.enabledPublishVideoCodecs.map((codec) => codec.mime)")
        assert ("video/H264" in usual) is not bool(disabled)
        page.evaluate("room.localParticipant.setCameraEnabled(true, {}, {simulcast: false})")
        answer = page.evaluate("room.engine.pcManager.publisher.getRemoteDescription().sdp")
        sections = [section for section in answer.split("m=video")[1:] if "a=recvonly" in section]
        assert sections
        assert all((" H264/90000" in section) is not bool(disabled) for section in sections)
        page.context.close()


def test_a_lost_signalling_connection_is_resumed(pair: tuple[Page, Page]) -> None:
    alice, bob = pair
    alice.evaluate("room.localParticipant.enableCameraAndMicrophone()")
    wait(bob, "(await received())['alice/camera']?.frames > 10")
    sid = bob.evaluate("room.localParticipant.sid")
    bob.evaluate("room.on('signalReconnecting', () => { window.lost = true; })")
    bob.evaluate("room.on('reconnected', () => { window.back = true; })")
    bob.evaluate("void room.simulateScenario('signal-reconnect')")
    wait(bob, "window.lost")
    wait(bob, "window.back", seconds=20)
    assert bob.evaluate("room.localParticipant.sid") == sid, "a resume, not a new session"
    frames = bob.evaluate("received()")["alice/camera"]["frames"]
    wait(bob, f"(await received())['alice/camera'].frames > {frames} + 20")
    alice.evaluate("room.localParticipant.publishData(new TextEncoder().encode('still here'), {reliable: true})")
    wait(bob, "seen.data.some(([text]) => text === 'still here')")
    assert alice.evaluate("seen.gone.length") == 0, "the others were not bothered"
