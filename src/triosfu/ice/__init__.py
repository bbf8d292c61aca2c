"""Interactive Connectivity Establishment (RFC 8445, 8838, 7675): find a path to the peer, and notice when it dies."""

from triosfu.ice.candidate import Candidate, CandidateType
from triosfu.ice.core import IceAgent
from triosfu.ice.credentials import Credentials
from triosfu.ice.events import Event, SelectedPair, StateChanged, Transmit, TupleValidated
from triosfu.ice.state import IceState

__all__ = [
    "Candidate",
    "CandidateType",
    "Credentials",
    "Event",
    "IceAgent",
    "IceState",
    "SelectedPair",
    "StateChanged",
    "Transmit",
    "TupleValidated",
]
