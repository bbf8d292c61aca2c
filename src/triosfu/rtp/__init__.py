"""RTP and RTCP: wire formats only (RFC 3550, 4585, 4588, 5104, 5506, 8285). No sockets, no state, no clock."""
