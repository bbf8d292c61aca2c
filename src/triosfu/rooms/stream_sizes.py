"""How large the text and byte streams are that participants send each other, and to how many.

What a stream says of itself is anybody's text: it is sorted into a few known types before it is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from triosfu.histogram import Histogram

if TYPE_CHECKING:
    from livekit.protocol import models

DESTINATIONS: Final = (1, 2, 3, 4, 5, 10, 15, 25, 50)
BYTES: Final = (128, 512, 2048, 8192, 32_768, 131_072, 524_288, 2_097_152, 8_388_608, 33_554_432)
TYPES: Final = {"text_header": "text", "byte_header": "bytes"}
MIMES: Final = frozenset({"text", "image", "application", "audio", "video"})
UNKNOWN: Final = "unknown"


class StreamKind(NamedTuple):
    """Which streams a count is of; there are eighteen at most."""

    type: str
    mime_type: str


class StreamSizes:
    """Counts the streams of one server, by their headers."""

    def __init__(self) -> None:
        self.destinations: dict[StreamKind, Histogram] = {}
        self.bytes: dict[StreamKind, Histogram] = {}

    def opened(self, header: models.DataStream.Header, destinations: int) -> None:
        """A stream begins, for so many named participants; 0 is for all."""
        mime = header.mime_type.partition("/")[0].lower()
        named = TYPES.get(header.WhichOneof("content_header") or "", UNKNOWN)
        kind = StreamKind(named, mime if mime in MIMES else UNKNOWN)
        self.destinations.setdefault(kind, Histogram(DESTINATIONS)).observe(destinations)
        if header.HasField("total_length"):
            self.bytes.setdefault(kind, Histogram(BYTES)).observe(header.total_length)
