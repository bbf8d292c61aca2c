"""The SRTP protection profiles that DTLS negotiates, and how its exporter becomes keys (RFC 5764, RFC 7714)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self


class SrtpProfile(IntEnum):
    """A protection profile; the value is its number in `use_srtp` (RFC 5764, section 4.1.2; RFC 7714, section 14.2)."""

    AES128_CM_SHA1_80 = 0x0001
    AES128_CM_SHA1_32 = 0x0002
    AEAD_AES_128_GCM = 0x0007
    AEAD_AES_256_GCM = 0x0008

    @property
    def key_length(self) -> int:
        """Bytes of master key."""
        return 32 if self is SrtpProfile.AEAD_AES_256_GCM else 16

    @property
    def salt_length(self) -> int:
        """Bytes of master salt."""
        return 12 if self.is_aead else 14

    @property
    def is_aead(self) -> bool:
        """Whether encryption and authentication are one operation."""
        return self in (SrtpProfile.AEAD_AES_128_GCM, SrtpProfile.AEAD_AES_256_GCM)

    @property
    def rtp_overhead(self) -> int:
        """Bytes that protection adds to an RTP packet."""
        return {SrtpProfile.AES128_CM_SHA1_80: 10, SrtpProfile.AES128_CM_SHA1_32: 4}.get(self, 16)

    @property
    def rtcp_overhead(self) -> int:
        """Bytes that protection adds to an RTCP packet: the tag and the index."""
        return 20 if self.is_aead else 14

    @property
    def export_length(self) -> int:
        """Bytes that the DTLS exporter has to give: two keys and two salts."""
        return 2 * (self.key_length + self.salt_length)

    @property
    def openssl_name(self) -> str:
        """What OpenSSL calls this profile."""
        return f"SRTP_{self.name}"


def cut(material: bytes, key: int, salt: int, *, client: bool) -> tuple[bytes, bytes, bytes, bytes]:
    """Our key and salt, and the peer's, from what TLS derives for both; `key` and `salt` are their lengths in bytes.

    The layout is client key, server key, client salt, server salt (RFC 5246, section 6.3, and RFC 5764, section 4.2).
    """
    keys, salts = (
        (material[:key], material[key : 2 * key]),
        (material[2 * key : 2 * key + salt], material[2 * key + salt :]),
    )
    here = 0 if client else 1
    return keys[here], salts[here][:salt], keys[1 - here], salts[1 - here][:salt]


@dataclass(frozen=True, slots=True)
class SrtpKeys:
    """The master keys of both directions of one transport. Never printed: the representation hides them."""

    profile: SrtpProfile
    local_key: bytes = field(repr=False)
    local_salt: bytes = field(repr=False)
    remote_key: bytes = field(repr=False)
    remote_salt: bytes = field(repr=False)

    @classmethod
    def from_exporter(cls, profile: SrtpProfile, material: bytes, *, client: bool) -> Self:
        """Cut exported keying material into keys; `client` says which side of the handshake we were.

        The layout is client key, server key, client salt, server salt (RFC 5764, section 4.2).
        """
        return cls(profile, *cut(material, profile.key_length, profile.salt_length, client=client))

    def swapped(self) -> Self:
        """The same keys as the peer sees them."""
        return type(self)(self.profile, self.remote_key, self.remote_salt, self.local_key, self.local_salt)
