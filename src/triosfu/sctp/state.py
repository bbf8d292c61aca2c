"""The states of an association and all the ways between them (RFC 9260, section 4)."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(Enum):
    """Where an association is. CLOSED has not begun, ENDED is over for good."""

    CLOSED = auto()
    COOKIE_WAIT = auto()
    COOKIE_ECHOED = auto()
    ESTABLISHED = auto()
    SHUTDOWN_PENDING = auto()
    SHUTDOWN_SENT = auto()
    SHUTDOWN_RECEIVED = auto()
    SHUTDOWN_ACK_SENT = auto()
    ENDED = auto()

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a call into Python for each look-up


class On(Enum):
    """What moves an association from one state to another."""

    ASSOCIATE = auto()  # our user wants an association
    INIT_ACK = auto()
    COOKIE_ECHO = auto()  # a valid one: the peer has proven that it hears us
    COOKIE_ACK = auto()
    STALE_COOKIE = auto()  # the peer wants a fresh INIT
    SHUT_DOWN = auto()  # our user wants to end gracefully
    DRAINED = auto()  # everything sent is acknowledged
    SHUTDOWN = auto()
    SHUTDOWN_ACK = auto()
    SHUTDOWN_COMPLETE = auto()
    RESTART = auto()
    END = auto()  # ABORT, either way; a timer that gave up


TRANSITIONS: Mapping[tuple[State, On], State] = {
    (State.CLOSED, On.ASSOCIATE): State.COOKIE_WAIT,
    (State.CLOSED, On.COOKIE_ECHO): State.ESTABLISHED,
    (State.COOKIE_WAIT, On.INIT_ACK): State.COOKIE_ECHOED,
    (State.COOKIE_WAIT, On.COOKIE_ECHO): State.ESTABLISHED,
    (State.COOKIE_ECHOED, On.COOKIE_ECHO): State.ESTABLISHED,
    (State.COOKIE_ECHOED, On.COOKIE_ACK): State.ESTABLISHED,
    (State.COOKIE_ECHOED, On.STALE_COOKIE): State.COOKIE_WAIT,
    (State.ESTABLISHED, On.SHUT_DOWN): State.SHUTDOWN_PENDING,
    (State.SHUTDOWN_PENDING, On.DRAINED): State.SHUTDOWN_SENT,
    (State.ESTABLISHED, On.SHUTDOWN): State.SHUTDOWN_RECEIVED,
    (State.SHUTDOWN_PENDING, On.SHUTDOWN): State.SHUTDOWN_RECEIVED,
    (State.SHUTDOWN_SENT, On.SHUTDOWN): State.SHUTDOWN_ACK_SENT,  # both shut down at once
    (State.SHUTDOWN_RECEIVED, On.DRAINED): State.SHUTDOWN_ACK_SENT,
    (State.SHUTDOWN_SENT, On.SHUTDOWN_ACK): State.ENDED,
    (State.SHUTDOWN_ACK_SENT, On.SHUTDOWN_ACK): State.ENDED,
    (State.SHUTDOWN_ACK_SENT, On.SHUTDOWN_COMPLETE): State.ENDED,
    # The peer lost its state and came back (RFC 9260, section 5.2.4, case A).
    (State.ESTABLISHED, On.RESTART): State.ESTABLISHED,
    (State.SHUTDOWN_PENDING, On.RESTART): State.ESTABLISHED,
    (State.SHUTDOWN_SENT, On.RESTART): State.ESTABLISHED,
    (State.SHUTDOWN_RECEIVED, On.RESTART): State.ESTABLISHED,
    **{(state, On.END): State.ENDED for state in State if state is not State.ENDED},
}

OPENING = frozenset({State.CLOSED, State.COOKIE_WAIT, State.COOKIE_ECHOED})
MAY_SEND_DATA = frozenset({State.ESTABLISHED, State.SHUTDOWN_PENDING, State.SHUTDOWN_RECEIVED})
MAY_RECEIVE_DATA = frozenset({State.ESTABLISHED, State.SHUTDOWN_PENDING, State.SHUTDOWN_SENT})
DRAINING = frozenset({State.SHUTDOWN_PENDING, State.SHUTDOWN_RECEIVED})
