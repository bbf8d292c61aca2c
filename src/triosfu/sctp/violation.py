"""What an association does not survive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.errors import PeerError

if TYPE_CHECKING:
    from triosfu.sctp.parameters import CauseCode


class Violation(PeerError):
    """What the peer sent cannot be: the association is to be aborted with this cause."""

    def __init__(self, cause: CauseCode, text: str) -> None:
        super().__init__(f"sctp: {text}")
        self.cause = cause
