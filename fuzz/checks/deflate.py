"""Checks of what strangers offer as permessage-deflate, and of what they then send compressed."""

from __future__ import annotations

import re

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from triosfu.net.deflate import MAX_OFFERS, Deflate

MOST = 10_000  # bytes that a message may inflate to
ANSWER = re.compile(
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover(?:; server_max_window_bits=(9|1[0-4]))?"
)


def check_deflate_offers(data: bytes) -> None:
    """Any header field is declined, or answered with parameters that it asked for."""
    offers = data.decode("latin-1")
    deflate = Deflate.accept_one_of(offers, most=MOST)
    if deflate is None:
        return
    answered = ANSWER.fullmatch(deflate.answer)
    assert answered
    assert "permessage-deflate" in offers
    assert len(offers) <= MAX_OFFERS
    assert answered[1] is None or re.search(rf'server_max_window_bits\s*=\s*"?{answered[1]}', offers)


def check_deflated_frames(data: bytes, piece: int = 1 << 16) -> None:
    """Any frames of one who may compress end its connection at worst, and no message is larger than it may be."""
    connection = Connection(ConnectionType.SERVER, [Deflate(most=MOST)])
    size = 0
    for start in range(0, len(data), piece):
        connection.receive_data(data[start : start + piece])
        for event in connection.events():
            if isinstance(event, CloseConnection):
                return
            if isinstance(event, BytesMessage | TextMessage):
                size += len(event.data)
                # What is not compressed is bounded by those who put the pieces together.
                assert size <= MOST + len(data)
                if event.message_finished:
                    size = 0
