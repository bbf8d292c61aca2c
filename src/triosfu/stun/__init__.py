"""STUN messages (RFC 8489), as ICE and TURN speak them."""

from triosfu.stun.wire import Attribute, Kind, Message, StunError, peek

__all__ = ["Attribute", "Kind", "Message", "StunError", "peek"]
