"""The browser and the system that a page's client does not name itself, by its User-Agent header.

livekit-client leaves that to the server (protocol reference, section 3.1). Only those are told apart of which something
follows (`triosfu.rooms.devices`); all others stay without a name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from livekit.protocol import models

if TYPE_CHECKING:
    from collections.abc import Iterable

SDK = models.ClientInfo.SDK
# Only of these is a User-Agent that of a browser.
PAGES: Final = frozenset({SDK.UNKNOWN, SDK.JS, SDK.REACT_NATIVE, SDK.FLUTTER, SDK.UNITY})
LONGEST: Final = 512  # characters that are looked at

# The first that matches counts. Each engine says that it is some other one as well: Chrome, and all that is made of it,
# says Safari, which alone says Version and Safari and none of theirs; on a phone it says Mobile.
BROWSERS: Final = (
    ("Firefox Mobile", re.compile(r"\b(?:Mobile|Tablet);.* Firefox/([\d.]+)")),
    ("Firefox", re.compile(r" Firefox/([\d.]+)")),
    ("", re.compile(r"(?:Chrom|CriOS|FxiOS|Edg|OPR/|OPT/)()")),
    ("Mobile Safari", re.compile(r" Version/([\d.]+) Mobile/\S+ Safari/")),
    ("Safari", re.compile(r" Version/([\d.]+) Safari/")),
)
SYSTEMS: Final = (
    ("Android", re.compile(r"\bAndroid()\b")),
    ("Linux", re.compile(r"\bLinux()\b")),
    ("iOS", re.compile(r"\((?:iPhone|iPad|iPod)()")),
    ("Mac OS X", re.compile(r"\bMac OS X()\b")),
    ("Windows", re.compile(r"\bWindows()\b")),
)


def fill_in(client: models.ClientInfo, user_agent: str) -> None:
    """Name what `client` leaves open, as its `user_agent` says; what it says itself stays."""
    if client.sdk not in PAGES:
        return
    text = user_agent[:LONGEST]
    if not client.browser:
        client.browser, client.browser_version = _first(BROWSERS, text)
    if not client.os:
        client.os, _ = _first(SYSTEMS, text)


def _first(patterns: Iterable[tuple[str, re.Pattern[str]]], text: str) -> tuple[str, str]:
    return next(((name, found[1]) for name, pattern in patterns if (found := pattern.search(text))), ("", ""))
