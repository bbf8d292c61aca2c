"""Signalling: the LiveKit client protocol over WebSocket, and the sessions that it carries."""
