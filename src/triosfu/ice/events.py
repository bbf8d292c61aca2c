"""What an ICE agent hands out: datagrams to send, and news for its owner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from triosfu.ice.state import IceState
    from triosfu.stun.wire import Address


class Transmit(NamedTuple):
    """A datagram to send from the socket bound to `source`."""

    data: bytes
    source: Address
    destination: Address


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The agent moved to another state."""

    state: IceState


@dataclass(frozen=True, slots=True)
class TupleValidated:
    """Something authenticated came from `remote` to `local`: datagrams from there may be routed to this agent's owner.

    Told again each time, so that a routing table that forgot or gave away the tuple mends itself.
    """

    local: Address
    remote: Address
    proven: bool = field(default=True, compare=False)
    """Whether somebody at `remote` has answered us: who knows our password can forge where a request comes from."""


@dataclass(frozen=True, slots=True)
class SelectedPair:
    """Send from `local` to `remote` from now on."""

    local: Address
    remote: Address


Event = StateChanged | TupleValidated | SelectedPair
