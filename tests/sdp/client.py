"""A client's side of a negotiation, in a few lines: sections copied from Chromium's, offered as told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

from triosfu.sdp.directions import Direction, Setup
from triosfu.sdp.media import Fingerprint, IceCredentials, MediaDescription
from triosfu.sdp.negotiation import LocalTransport, MediaPolicy, Negotiation, Sender
from triosfu.sdp.streams import Msid
from triosfu.sdp.wire import SessionDescription

CORPUS = Path(__file__).parent / "corpus"
FINGERPRINT = ":".join(["A1"] * 32)


def corpus(name: str) -> str:
    return (CORPUS / f"{name}.sdp").read_bytes().decode()


def corpus_names() -> list[str]:
    return sorted(path.stem for path in CORPUS.glob("*.sdp"))


def _template(name: str, at: int) -> MediaDescription:
    media = SessionDescription.parse(corpus(name)).media[at]
    first = {codec.mime: codec for codec in reversed(media.codecs)}  # one form of each codec, for speed
    return replace(media, codecs=tuple(codec for codec in media.codecs if first[codec.mime] is codec))


RECEIVING = {"audio": _template("chromium_single_join", 0), "video": _template("chromium_single_join", 3)}
SENDING = {"audio": _template("chromium_publish_simulcast", 1), "video": _template("chromium_publish_simulcast", 2)}
DATA = _template("chromium_data", 0)


class Client:
    """Sections in order, as a browser keeps them; `offer` writes them."""

    def __init__(self) -> None:
        self.sections: list[MediaDescription] = []
        self.ice = IceCredentials("clnt", "password-of-the-client-0")
        self.fingerprints = [Fingerprint("sha-256", ":".join(["C1"] * 32))]
        self.setup = Setup.ACTPASS
        self._mids = 0
        self._free: set[int] = set()  # places whose end both sides know of (RFC 8829, section 5.2.2)

    def receive(self, kind: str) -> int:
        """Add a section to receive in; its place."""
        return self._add(RECEIVING[kind])

    def publish(self, kind: str, track: str) -> int:
        """Add a section to send in; its place."""
        return self._add(replace(SENDING[kind], msids=(Msid("stream", track),), ssrcs=(), ssrc_groups=()))

    def data(self) -> int:
        """Add the application section; its place."""
        return self._add(DATA)

    def turn(self, at: int, direction: Direction) -> None:
        self.sections[at] = replace(self.sections[at], direction=direction)

    def stop(self, at: int) -> None:
        self.sections[at] = replace(self.sections[at], port=0, direction=Direction.INACTIVE)

    def restart_ice(self) -> None:
        ufrag = self.ice.ufrag + "x"
        self.ice = IceCredentials(ufrag, "password-of-the-client-" + ufrag)

    def offer(self) -> str:
        live = [section for section in self.sections if not section.is_rejected]
        return SessionDescription(
            bundle=tuple(section.mid or "" for section in live),
            extmap_allow_mixed=True,
            media=tuple(
                replace(section, ice=self.ice, fingerprints=tuple(self.fingerprints), setup=self.setup)
                for section in self.sections
            ),
        ).serialize()

    def answered(self, sdp: str) -> SessionDescription:
        """Take the answer to the latest offer."""
        answer = SessionDescription.parse(sdp)
        self._free |= {
            at
            for at, media in enumerate(answer.media)
            if media.is_rejected and self.sections[at].is_rejected and self.sections[at].mid == media.mid
        }
        return answer

    def _add(self, section: MediaDescription) -> int:
        """Append a section, or put it in the place of one that is over, as browsers do."""
        section = replace(section, mid=str(self._mids), port=9)
        self._mids += 1
        if self._free:
            at = min(self._free)
            self._free.remove(at)
            self.sections[at] = section
            return at
        self.sections.append(section)
        return len(self.sections) - 1


def local(generation: int = 0, candidates: tuple[str, ...] = ()) -> LocalTransport:
    return LocalTransport(
        ufrag=f"ufrag{generation:03}",
        pwd=f"password-of-ours-{generation:07}",
        fingerprint=FINGERPRINT,
        candidates=list(candidates),
    )


def negotiation(*, single: bool = False, policy: MediaPolicy | None = None) -> Negotiation:
    return Negotiation(local=local(), policy=policy or MediaPolicy(), single=single, rng=Random(1))


def sender(kind: str, number: int = 1, codecs: list[str] | None = None, *, stereo: bool = False) -> Sender:
    return Sender(
        kind=kind,
        track_id=f"TR_{number}",
        stream_id=f"PA_{number}|TR_{number}",
        ssrc=1000 + 2 * number,
        rtx_ssrc=1001 + 2 * number if kind == "video" else None,
        codecs=codecs or (["audio/red", "audio/opus"] if kind == "audio" else ["video/VP8"]),
        stereo=stereo,
    )


def parsed(sdp: str) -> SessionDescription:
    return SessionDescription.parse(sdp)
