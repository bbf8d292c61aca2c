"""What a server says of itself to Prometheus: LiveKit's names for what LiveKit has, our own beside them."""
