"""What one exchange of credentials brings: two ufrags, the peer's candidates, and the pairs made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from triosfu.ice.candidate import Candidate, is_ipv6
from triosfu.ice.checklist import Checklist, Pair
from triosfu.ice.local import reflexive_priority

if TYPE_CHECKING:
    from triosfu.ice.candidate import Address
    from triosfu.ice.credentials import Credentials
    from triosfu.ice.local import LocalAddresses
    from triosfu.ice.role import Role

MAX_REMOTE_CANDIDATES: Final = 64


class Generation:
    """An ICE session in the words of RFC 8445; a restart begins the next one (section 9)."""

    def __init__(self, local: Credentials, *, addresses: LocalAddresses, role: Role, lite: bool) -> None:
        self.local = local
        self.remote: Credentials | None = None
        self.checklist = Checklist()
        self._addresses = addresses
        self._role = role
        self._lite = lite
        self._remotes: dict[Address, Candidate] = {}  # signalled ones; peer-reflexive ones live in their pairs

    def is_for_later(self, candidate: Candidate) -> bool:
        """Whether it belongs to credentials that we do not know yet (or not any more: then it never fits)."""
        return self.remote is None or candidate.ufrag not in (None, self.remote.ufrag)

    def learn_local(self, base: Address, candidate: Candidate) -> None:
        """Pair a new local candidate with all that is known of the peer."""
        for remote in self._remotes.values():
            self._pair_up(base, candidate, remote)

    def learn_remote(self, candidate: Candidate) -> None:
        """Pair a signalled candidate with all of ours; nothing, if it is known or one too many."""
        if candidate.address in self._remotes or len(self._remotes) >= MAX_REMOTE_CANDIDATES:
            return
        self._remotes[candidate.address] = candidate
        for base, local in self._addresses:
            self._pair_up(base, local, candidate)

    def _pair_up(self, base: Address, local: Candidate, remote: Candidate) -> None:
        if local.protocol != "udp" or is_ipv6(base) != is_ipv6(remote.address):
            return
        pair = self.checklist.get(base, remote.address)
        if pair is not None:
            pair.remote = remote  # the peer's check was faster than its signalling
            pair.prioritise(controlling=self._role.controlling)
        elif not self._lite:
            self.checklist.add(self._make(base, local, remote), pressing=False)

    def pair_of_request(self, source: Address, destination: Address, priority: int | None) -> Pair:
        """The pair that the request came over; made now if the peer's address is new (RFC 8445, section 7.3.1.3)."""
        pair = self.checklist.get(destination, source)
        if pair is None:
            local = self._addresses.at(destination)
            if priority is None:
                priority = reflexive_priority(local)
            reflexive = Candidate("prflx", 1, local.protocol, priority, source, "prflx")
            known = self._remotes.get(source) if local.protocol == "udp" else None  # the signalled ones are all of UDP
            pair = self._make(destination, local, known or reflexive)
            self.checklist.add(pair, pressing=True)
        return pair

    def _make(self, base: Address, local: Candidate, remote: Candidate) -> Pair:
        pair = Pair(base, local, remote)
        pair.prioritise(controlling=self._role.controlling)
        return pair

    def switch_role(self) -> None:
        """Order the pairs anew after a change of roles; what was nominated under the old ones is void."""
        for pair in self.checklist:
            pair.wanted = False
            pair.prioritise(controlling=self._role.controlling)
