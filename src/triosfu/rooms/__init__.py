"""Rooms: participants, publications, subscriptions, permissions, data; everything between signalling and media."""
