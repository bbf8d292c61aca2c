"""Tells an application's backend what happens in its rooms, by signed HTTP requests (docs/webhooks.md)."""
