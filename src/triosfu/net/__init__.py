"""Sockets: the UDP mux with its batches, and the connections of HTTP and WebSocket."""
