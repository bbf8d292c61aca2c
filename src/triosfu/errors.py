"""The errors that triosfu raises on purpose, named by who must react."""

from __future__ import annotations


class TriosfuError(Exception):
    """Base of every error this package raises on purpose."""


class MalformedPacket(TriosfuError):
    """Bytes from the network are not valid protocol. Drop, count, carry on."""


class PeerError(TriosfuError):
    """The peer broke the protocol's rules. Close that peer, nobody else."""


class UsageError(TriosfuError):
    """Our own caller asked for something this state forbids: a bug here."""


class PeerGone(TriosfuError):
    """The association ended while a call was waiting on it."""


class ConfigError(TriosfuError):
    """The configuration is wrong; the message starts with the key."""
