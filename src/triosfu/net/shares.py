"""Who holds how much of something bounded: the last quarter of it is for those who hold little.

One address may have three quarters of a server that nobody else wants, which is what a reverse proxy in front of it
needs. But it cannot have all: from there on only those get more who hold little.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

RESERVED = 4  # one in so many is for those who hold little
NETWORK_BITS = 64  # of an IPv6 address: whoever has one of them usually has the whole network


class Shares:
    """What is held, by whom. There is an entry for nobody who holds nothing, so the table is as bounded as `limit`."""

    def __init__(self, limit: int, *, little: int) -> None:
        """Nobody holds anything yet. `little` is what one may hold when there is not much left."""
        self.limit = limit
        self.little = little
        self.total = 0
        self._held: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def held(self, who: str) -> int:
        """How much somebody holds."""
        return self._held.get(who, 0)

    @property
    def largest(self) -> int:
        """How much is held by who holds most."""
        return max(self._held.values(), default=0)

    def take(self, who: str, amount: int = 1) -> bool:
        """Let `who` hold so much more; False, and nothing has changed, when there is not enough left for it."""
        total, held = self.total + amount, self._held.get(who, 0) + amount
        scarce = total > self.limit - self.limit // RESERVED
        if amount and (total > self.limit or (scarce and held > self.little)):
            return False
        self.total = total
        if held:
            self._held[who] = held
        return True

    def give_back(self, who: str, amount: int = 1) -> None:
        """Let `who` hold so much less."""
        left = self._held.get(who, 0) - amount
        if left > 0:
            self._held[who] = left
        else:
            self._held.pop(who, None)
        self.total -= amount


def holder(host: str) -> str:
    """Who is behind an address: the address itself, or its network where one client has many."""
    if ":" not in host:
        return host
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 128 - NETWORK_BITS << 128 - NETWORK_BITS))
