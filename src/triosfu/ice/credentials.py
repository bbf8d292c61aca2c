"""The short-term credentials of one side of one ICE generation (RFC 8445, section 5.3)."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from triosfu.errors import MalformedPacket

if TYPE_CHECKING:
    from random import Random

UFRAG_SIZE: Final = 8  # 48 bits: unique in a process, and not worth guessing
PWD_SIZE: Final = 24  # 144 bits


@dataclass(frozen=True, slots=True)
class Credentials:
    """A username fragment, which names, and a password, which proves. The password stays out of `repr`.

    Raises:
        MalformedPacket: The lengths are outside RFC 8839, section 5.4, or a character has no place in a USERNAME.
    """

    ufrag: str
    pwd: str = field(repr=False)

    def __post_init__(self) -> None:
        if not 4 <= len(self.ufrag) <= 256 or not 22 <= len(self.pwd) <= 256:
            raise MalformedPacket("ice: ufrag or pwd is too short or too long")
        text = self.ufrag + self.pwd
        # Some peers use characters outside ice-char; what matters is that USERNAME can be taken apart again.
        if not text.isascii() or not text.isprintable() or " " in text or ":" in self.ufrag:
            raise MalformedPacket("ice: ufrag or pwd has a character that it must not have")

    @classmethod
    def generate(cls, rng: Random) -> Self:
        """Fresh credentials; in production `rng` is a SystemRandom."""
        text = b64encode(rng.randbytes((UFRAG_SIZE + PWD_SIZE) * 6 // 8)).decode()  # its alphabet is that of ice-char
        return cls(text[:UFRAG_SIZE], text[UFRAG_SIZE:])

    @property
    def key(self) -> bytes:
        """The key of MESSAGE-INTEGRITY for requests sent to the owner of these credentials."""
        return self.pwd.encode()
