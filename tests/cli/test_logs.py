from __future__ import annotations

import io
import json
import logging

import pytest

from triosfu import logs


def logged(level: str, *, as_json: bool = True) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level=level, json=as_json, stream=stream)
    return stream


def test_each_event_is_one_json_object() -> None:
    stream = logged("info")
    logs.log.info("participant.joined", room="demo")
    logs.log.debug("too.quiet")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["room"], event["level"]) == ("participant.joined", "demo", "info")


def test_addresses_are_shown_at_debug_only_and_secrets_never() -> None:
    for level, shown in (("info", False), ("debug", True)):
        stream = logged(level)
        logs.log.info("peer.connected", address="192.0.2.7:5", token="eyJhbGc", secret="hush")
        assert ("192.0.2.7" in stream.getvalue()) is shown
        assert "eyJhbGc" not in stream.getvalue()
        assert "hush" not in stream.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_does_not_show_local_variables(as_json: bool) -> None:
    stream = logged("info", as_json=as_json)
    token = "eyJhbGc".upper()
    try:
        int(f"not {len(token)}")
    except ValueError:
        logs.log.exception("handler.failed")
    assert "not 7" in stream.getvalue()
    assert "EYJHBGC" not in stream.getvalue()


def test_what_libraries_log_comes_along_from_warnings_up() -> None:
    stream = logged("info")
    logging.getLogger("trio.serve_listeners").error("accept returned %s", "EMFILE")
    logging.getLogger("trio-websocket").info("chatter")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["level"]) == ("accept returned EMFILE", "error")


def test_text_is_for_people() -> None:
    stream = logged("warning", as_json=False)
    logs.log.warning("keys.short_secret", key="APIx")
    assert "keys.short_secret" in stream.getvalue()
    assert "key=APIx" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
