"""One client's signalling connection: messages out, in the format that the client speaks, and its end noticed once.

A participant is admitted before the connection becomes a WebSocket, so that a refusal can be an HTTP answer. What it
says until then waits here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.signalling.codec import encode

if TYPE_CHECKING:
    from collections import Counter

    from livekit.protocol import rtc

    from triosfu.net.websocket import WebSocket

MAX_WAITING = 1024  # messages before the socket is open; what a join says is a few dozen


class SocketLink:
    """A `SignalLink` over a WebSocket."""

    def __init__(self, counters: Counter[str], *, text: bool = False) -> None:
        """Say nothing yet; `responses`, and `responses_lost` on a socket that is over or full, are counted."""
        self.text = text  # whether the client's last frame was a text frame, or it asked for text from the start
        self.overflowed = False
        self._counters = counters
        self._socket: WebSocket | None = None
        self._waiting: list[rtc.SignalResponse] = []
        self._closed: int | None = None  # with which code, once asked for

    def open(self, socket: WebSocket) -> None:
        """The client's WebSocket is there: say what waits."""
        self._socket = socket
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self._say(socket, message)
        if self._closed is not None:
            socket.close(self._closed)

    def send(self, message: rtc.SignalResponse) -> None:
        """Queue `message`. A client that does not read loses the connection; its session loop then tells."""
        if self._closed is not None:
            return
        if self._socket is not None:
            self._say(self._socket, message)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(message)
        else:
            self.overflowed = True
            self.close(1013)

    def _say(self, socket: WebSocket, message: rtc.SignalResponse) -> None:
        # False: the socket is over, or too full and closed itself for it. Its reader finds out at once.
        sent = socket.send_nowait(encode(message, text=self.text))
        self._counters["responses" if sent else "responses_lost"] += 1

    def close(self, code: int = 1000) -> None:
        """Send what is queued, briefly, then close with `code`."""
        if self._closed is None:
            self._closed = code
            if self._socket is not None:
                self._socket.close(code)
