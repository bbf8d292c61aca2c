"""The states of an ICE agent: every move it can make, in one table."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from triosfu.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class IceState(Enum):
    """How far the agent has come; as W3C's RTCIceTransportState, with NEW until the peer's credentials are known."""

    NEW = "new"
    CHECKING = "checking"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    FAILED = "failed"
    CLOSED = "closed"


class On(Enum):
    """What may move an agent from one state to another."""

    CREDENTIALS = "the peer's credentials are known"
    SELECTED = "a pair was nominated and works"
    SILENT = "nothing was heard on the selected pair for a while"
    HEARD = "the peer spoke again on the selected pair"
    PATH_LOST = "the old pair died during a restart; the new checks go on"
    LOST = "checks led to nothing, or the peer stayed silent"
    RESTART = "our side has new credentials"
    CLOSE = "our own side is done"


NEW, CHECKING, CONNECTED, DISCONNECTED, FAILED, CLOSED = IceState

TRANSITIONS: Final[Mapping[tuple[IceState, On], IceState]] = {
    (NEW, On.CREDENTIALS): CHECKING,
    (CHECKING, On.SELECTED): CONNECTED,
    (CHECKING, On.LOST): FAILED,
    (CONNECTED, On.SELECTED): CONNECTED,
    (CONNECTED, On.SILENT): DISCONNECTED,
    (CONNECTED, On.LOST): FAILED,
    (DISCONNECTED, On.HEARD): CONNECTED,
    (DISCONNECTED, On.SELECTED): CONNECTED,
    (DISCONNECTED, On.LOST): FAILED,
    # A restart leaves the old pair in use, as long as there is one (RFC 8445, section 9).
    (NEW, On.RESTART): NEW,
    (CHECKING, On.RESTART): NEW,
    (FAILED, On.RESTART): NEW,
    (CONNECTED, On.RESTART): CONNECTED,
    (CONNECTED, On.CREDENTIALS): CONNECTED,
    (CONNECTED, On.PATH_LOST): CHECKING,
    (DISCONNECTED, On.RESTART): DISCONNECTED,
    (DISCONNECTED, On.CREDENTIALS): DISCONNECTED,
    (DISCONNECTED, On.PATH_LOST): CHECKING,
    # The old pair died before the answer to our restart came.
    (FAILED, On.CREDENTIALS): CHECKING,
    **{(state, On.CLOSE): CLOSED for state in IceState},
}


def after(state: IceState, on: On) -> IceState:
    """The next state; UsageError if `on` may not happen in `state`."""
    try:
        return TRANSITIONS[state, on]
    except KeyError:
        raise UsageError(f"ice: {on.name} is not allowed in {state.name}") from None
