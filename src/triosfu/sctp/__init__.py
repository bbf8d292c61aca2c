"""SCTP over DTLS for WebRTC data channels (RFC 9260, 8261, 8831), as a sans-IO core."""
