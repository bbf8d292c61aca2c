"""Our own side's addresses: sockets, the candidates that announce them, and what NATs make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from triosfu.errors import UsageError
from triosfu.ice.candidate import Candidate, priority_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.ice.candidate import Address

MAX_LOCAL_CANDIDATES: Final = 16


class LocalAddresses:
    """Local candidates by the address of the socket that serves them."""

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.reflexive: list[Candidate] = []
        self._by_base: dict[Address, Candidate] = {}

    def __iter__(self) -> Iterator[tuple[Address, Candidate]]:
        """Each socket once, with the first candidate that announced it (RFC 8445, section 6.1.2.4)."""
        return iter(self._by_base.items())

    def add(self, candidate: Candidate, base: Address) -> bool:
        """Take in a candidate. Returns whether its socket is new."""
        if len(self.candidates) >= MAX_LOCAL_CANDIDATES:
            raise UsageError("ice: too many local candidates")
        self.candidates.append(candidate)
        if base in self._by_base:
            return False
        self._by_base[base] = candidate
        return True

    def at(self, base: Address) -> Candidate:
        """The candidate of this socket; one made up, if it was never announced and was found all the same."""
        return self._by_base.get(base) or Candidate.host(base)

    def learn_reflexive(self, mapped: Address, base: Address) -> None:
        """Note at which address the peer saw us: if it is none of ours, a NAT stands between (section 7.2.5.3.1)."""
        known = (*self._by_base, *(candidate.address for candidate in (*self.candidates, *self.reflexive)))
        if mapped in known or len(self.reflexive) >= MAX_LOCAL_CANDIDATES:
            return
        local = self.at(base)
        priority = reflexive_priority(local)
        self.reflexive.append(Candidate("prflx", 1, local.protocol, priority, mapped, "prflx", related=base))


def reflexive_priority(local: Candidate) -> int:
    """The priority of a peer-reflexive candidate that a check from this one may bring to light (section 7.1.1)."""
    return priority_of("prflx", local_preference=local.priority >> 8 & 0xFFFF, protocol=local.protocol)
