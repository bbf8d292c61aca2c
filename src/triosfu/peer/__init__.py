"""PeerConnection: composes the sans-IO cores of one transport and owns their nursery."""

from triosfu.peer.channel import ChannelState, DataChannel
from triosfu.peer.connection import PeerConnection
from triosfu.peer.state import PeerHandler, PeerSettings, PeerState

__all__ = ["ChannelState", "DataChannel", "PeerConnection", "PeerHandler", "PeerSettings", "PeerState"]
