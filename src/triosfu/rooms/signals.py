"""What rooms need of a signalling connection, and the replies that several modules send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from livekit.protocol import rtc

if TYPE_CHECKING:
    from livekit.protocol import models

RequestReason = rtc.RequestResponse.Reason
LeaveAction = rtc.LeaveRequest.Action


class SignalLink(Protocol):
    """One client's signalling connection, as its participant sees it: synchronous, bounded, never raising."""

    def send(self, message: rtc.SignalResponse) -> None:
        """Queue `message`; when the client does not read, the link ends itself and the participant is told."""

    def close(self, code: int = 1000) -> None:
        """Send what is queued, briefly, then close with the WebSocket `code`; `participant.link_lost` is not called."""


def leave(action: rtc.LeaveRequest.Action, reason: models.DisconnectReason) -> rtc.SignalResponse:
    """Return the message that ends a session, or asks the client to come back (section 3.9)."""
    can_reconnect = action != LeaveAction.DISCONNECT
    return rtc.SignalResponse(leave=rtc.LeaveRequest(action=action, reason=reason, can_reconnect=can_reconnect))
