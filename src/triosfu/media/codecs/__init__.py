"""What a forwarder must know of a payload: where keyframes begin, which layer a packet is of, what to renumber.

One module per payload format. A parser is total (any bytes give a value or `MalformedPacket`); an inspector never
raises: what it cannot read is forwarded as an ordinary packet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.media.codecs.av1 import DEPENDENCY_DESCRIPTOR, inspect_av1, with_dependency_descriptor
from triosfu.media.codecs.h264 import inspect_h264
from triosfu.media.codecs.h265 import inspect_h265
from triosfu.media.codecs.vp8 import inspect_vp8
from triosfu.media.codecs.vp9 import inspect_vp9

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from triosfu.rtp.wire import RtpPacket

__all__ = ["DEPENDENCY_DESCRIPTOR", "inspect_for", "inspect_nothing", "inspect_vp8", "inspects_with_memory"]

INSPECTORS: dict[str, Callable[[RtpPacket], None]] = {
    "video/vp8": inspect_vp8,
    "video/vp9": inspect_vp9,
    "video/h264": inspect_h264,
    "video/h265": inspect_h265,
}


def inspect_for(mime: str, extension_ids: Mapping[str, int] | None = None) -> Callable[[RtpPacket], None]:
    """A function that fills `keyframe`, `temporal` and `descriptor` of each packet of one track; it never raises.

    Make one per track: the one for AV1 remembers the structure that keyframes announce. It needs `extension_ids`, the
    publisher's identifier of the dependency descriptor (looked up for each packet, so the mapping may be filled later).
    """
    mime = mime.lower()
    if mime == "video/av1":
        return inspect_av1 if extension_ids is None else with_dependency_descriptor(extension_ids)
    return INSPECTORS.get(mime, inspect_nothing)


def inspects_with_memory(mime: str) -> bool:
    """Whether what the inspector finds in a packet depends on those before, so that no packet is read a second time."""
    return mime.lower() == "video/av1"


def inspect_nothing(packet: RtpPacket) -> None:
    """Audio: every packet stands alone."""
