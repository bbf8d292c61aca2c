"""What an administrator does to a participant, as livekit-client in Chromium sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.clients.browser import chromium, join, open_client, wait
from tests.clients.test_between_rooms import call

if TYPE_CHECKING:
    from tests.clients.server import RunningServer

ALL = {"canPublish": True, "canSubscribe": True, "canPublishData": True}
WHO = {"room": "moderated", "identity": "alice"}


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
