"""Where a running server is, and what lets its owner's clients in."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from triosfu import tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from triosfu.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Reachable:
    """What every server has, whatever it is made of."""

    config: Config
    port: int
    _keys: Mapping[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        """The URL that LiveKit clients connect to."""
        host = self.config.bind_addresses[0]
        if host in {"0.0.0.0", "::"}:  # noqa: S104  compared, not bound
            host = "127.0.0.1"
        return f"ws://[{host}]:{self.port}" if ":" in host else f"ws://{host}:{self.port}"

    @property
    def http_url(self) -> str:
        """The same for the server API and for browsers."""
        return "http" + self.url.removeprefix("ws")

    def create_token(
        self,
        *,
        identity: str,
        room: str,
        name: str = "",
        ttl: float = tokens.DEFAULT_TTL,
        video: tokens.VideoGrant | None = None,
        metadata: str = "",
        attributes: Mapping[str, str] | None = None,
        kind: str = "standard",
    ) -> str:
        """An access token for `identity` to join `room`, valid for `ttl` seconds; `video` replaces the usual grants."""
        key, secret = next(iter(self._keys.items()))
        return tokens.create_token(
            key,
            secret,
            now=time.time(),
            identity=identity,
            room=room,
            name=name,
            ttl=ttl,
            video=video,
            metadata=metadata,
            attributes=attributes,
            kind=kind,
        )


def nothing(server: Reachable) -> None:
    """Do what there is to do before a server answers anybody, if its owner does not say."""
