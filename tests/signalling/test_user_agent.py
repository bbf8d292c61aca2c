"""What a browser is, by the header that it sends: livekit-client says nothing of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models

from triosfu.signalling.user_agent import LONGEST, fill_in

SDK = models.ClientInfo.SDK
WEBKIT = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
MAC, IPHONE = "(Macintosh; Intel Mac OS X 10_15_7)", "(iPhone; CPU iPhone OS 18_4 like Mac OS X)"
CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0"
CASES = [
    ("(X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0", ("Firefox", "143.0", "Linux")),
    ("(X11; Ubuntu; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0", ("Firefox", "143.0", "Linux")),
    ("(Android 15; Mobile; rv:143.0) Gecko/143.0 Firefox/143.0", ("Firefox Mobile", "143.0", "Android")),
    ("(Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0", ("Firefox", "143.0", "Windows")),
    (f"{MAC} {WEBKIT} Version/18.4 Safari/605.1.15", ("Safari", "18.4", "Mac OS X")),
    (f"{IPHONE} {WEBKIT} Version/18.4 Mobile/15E148 Safari/604.1", ("Mobile Safari", "18.4", "iOS")),
    (f"{IPHONE} {WEBKIT} FxiOS/143.0 Mobile/15E148 Safari/605.1.15", ("", "", "iOS")),
    (f"{MAC} {CHROME} Safari/537.36", ("", "", "Mac OS X")),
    (f"(Linux; Android 15; wv) {WEBKIT} Version/4.0 Chrome/140.0.0.0 Mobile Safari/537.36", ("", "", "Android")),
    ("", ("", "", "")),
]


def named(client: models.ClientInfo) -> tuple[str, str, str]:
    return client.browser, client.browser_version, client.os


@pytest.mark.parametrize(("agent", "expected"), CASES)
def test_browsers_are_known_by_their_header(agent: str, expected: tuple[str, str, str]) -> None:
    client = models.ClientInfo(sdk=SDK.JS)
    fill_in(client, f"Mozilla/5.0 {agent}")
    assert named(client) == expected


def test_what_a_client_says_itself_stays() -> None:
    agent, _ = CASES[0]
    for said, expected in (
        (models.ClientInfo(sdk=SDK.JS, browser="Opera", browser_version="1"), ("Opera", "1", "Linux")),
        (models.ClientInfo(sdk=SDK.JS, os="Plan 9"), ("Firefox", "143.0", "Plan 9")),
        (models.ClientInfo(sdk=SDK.PYTHON), ("", "", "")),
    ):
        fill_in(said, agent)
        assert named(said) == expected


@given(st.text())
def test_any_header_names_no_more_than_it_has(agent: str) -> None:
    client = models.ClientInfo()
    fill_in(client, agent)
    assert len(client.browser_version) <= LONGEST
