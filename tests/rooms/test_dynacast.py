"""What publishers are told about the layers that are wanted (protocol reference, section 4.7)."""

from __future__ import annotations

import math

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from livekit.protocol import models, rtc

from triosfu.rooms.dynacast import OFF, Dynacast

LOW, MEDIUM, HIGH = (int(quality) for quality in models.VideoQuality.values()[:3])


def dynacast(codecs: tuple[str, ...] = ("vp8",)) -> Dynacast:
    made = Dynacast("TR_1", now=0.0, downgrade_delay=5.0, first_off_delay=10.0)
    assert made.set_codecs(list(codecs), 0.0) is None
    return made


def told(message: rtc.SignalResponse | None) -> dict[str, int] | None:
    """The highest enabled quality of each codec."""
    if message is None:
        return None
    update = message.subscribed_quality_update
    return {
        codec.codec: max((int(one.quality) for one in codec.qualities if one.enabled), default=OFF)
        for codec in update.subscribed_codecs
    }


def test_trap_45_bare_names_and_all_three_qualities() -> None:
    message = dynacast().wish("bob", "vp8", MEDIUM, 0.0)
    assert message is not None
    update = message.subscribed_quality_update
    assert [codec.codec for codec in update.subscribed_codecs] == ["vp8"]
    qualities = [(one.quality, one.enabled) for one in update.subscribed_codecs[0].qualities]
    assert qualities == [(LOW, True), (MEDIUM, True), (HIGH, False)]
    assert [(one.quality, one.enabled) for one in update.subscribed_qualities] == qualities


def test_an_upgrade_is_told_at_once_and_a_downgrade_after_five_seconds() -> None:
    cast = dynacast()
    assert told(cast.wish("bob", "vp8", HIGH, 0.0)) == {"vp8": HIGH}
    assert cast.wish("bob", "vp8", LOW, 1.0) is None
    assert cast.next_timeout() == 6.0
    assert cast.handle_timeout(5.9) is None
    assert told(cast.handle_timeout(6.0)) == {"vp8": LOW}
    assert cast.next_timeout() == math.inf
    assert told(cast.wish("carol", "vp8", MEDIUM, 7.0)) == {"vp8": MEDIUM}


def test_a_short_dip_is_not_told() -> None:
    cast = dynacast()
    cast.wish("bob", "vp8", HIGH, 0.0)
    cast.wish("bob", "vp8", LOW, 1.0)
    assert cast.wish("bob", "vp8", HIGH, 2.0) is None
    assert cast.next_timeout() == math.inf


def test_a_fresh_track_is_not_shut_before_ten_seconds() -> None:
    cast = dynacast()
    cast.wish("bob", "vp8", LOW, 0.0)
    cast.wish("bob", "vp8", LOW, 0.1)
    assert cast.forget("bob", 1.0) is None
    assert cast.handle_timeout(6.0) is None
    assert cast.next_timeout() == 10.0
    assert told(cast.handle_timeout(10.0)) == {"vp8": OFF}


def test_a_track_that_nobody_ever_wanted_is_shut_after_ten_seconds() -> None:
    cast = dynacast()
    assert cast.handle_timeout(cast.next_timeout()) is None
    assert cast.next_timeout() == 10.0
    assert told(cast.handle_timeout(10.0)) == {"vp8": OFF}


def test_nothing_is_told_while_muted_and_everything_after() -> None:
    cast = dynacast()
    cast.wish("bob", "vp8", HIGH, 0.0)
    assert cast.mute(True, 1.0) is None
    assert cast.wish("bob", "vp8", LOW, 2.0) is None
    assert told(cast.mute(False, 3.0)) == {"vp8": LOW}


class DynacastMachine(RuleBasedStateMachine):
    """The publisher never sends less than what is wanted, and after a pause not more."""

    def __init__(self) -> None:
        super().__init__()
        self.cast = dynacast(("vp8", "h264"))
        self.now = 0.0
        self.wishes: dict[str, tuple[str, int]] = {}
        self.told = {"vp8": HIGH, "h264": HIGH}
        self.changed = 0.0

    def hear(self, message: rtc.SignalResponse | None) -> None:
        if (news := told(message)) is not None:
            self.told = news

    @rule(who=st.sampled_from("abc"), codec=st.sampled_from(["vp8", "h264"]), quality=st.integers(OFF, HIGH))
    def wish(self, who: str, codec: str, quality: int) -> None:
        self.wishes[who] = (codec, quality)
        self.changed = self.now
        self.hear(self.cast.wish(who, codec, quality, self.now))

    @rule(who=st.sampled_from("abc"))
    def forget(self, who: str) -> None:
        self.wishes.pop(who, None)
        self.changed = self.now
        self.hear(self.cast.forget(who, self.now))

    @rule(seconds=st.integers(0, 6))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        while (due := self.cast.next_timeout()) <= self.now:
            self.hear(self.cast.handle_timeout(due))

    @invariant()
    def enough_is_sent_and_in_the_end_no_more(self) -> None:
        wanted = {"vp8": OFF, "h264": OFF}
        for codec, quality in self.wishes.values():
            wanted[codec] = max(wanted[codec], quality)
        assert all(self.told[codec] >= quality for codec, quality in wanted.items())
        if self.changed and self.now > self.changed + 10:
            assert self.told == wanted


TestDynacast = DynacastMachine.TestCase
