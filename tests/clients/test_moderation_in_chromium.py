"""What an administrator does to a participant, as livekit-client in Chromium sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.clients.browser import chromium, join, open_client, wait
from tests.clients.test_between_rooms import call

if TYPE_CHECKING:
    from tests.clients.server import RunningServer

ALL = {"canPublish": True, "canSubscribe": True, "canPublishData": True}
WHO = {"room": "moderated", "identity": "alice"}
# One tone twice: with redundancy and without.
TONES = """
async () => {
  const context = new AudioContext(), tone = context.createOscillator(), sids = [];
  tone.start();
  for (const [source, red] of [['microphone', true], ['screen_share_audio', false]]) {
    const output = context.createMediaStreamDestination();
    tone.connect(output);
    const [track] = output.stream.getAudioTracks();
    sids.push((await room.localParticipant.publishTrack(track, {source, red})).trackSid);
  }
  return sids;
}
"""
# Samples that were made up and could be heard; without silence behind a tone these are 0.4 s.
MADE_UP = """
async () => {
  const both = Object.values(await received());
  return [both.map((one) => one.packets), both.map((one) => one.concealed - one.silent)];
}
"""


def test_a_browser_follows_what_it_may_and_may_not(server: RunningServer) -> None:
    with chromium() as browser:
        alice, bob = (open_client(browser, server) for _ in range(2))
        for page, name in ((alice, "alice"), (bob, "bob")):
            join(page, server, name, WHO["room"], singlePeerConnection=True)
        alice.evaluate("room.on('disconnected', (reason) => { window.why = reason; })")
        alice.evaluate("room.localParticipant.enableCameraAndMicrophone()")
        frames = "(await received())['alice/camera']?.frames"
        wait(bob, f"{frames} > 3")

        call(server, "UpdateParticipant", **WHO, permission={**ALL, "hidden": True})
        wait(bob, "room.remoteParticipants.size === 0")
        call(server, "UpdateParticipant", **WHO, permission=ALL)
        wait(bob, "room.remoteParticipants.size === 1")
        wait(bob, f"{frames} > 3")

        bob_may = {**WHO, "identity": "bob"}
        call(server, "UpdateParticipant", **bob_may, permission={**ALL, "canSubscribe": False})
        wait(bob, "room.localParticipant.permissions.canSubscribe === false")
        call(server, "UpdateParticipant", **bob_may, permission=ALL)
        before = bob.evaluate(f"(async () => {frames} ?? 0)()")
        wait(bob, f"{frames} > 3 && {frames} != {before}")

        [sid] = alice.evaluate("[...room.localParticipant.audioTrackPublications.keys()]")
        call(server, "MutePublishedTrack", **WHO, track_sid=sid, muted=True)
        wait(alice, f"room.localParticipant.trackPublications.get('{sid}').isMuted")
        wait(bob, "seen.muted.length === 1")
        call(server, "UpdateParticipant", **WHO, permission={**ALL, "canPublishSources": ["MICROPHONE"]})
        wait(alice, "room.localParticipant.videoTrackPublications.size === 0")
        wait(bob, "seen.unpublished.some(([source]) => source === 'camera')")

        call(server, "RemoveParticipant", **WHO)
        wait(alice, "window.why === 4")  # PARTICIPANT_REMOVED
        wait(bob, "room.remoteParticipants.size === 0")


def test_a_sound_that_is_muted_ends_in_silence_and_not_in_an_echo(server: RunningServer) -> None:
    with chromium() as browser:
        alice, bob = (open_client(browser, server) for _ in range(2))
        for page, name in ((alice, "alice"), (bob, "bob")):
            join(page, server, name, WHO["room"], singlePeerConnection=True)
        sids = alice.evaluate(TONES)
        wait(bob, "Object.values(await received()).filter((one) => one.energy > 0.1).length === 2")
        packets, before = bob.evaluate(MADE_UP)
        for sid in sids:
            call(server, "MutePublishedTrack", **WHO, track_sid=sid, muted=True)
        for at, number in enumerate(packets):
            wait(bob, f"Object.values(await received())[{at}].packets > {number} + 45")
        bob.wait_for_timeout(500)  # in which the rest would be made up
        _, after = bob.evaluate(MADE_UP)
        assert max(end - begin for begin, end in zip(before, after, strict=True)) < 4800, "a tenth of a second"
