"""Checks of what an application's backend, or who stole its token, sends as the body of a call."""

from __future__ import annotations

import json

from google.protobuf.message_factory import GetMessageClass
from livekit.protocol import agent_dispatch, room

from triosfu.api.errors import JSON, TwirpError
from triosfu.api.messages import PROTOBUF, parse, serialize

METHODS = [
    *room.DESCRIPTOR.services_by_name["RoomService"].methods_by_name.values(),
    *agent_dispatch.DESCRIPTOR.services_by_name["AgentDispatchService"].methods_by_name.values(),
]


def check_api_body(data: bytes) -> None:
    """Any bytes are malformed or a request, of whichever call; a request is the same after it was written and read."""
    if len(data) < 2:
        return
    kind = GetMessageClass(METHODS[data[0] % len(METHODS)].input_type)
    content = PROTOBUF if data[1] % 2 else JSON
    try:
        message = parse(kind, data[2:], content)
    except TwirpError as error:
        assert error.code == "malformed"  # noqa: PT017  the other outcome is a message
        return
    written = serialize(message, JSON)
    json.loads(written)
    message.DiscardUnknownFields()
    again = parse(kind, written, JSON)
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)
    assert parse(kind, serialize(message, PROTOBUF), PROTOBUF).SerializeToString(deterministic=True) == (
        message.SerializeToString(deterministic=True)
    )
