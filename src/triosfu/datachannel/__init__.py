"""WebRTC data channels over SCTP (RFC 8831, RFC 8832), as a sans-IO core."""
