"""Session descriptions and the offer/answer core (RFC 8866, RFC 8829), with LiveKit's rules; sans-IO."""
