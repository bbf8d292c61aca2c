"""Server ids: a prefix that tells the kind, and random symbols that are easy to read aloud.

Clients check the prefixes: the Rust core ends its task on a sid that lacks its own (protocol reference, section 15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from livekit.protocol import models

if TYPE_CHECKING:
    from random import Random

SYMBOLS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"  # 57: no 0, 1, I, O, l
LENGTH = 12
MAX_SID = 64  # characters; longer than any sid there is, so what clients wish for by sid is not worth keeping

ROOM = "RM_"
PARTICIPANT = "PA_"
TRACK = "TR_"
DATA_TRACK = "DTR_"
NODE = "ND_"

SOURCE_LETTERS = {
    models.TrackSource.CAMERA: "C",
    models.TrackSource.MICROPHONE: "M",
    models.TrackSource.SCREEN_SHARE: "S",
    models.TrackSource.SCREEN_SHARE_AUDIO: "s",
}


def new_sid(prefix: str, rng: Random) -> str:
    """Return a fresh sid: `prefix` and twelve random symbols (70 bits)."""
    return prefix + random_text(LENGTH, rng)


def track_sid(kind: models.TrackType, source: models.TrackSource, rng: Random) -> str:
    """Return a fresh track sid that shows kind and source, as `TR_VC...` for a camera (section 4.2)."""
    letter = "A" if kind == models.TrackType.AUDIO else "V"
    return new_sid(TRACK + letter + SOURCE_LETTERS.get(source, ""), rng)


def random_text(length: int, rng: Random) -> str:
    """Return `length` random symbols of the sid alphabet."""
    number = rng.randrange(len(SYMBOLS) ** length)  # one question to the system instead of `length`
    symbols = []
    for _ in range(length):
        number, place = divmod(number, len(SYMBOLS))
        symbols.append(SYMBOLS[place])
    return "".join(symbols)
