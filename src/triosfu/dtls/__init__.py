"""DTLS 1.2 for WebRTC: identity by fingerprint, keys for SRTP, datagrams for SCTP (RFC 6347, 5764, 8827)."""

from __future__ import annotations

from triosfu.dtls.certificate import Certificate
from triosfu.dtls.core import ApplicationData, Closed, Connected, DtlsConnection, Fingerprint, Role

__all__ = ["ApplicationData", "Certificate", "Closed", "Connected", "DtlsConnection", "Fingerprint", "Role"]
