"""Twirp's error codes, with the HTTP status of each."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from triosfu.errors import TriosfuError
from triosfu.net.http import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON: Final = "application/json"
STATUS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "canceled": 408,
        "unknown": 500,
        "invalid_argument": 400,
        "malformed": 400,
        "deadline_exceeded": 408,
        "not_found": 404,
        "bad_route": 404,
        "already_exists": 409,
        "permission_denied": 403,
        "unauthenticated": 401,
        "resource_exhausted": 429,
        "failed_precondition": 412,
        "aborted": 409,
        "out_of_range": 400,
        "unimplemented": 501,
        "internal": 500,
        "unavailable": 503,
        "data_loss": 500,
    }
)


class TwirpError(TriosfuError):
    """A call that is answered with an error: one of the codes in `STATUS`, and a text."""

    def __init__(self, code: str, text: str, meta: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.meta = dict(meta or {})

    def response(self) -> Response:
        """The answer: JSON, whatever the request was written in."""
        body: dict[str, object] = {"code": self.code, "msg": self.text}
        if self.meta:
            body["meta"] = self.meta
        return Response(STATUS[self.code], json.dumps(body).encode(), [("Content-Type", JSON)])


def bad_route(text: str, method: str, path: str) -> TwirpError:
    """Nothing is served where this request went."""
    return TwirpError("bad_route", text, {"twirp_invalid_route": f"{method} {path}"})
