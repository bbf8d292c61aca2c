"""The demo page of development mode: static files, and tokens for whoever asks, because everybody is the developer."""

from __future__ import annotations

import time
from importlib import resources
from typing import TYPE_CHECKING

from triosfu.net.http import Request, Response
from triosfu.tokens import VideoGrant, create_token

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES = {
    "/demo": ("index.html", "text/html; charset=utf-8"),
    "/demo/": ("index.html", "text/html; charset=utf-8"),
    "/demo/demo.css": ("demo.css", "text/css; charset=utf-8"),
    "/demo/demo.js": ("demo.js", "text/javascript; charset=utf-8"),
    "/demo/session.js": ("session.js", "text/javascript; charset=utf-8"),
    "/demo/packets.js": ("packets.js", "text/javascript; charset=utf-8"),
}
MAX_NAME = 256


class Demo:
    """Answers requests below `/demo`."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._key, self._secret = next(iter(keys.items()))
        folder = resources.files(__package__) / "demo"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    def respond(self, request: Request) -> Response | None:
        """The answer to `request`, or None where there is no such page."""
        if request.method not in {"GET", "HEAD"}:
            return None
        if request.path == "/demo/token":
            return self._token(request)
        if request.path not in self._files:
            return None
        body, kind = self._files[request.path]
        return Response(200, body, (("Content-Type", kind), ("Cache-Control", "no-store")))

    def _token(self, request: Request) -> Response:
        room, identity = request.get("room") or "", request.get("identity") or ""
        if not 0 < len(room) <= MAX_NAME or not 0 < len(identity) <= MAX_NAME:
            return Response.text(400, "room and identity are needed")
        grant = VideoGrant(room_join=True, room=room)
        return Response.text(
            200, create_token(self._key, self._secret, now=time.time(), identity=identity, video=grant)
        )
