"""Which track and layer an SSRC belongs to.

Clients say it in many ways, and stop saying it after the first receiver report. In order of trust: an SSRC that the SDP
names; the mid, rid and repaired-rid header extensions (RFC 8843, section 9.2; RFC 8852), remembered; a payload type
that only one track can mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from triosfu.media.receiver import TrackReceiver
    from triosfu.rtp.wire import RtpPacket

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
RID = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
REPAIRED_RID = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"
MAX_LAYERS = 3
MAX_REMEMBERED = 64


@dataclass(slots=True, eq=False)
class Track:
    """One receiver, and how its packets are told from others."""

    receiver: TrackReceiver
    mid: str | None
    rids: Sequence[str]  # in the order of quality
    ssrcs: Sequence[int]  # likewise
    rtx: Mapping[int, int]  # SSRC -> SSRC of its retransmissions
    codecs: dict[int, str] = field(default_factory=dict)  # payload type -> mime
    repeats: dict[int, int] = field(default_factory=dict)  # payload type of retransmissions -> that repeated

    def named(self) -> Iterable[tuple[int, Binding]]:
        """The SSRCs that the SDP names for this track."""
        for spatial, ssrc in enumerate(self.ssrcs[:MAX_LAYERS]):
            yield ssrc, Binding(self, spatial, repairs=False)
            if ssrc in self.rtx:
                yield self.rtx[ssrc], Binding(self, spatial, repairs=True)


@dataclass(frozen=True, slots=True)
class Binding:
    """An SSRC's place."""

    track: Track
    spatial: int
    repairs: bool  # it carries retransmissions


@dataclass(slots=True)
class Said:
    """What the header extensions of one SSRC have said so far."""

    mid: str | None = None
    rid: str | None = None


class Bindings:
    """All that one publisher has said about its SSRCs, by SDP and by header extensions."""

    def __init__(self) -> None:
        self.extension_ids: dict[str, int] = {}  # of the whole transport: an identifier means the same in every section
        self._tracks: list[Track] = []
        self._named: dict[int, Binding] = {}
        self._said: dict[int, Said] = {}

    def add(self, track: Track, extension_ids: Mapping[str, int]) -> None:
        """Know `track` from now on."""
        self._tracks.append(track)
        self.extension_ids.update(extension_ids)
        self._name()

    def remove(self, receiver: TrackReceiver) -> None:
        """Forget the tracks of `receiver`; what SSRCs have said stays known, because they will not say it again."""
        self._tracks = [track for track in self._tracks if track.receiver is not receiver]
        self._name()

    def _name(self) -> None:
        # The lines of simulcast sections are incomplete in some clients: rids are asked there.
        self._named = dict(
            pair for track in self._tracks if not track.rids or RID not in self.extension_ids for pair in track.named()
        )

    def resolve(self, packet: RtpPacket) -> Binding | None:
        """Where the SSRC of `packet` belongs; None as long as nobody knows."""
        binding = self._named.get(packet.ssrc) or self._by_extension(packet) or self._by_payload_type(packet)
        if binding is None:
            return None
        # Other payload types, as those of forward error correction, are no part of the track.
        known = binding.track.repeats if binding.repairs else binding.track.codecs
        return binding if packet.payload_type in known else None

    def _by_extension(self, packet: RtpPacket) -> Binding | None:
        said = self._listen(packet)
        if said.mid is None and said.rid is None:
            return None
        found: list[tuple[Track, int]] = []
        for track in self._tracks:
            if said.mid is not None and track.mid != said.mid:
                continue
            if said.rid is None and len(track.rids) <= 1:
                found.append((track, 0))
            elif said.rid is not None and said.rid in track.rids:
                found.append((track, track.rids.index(said.rid)))
        if len(found) > 1:
            # Receivers of one section differ by codec.
            kind = packet.payload_type
            found = [(track, spatial) for track, spatial in found if kind in track.codecs or kind in track.repeats]
        if len(found) != 1:
            return None
        track, spatial = found[0]
        return Binding(track, spatial, repairs=packet.payload_type in track.repeats)

    def _listen(self, packet: RtpPacket) -> Said:
        """Add what this packet's extensions say."""
        said = self._said.pop(packet.ssrc, None) or Said()
        self._said[packet.ssrc] = said
        if len(self._said) > MAX_REMEMBERED:
            del self._said[next(iter(self._said))]
        ids = self.extension_ids
        if (number := ids.get(MID)) and (value := packet.extension(number)):
            said.mid = value.decode("ascii", "replace")
        for uri in (RID, REPAIRED_RID):
            if (number := ids.get(uri)) and (value := packet.extension(number)):
                said.rid = value.decode("ascii", "replace")
        return said

    def _by_payload_type(self, packet: RtpPacket) -> Binding | None:
        """The one track that uses the payload type, has one layer, and has no SSRC for this yet."""
        if (said := self._said.get(packet.ssrc)) and (said.mid is not None or said.rid is not None):
            return None
        kind = packet.payload_type
        found: list[Binding] = []
        for track in self._tracks:
            if len(track.rids) <= 1 and (kind in track.codecs or kind in track.repeats):
                repairs = kind in track.repeats
                if repairs or not track.receiver.streams:
                    found.append(Binding(track, 0, repairs))
        return found[0] if len(found) == 1 else None
