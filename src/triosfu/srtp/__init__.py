"""SRTP and SRTCP packet protection (RFC 3711, RFC 7714) on libsrtp."""

from __future__ import annotations

from triosfu.srtp.binding import Pointer, SrtpError
from triosfu.srtp.core import Inbound, Outbound
from triosfu.srtp.profiles import SrtpKeys, SrtpProfile

__all__ = ["Inbound", "Outbound", "Pointer", "SrtpError", "SrtpKeys", "SrtpProfile"]
