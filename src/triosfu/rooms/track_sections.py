"""How the section of a published track is answered, and what its payload types mean (protocol reference, 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from livekit.protocol import models

from triosfu.rooms.backup_codecs import RED
from triosfu.sdp.sections import AnswerPreferences

if TYPE_CHECKING:
    from triosfu.sdp.codecs import Codec


def preferences(info: models.TrackInfo, index: int) -> AnswerPreferences:
    """Return how the section in which a track comes in its codec `index` is to be answered."""
    mime = info.codecs[index].mime_type or None
    if info.type != models.TrackType.AUDIO:
        return AnswerPreferences(mime=mime)
    wanted = mime is None or mime.lower() == RED
    red = False if info.disable_red else wanted or None  # None leaves the client's order
    return AnswerPreferences(mime=mime, stereo=info.stereo, dtx=not info.disable_dtx, red=red)


def payload_types(codecs: list[Codec]) -> dict[int, str | int]:
    """Return what each payload type means: a codec's mime or, for retransmissions, the payload type repeated."""
    table: dict[int, str | int] = {}
    for codec in codecs:
        table[codec.payload_type] = codec.mime
        if codec.rtx_payload_type is not None:
            table[codec.rtx_payload_type] = codec.payload_type
    return table
