"""triosfu: a WebRTC SFU that LiveKit clients use unchanged and that cannot wedge."""

__version__ = "0.1.0"
