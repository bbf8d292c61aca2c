"""What clients are told of their devices, and that their tracks are announced accordingly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from livekit.protocol import models

from tests.rooms.test_lifetimes import Ear, running
from triosfu.rooms.devices import client_configuration, may_publish, negotiable
from triosfu.rooms.joining import Applicant, JoinOptions
from triosfu.sdp.policy import MediaPolicy

if TYPE_CHECKING:
    from trio.testing import MockClock

ALL = ("video/VP8", "video/H264", "video/VP9", "video/AV1", "audio/opus")
CASES = [
    ({"browser": "Chrome", "os": "Linux"}, [], []),
    ({}, [], []),
    ({"browser": "Safari", "browser_version": "17.4"}, ["video/AV1"], []),
    ({"browser": "safari", "browser_version": "18.3"}, ["video/AV1"], []),
    ({"browser": "safari", "browser_version": "18.10.1"}, ["video/AV1"], ["video/VP9"]),
    ({"browser": "safari", "browser_version": "x" * 100}, ["video/AV1"], []),
    ({"browser": "Firefox", "os": "Linux"}, [], ["video/H264"]),
    ({"browser": "firefox mobile", "os": "android"}, [], ["video/H264"]),
    ({"browser": "firefox", "os": "windows"}, [], []),
    ({"device_model": "Xiaomi 2201117TI", "os": "android"}, [], ["video/H264"]),
]


@pytest.mark.parametrize(("client", "neither", "published"), CASES)
def test_devices_are_known_by_what_they_say(client: dict[str, str], neither: list[str], published: list[str]) -> None:
    configuration = client_configuration(models.ClientInfo(**client))  # type: ignore[arg-type]
    assert (configuration is None) is not bool(neither or published)
    if configuration is not None:
        assert [codec.mime for codec in configuration.disabled_codecs.codecs] == neither
        assert [codec.mime for codec in configuration.disabled_codecs.publish] == published
    assert set(ALL) - set(may_publish(configuration, ALL)) == {*neither, *published}
    policy = negotiable(models.ClientInfo(**client), configuration, MediaPolicy(receive=ALL, send=ALL))  # type: ignore[arg-type]
    assert set(ALL) - set(policy.receive) == {*neither, *published}
    assert set(ALL) - set(policy.send) == set(neither)


def test_what_else_browsers_need_of_descriptions() -> None:
    def policy(browser: str, system: str = "") -> MediaPolicy:
        return negotiable(models.ClientInfo(browser=browser, os=system), None, MediaPolicy())

    assert policy("Firefox", "Linux").only_preferred
    assert policy("Firefox Mobile", "Android").only_preferred
    assert not policy("Firefox", "Windows").only_preferred
    assert not policy("Safari").reuse_sections
    assert policy("Chrome", "Linux") == MediaPolicy()


async def test_a_client_is_told_when_it_joins_and_when_it_resumes(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        ear, again = Ear(), Ear()
        client = models.ClientInfo(protocol=17, browser="firefox", os="linux")
        alice = await rooms.join("room", Applicant(identity="alice"), JoinOptions(client=client, single=True), ear)
        join = ear.heard[0].join
        assert "video/H264" not in [codec.mime for codec in join.enabled_publish_codecs]
        assert "video/H264" in [codec.mime for codec in join.room.enabled_codecs]
        assert rooms.resume("room", "alice", JoinOptions(reconnect=True, single=True), again) is alice
        for told in (join.client_configuration, again.heard[0].reconnect.client_configuration):
            assert [codec.mime for codec in told.disabled_codecs.publish] == ["video/H264"]
