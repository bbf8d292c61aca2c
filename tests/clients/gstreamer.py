"""GStreamer's webrtcbin as a WHIP publisher or a WHEP viewer, for a look by hand (docs/whip.md says how).

Usage: python3 tests/clients/gstreamer.py publish|watch URL TOKEN [SECONDS], with the system's Python, which has `gi`.
Says once a second what was played so far, or how it is connected, and ends its session by DELETE.
"""

from __future__ import annotations

import sys
import urllib.request
from collections import Counter
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import urljoin

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402  versions come first

Object: TypeAlias = Any  # of GStreamer, which tells no types
SDP = "application/sdp"
PEER = "webrtcbin name=peer bundle-policy=max-bundle"
MEDIA = """
videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=15/1 !
  vp8enc deadline=1 keyframe-max-dist=30 ! rtpvp8pay picture-id-mode=15-bit !
  application/x-rtp,media=video,encoding-name=VP8,payload=96 ! peer.
audiotestsrc is-live=true ! opusenc ! rtpopuspay !
  application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! peer.
"""
RECEIVE = {
    "video": "application/x-rtp,media=video,encoding-name=VP8,payload=96,clock-rate=90000,"
    "rtcp-fb-nack=true,rtcp-fb-nack-pli=true,rtcp-fb-ccm-fir=true",
    "audio": "application/x-rtp,media=audio,encoding-name=OPUS,payload=97,clock-rate=48000,encoding-params=(string)2",
}


class Session:
    """One peer connection, from its offer to its end."""

    def __init__(self, role: str, url: str, token: str) -> None:
        self.url, self.token, self.location = url, token, ""
        self.played: Counter[str] = Counter()
        self.loop = GLib.MainLoop()
        self.pipeline = Gst.Pipeline()
        self.pipeline.add(Gst.parse_bin_from_description(PEER if role == "watch" else PEER + MEDIA, False))
        self.peer = self.pipeline.get_by_name("peer")
        if role == "watch":
            direction = GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY
            for caps in RECEIVE.values():
                self.peer.emit("add-transceiver", direction, Gst.Caps.from_string(caps))
            self.peer.connect("pad-added", self._play)
        self.peer.connect("notify::ice-gathering-state", self._gathered)
        self.peer.connect("notify::connection-state", self._tell)
        self.peer.connect("on-negotiation-needed", self._offer)
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", self._failed)

    def run(self, seconds: int) -> None:
        """Be in the session for that long."""
        self.pipeline.set_state(Gst.State.PLAYING)
        GLib.timeout_add_seconds(1, self._report)
        GLib.timeout_add_seconds(seconds, self.loop.quit)
        self.loop.run()
        if self.location:
            self._ask("DELETE", self.location)
        self.pipeline.set_state(Gst.State.NULL)

    def _offer(self, peer: Object) -> None:
        peer.emit("create-offer", None, Gst.Promise.new_with_change_func(self._offered, None))

    def _offered(self, promise: Object, _: object) -> None:
        reply = promise.get_reply()  # which owns what is in it
        offer = reply.get_value("offer")
        self.peer.emit("set-local-description", offer, Gst.Promise.new())

    def _gathered(self, peer: Object, _: object) -> None:
        if peer.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            GLib.idle_add(self._post)

    def _post(self) -> bool:
        if not self.location:
            offer = self.peer.get_property("local-description").sdp.as_text()
            self.location, answer = self._ask("POST", self.url, offer)
            _, message = GstSdp.SDPMessage.new_from_text(answer)
            description = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
            self.peer.emit("set-remote-description", description, Gst.Promise.new())
        return False

    def _ask(self, method: str, url: str, body: str = "") -> tuple[str, str]:
        headers = {"Content-Type": SDP, "Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(url, body.encode() or None, headers, method=method)  # noqa: S310  as asked for
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  likewise
            return urljoin(url, answer.headers.get("Location", "")), answer.read().decode()

    def _play(self, _: object, pad: Object) -> None:
        if pad.get_direction() == Gst.PadDirection.SRC:
            kind = pad.get_current_caps().get_structure(0).get_string("media")
            part = Gst.parse_bin_from_description(
                "rtpvp8depay ! vp8dec ! fakesink name=end sync=false signal-handoffs=true"
                if kind == "video"
                else "rtpopusdepay ! opusdec ! fakesink name=end sync=false signal-handoffs=true",
                ghost_unlinked_pads=True,
            )
            self.peer.get_parent().add(part)
            part.get_by_name("end").connect("handoff", partial(self._count, kind))
            part.sync_state_with_parent()
            pad.link(part.get_static_pad("sink"))

    def _count(self, kind: str, *_: object) -> None:
        self.played[kind] += 1

    def _report(self) -> bool:
        say(dict(self.played) or self.peer.get_property("connection-state").value_nick)
        return True

    def _tell(self, peer: Object, _: object) -> None:
        say("connection:", peer.get_property("connection-state").value_nick)

    def _failed(self, _: object, message: Object) -> None:
        say("error:", *message.parse_error())
        self.loop.quit()


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201  for who looks


if __name__ == "__main__":
    role, url, token, *rest = sys.argv[1:]
    Gst.init(None)
    Session(role, url, token).run(int(rest[0]) if rest else 10)
