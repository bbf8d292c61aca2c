"""Requests and answers of the server API as bytes: protobuf, or JSON as LiveKit writes it (section 8.1, trap 50)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from triosfu.api.errors import JSON, TwirpError

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOBUF: Final = "application/protobuf"
BAD_JSON: Final = "the json request could not be decoded"
OBJECT: Final = re.compile(rb"[ \t\r\n]*\{")
M = TypeVar("M", bound=Message)


def content_type(header: str) -> str:
    """What a Content-Type says, without its parameters."""
    return header.partition(";")[0].strip().lower()


def parse(kind: type[M], body: bytes, content: str) -> M:
    """Read a request; `content` is `JSON` or `PROTOBUF`.

    Raises:
        TwirpError: It cannot be decoded.
    """
    return _parse_json(kind, body) if content == JSON else _parse_protobuf(kind, body)


def serialize(message: Message, content: str) -> bytes:
    """Write an answer in the form that its request came in."""
    if content != JSON:
        return message.SerializeToString()
    return json.dumps(as_json(message), ensure_ascii=False, separators=(",", ":")).encode()


def as_json(message: Message) -> dict[str, Any]:
    """The message as Go's servers write it: snake_case, defaults spelled out, null for a message that is not set."""
    written = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _add_nulls(message, written)
    return written


def _add_nulls(message: Message, written: dict[str, Any]) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None or (field.message_type.GetOptions().map_entry):
            continue
        value = written.get(field.name)
        if field.is_repeated:
            for one, inner in zip(getattr(message, field.name), value or (), strict=False):
                if isinstance(inner, dict):
                    _add_nulls(one, inner)
        elif message.HasField(field.name):
            if isinstance(value, dict):
                _add_nulls(getattr(message, field.name), value)
        elif field.containing_oneof is None:
            written[field.name] = None


def _parse_json(kind: type[M], body: bytes) -> M:
    if not OBJECT.match(body):  # the library would take some lists and texts for a message that says nothing
        raise TwirpError("malformed", BAD_JSON)
    try:
        return json_format.Parse(body, kind(), ignore_unknown_fields=True)
    # The library lets some mistakes through as what Python calls them: half a surrogate pair, nesting without end.
    except (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise TwirpError("malformed", BAD_JSON) from None


def _parse_protobuf(kind: type[M], body: bytes) -> M:
    message = kind()
    read: Callable[[bytes], int] = message.ParseFromString
    try:
        read(body)
    except DecodeError:
        raise TwirpError("malformed", "the protobuf request could not be decoded") from None
    return message
