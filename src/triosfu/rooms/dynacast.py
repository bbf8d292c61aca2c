"""Tells a publisher which layers anybody wants, so that it encodes no others (protocol reference, section 4.7).

Sans-IO: wishes and time in, messages out. An upgrade is told at once, a downgrade when it has lasted five seconds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

if TYPE_CHECKING:
    from collections.abc import Hashable

OFF = -1
HIGH = int(models.VideoQuality.HIGH)
LADDER = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)


class Dynacast:
    """The highest quality that the subscribers of one track want, per codec."""

    def __init__(self, track_sid: str, *, now: float, downgrade_delay: float, first_off_delay: float) -> None:
        self._sid = track_sid
        self._delay = downgrade_delay
        self._not_off_before = now + first_off_delay  # a fresh track is not shut before anyone can subscribe
        self._wishes: dict[Hashable, tuple[str, int]] = {}  # subscriber -> (codec, quality)
        self._told: dict[str, int] = {}
        self._codecs: list[str] = []
        self._downgrade_at = math.inf
        self._muted = False

    def set_codecs(self, codecs: list[str], now: float) -> rtc.SignalResponse | None:
        """Name the codecs of the track, bare and in lower case, the primary one first.

        From now on they may be shut, even if nobody ever wishes for one.
        """
        self._codecs = list(codecs)
        return self._look(now)

    def wish(self, subscriber: Hashable, codec: str, quality: int, now: float) -> rtc.SignalResponse | None:
        """Note that `subscriber` wants `quality` of `codec`, or OFF; return what the publisher is to be told now."""
        self._wishes[subscriber] = (codec, quality)
        return self._look(now)

    def forget(self, subscriber: Hashable, now: float) -> rtc.SignalResponse | None:
        """Note that `subscriber` is gone."""
        self._wishes.pop(subscriber, None)
        return self._look(now)

    def mute(self, muted: bool, now: float) -> rtc.SignalResponse | None:  # noqa: FBT001  a state, not an option
        """While muted nothing is told; when that ends everything is told anew."""
        if muted == self._muted:
            return None
        self._muted = muted
        if muted:
            return None
        self._told.clear()
        return self._look(now)

    def expected(self, codec: str) -> int:
        """Return the highest quality of `codec` that the publisher sends: what it was told, HIGH before."""
        return self._told.get(codec, HIGH)

    def next_timeout(self) -> float:
        """Return when a downgrade is due."""
        return self._downgrade_at

    def handle_timeout(self, now: float) -> rtc.SignalResponse | None:
        """Tell a downgrade that has lasted."""
        if now < self._downgrade_at:
            return None
        self._downgrade_at = math.inf
        wanted = self._wanted()
        if wanted == self._told:
            return None
        if self._is_early(wanted, now):
            self._downgrade_at = self._not_off_before
            return None
        return self._tell()

    def _is_early(self, wanted: dict[str, int], now: float) -> bool:
        """Whether `wanted` would shut a track that nobody had the time to subscribe to."""
        return now < self._not_off_before and all(quality == OFF for quality in wanted.values())

    def _wanted(self) -> dict[str, int]:
        wanted = dict.fromkeys(self._codecs, OFF)
        for codec, quality in self._wishes.values():
            if codec in wanted:
                wanted[codec] = max(wanted[codec], quality)
        return wanted

    def _look(self, now: float) -> rtc.SignalResponse | None:
        if self._muted or not self._codecs:
            return None
        wanted = self._wanted()
        if wanted == self._told:
            self._downgrade_at = math.inf
            return None
        if any(quality > self._told.get(codec, OFF) for codec, quality in wanted.items()):
            return self._tell()
        # Publishers start with every layer on, so the first OFF is a downgrade as well.
        self._downgrade_at = min(self._downgrade_at, now + self._delay)
        return None

    def _tell(self) -> rtc.SignalResponse:
        self._told = self._wanted()
        self._downgrade_at = math.inf
        codecs = [rtc.SubscribedCodec(codec=codec, qualities=_ladder(quality)) for codec, quality in self._told.items()]
        return rtc.SignalResponse(
            subscribed_quality_update=rtc.SubscribedQualityUpdate(
                track_sid=self._sid,
                subscribed_codecs=codecs,
                subscribed_qualities=codecs[0].qualities if codecs else [],  # what older clients read
            )
        )


def bare(mime: str) -> str:
    """`video/VP8` as it is called here: `vp8` (trap 45)."""
    return mime.rpartition("/")[2].lower()


def _ladder(highest: int) -> list[rtc.SubscribedQuality]:
    return [rtc.SubscribedQuality(quality=quality, enabled=int(quality) <= highest) for quality in LADDER]
