"""Every key of the configuration arrives where it acts; most of what it does there is tested there too."""

from __future__ import annotations

import socket
import sys
from contextlib import AsyncExitStack
from dataclasses import fields, is_dataclass
from random import Random
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest
import structlog
import trio
from livekit.protocol.agent_dispatch import RoomAgentDispatch

import triosfu
from triosfu.config import Config, load_config
from triosfu.errors import ConfigError
from triosfu.media.receiver import ReceiveSettings
from triosfu.rooms.settings import Limits, RoomDefaults, Times
from triosfu.sdp.directions import Setup
from triosfu.sdp.policy import MediaPolicy
from triosfu.server.addresses import media_hosts, open_mux
from triosfu.server.settings import media_policy, room_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where each key arrives: of the rooms' settings, the path and the value for the YAML.
ROOMS: dict[str, tuple[str, str, object]] = {
    "region": ("eu", "region", "eu"),
    "enable_data_tracks": ("false", "data_tracks", False),
    "enable_participant_data_blob": ("true", "data_blobs", True),
    "rtc.packet_buffer_size_video": ("300", "reception.buffer_video", 300),
    "rtc.datachannel_slow_threshold": ("800", "data_slow_threshold", 800),
    "rtc.packet_buffer_size_audio": ("100", "reception.buffer_audio", 100),
    "rtc.pli_throttle.low_quality": ("2s", "reception.keyframe_distance", (2.0, 1.0, 1.0)),
    "rtc.pli_throttle.mid_quality": ("2s", "reception.keyframe_distance", (0.5, 2.0, 1.0)),
    "rtc.pli_throttle.high_quality": ("2s", "reception.keyframe_distance", (0.5, 1.0, 2.0)),
    "rtc.stun_servers": ("[stun.example.org:3478]", "ice_servers.0.urls.0", "stun:stun.example.org:3478"),
    "rtc.turn_servers": (
        "[{host: h, port: 5, protocol: tls, username: u, credential: c}]",
        "ice_servers.0.urls.0",
        "turns:h:5?transport=tcp",
    ),
    "room.auto_create": ("false", "auto_create", False),
    "room.enabled_codecs": ("[{mime: audio/opus}]", "enabled_codecs", ("audio/opus",)),
    "room.max_participants": ("3", "defaults.max_participants", 3),
    "room.empty_timeout": ("4", "defaults.empty_timeout", 4),
    "room.departure_timeout": ("5", "defaults.departure_timeout", 5),
    "room.sync_streams": ("true", "defaults.sync_streams", True),
    "room.enable_remote_unmute": ("true", "remote_unmute", True),
    "room.playout_delay.enabled": ("true", "defaults.playout_delay", (0, 10_000)),
    "room.playout_delay.min": ("200, enabled: true", "defaults.playout_delay", (200, 10_000)),
    "room.playout_delay.max": ("200, enabled: true", "defaults.playout_delay", (0, 200)),
    "audio.active_level": ("30", "reception.levels.active_level", 30),
    "audio.min_percentile": ("50", "reception.levels.min_percentile", 50),
    "audio.update_interval": ("500", "reception.levels.interval", 0.5),
    "audio.smooth_intervals": ("4", "reception.levels.smooth_intervals", 4),
    "video.dynacast_pause_delay": ("7s", "times.dynacast_downgrade", 7.0),
    "video.codec_regression_threshold": ("7", "codec_regression_threshold", 7),
    "limit.num_tracks": ("9", "limits.server_tracks", 9),
    "limit.bytes_per_sec": ("1e6", "limits.bytes_per_second", 1e6),
    "limit.subscription_limit_video": ("8", "limits.subscribed_video", 8),
    "limit.subscription_limit_audio": ("7", "limits.subscribed_audio", 7),
    "limit.max_metadata_size": ("6", "limits.metadata", 6),
    "limit.max_attributes_size": ("5", "limits.attributes", 5),
    "limit.max_data_blobs_size": ("5", "limits.blobs", 5),
    "limit.max_data_blob_key_length": ("4", "limits.blob_key", 4),
    "limit.max_room_name_length": ("4", "limits.room_name", 4),
    "limit.max_participant_identity_length": ("3", "limits.identity", 3),
    "limit.max_participant_name_length": ("2", "limits.name", 2),
}
# Those that act elsewhere: tested below, or where it says.
ELSEWHERE = {
    "port", "bind_addresses", "keys", "development",  # tests/cli/test_run.py
    "rtc.udp_port", "rtc.node_ip", "rtc.use_ice_lite", "rtc.tcp_port", "rtc.force_tcp", "rtc.enable_loopback_candidate",
    "rtc.interfaces.includes", "rtc.interfaces.excludes", "rtc.ips.includes", "rtc.ips.excludes",
    "limit.signal_message_size_limit", "limit.max_api_request_body_size",
    "logging.level", "logging.json",
    "agents.target_load", "agents.enable_user_data_recording", "agents.enable_user_data_redaction",
    "limit.agent_signal_message_size_limit",  # these four in tests/agents/test_workers.py
    "room.room_configurations",
    "prometheus.port", "prometheus.username", "prometheus.password",  # tests/metrics/test_page.py
    "webhook.api_key", "webhook.urls",  # these six in tests/webhooks/test_call.py
    "webhook.filter_params.include_events", "webhook.filter_params.exclude_events",
    "workers",  # tests/cluster/
    "rtc.congestion_control.use_send_side_bwe",  # tests/clients/test_feedback.py
    "webhook.resource_url_notifier.max_age", "webhook.resource_url_notifier.max_depth",
}  # fmt: skip
LOOPBACK = "development: true\nport: 0\nbind_addresses: [127.0.0.1]\n"


def leaves(model: type, prefix: str = "") -> Iterator[str]:
    types = get_type_hints(model)
    for field in fields(model):
        if is_dataclass(kind := types[field.name]) and isinstance(kind, type) and field.name != "udp_port":
            yield from leaves(kind, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def find(value: Any, path: str) -> Any:  # noqa: ANN401  whatever settings hold
    for name in path.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    return value


def configured(path: str, value: str) -> Config:
    """A configuration with this one key."""
    *sections, name = path.split(".")
    text = f"{name}: {value}"
    for section in reversed(sections):
        text = f"{section}: {{{text}}}"
    return load_config(text, development=True)


def test_every_key_is_shown_to_act() -> None:
    assert set(leaves(Config)) == ROOMS.keys() | ELSEWHERE


@pytest.mark.parametrize("key", ROOMS)
def test_a_key_arrives_in_the_rooms_settings(key: str) -> None:
    value, path, expected = ROOMS[key]
    usual = room_settings(load_config(development=True), Random(1))
    try:
        assert find(usual, path) != expected
    except IndexError:
        assert not usual.ice_servers
    assert find(room_settings(configured(key, value), Random(1)), path) == expected


def test_the_defaults_are_those_of_the_rooms() -> None:
    settings = room_settings(load_config(development=True), Random(1))
    assert settings.limits == Limits()
    assert settings.times == Times()
    assert settings.defaults == RoomDefaults()
    assert settings.reception == ReceiveSettings()
    assert not settings.presets


def test_a_named_configuration_lies_on_top_of_the_usual_values() -> None:
    config = configured(
        "room.room_configurations",
        "{call: {max_participants: 2, metadata: m, max_playout_delay: 300, sync_streams: true,"
        " agents: [{agent_name: echo, metadata: loud}]}, lecture: {min_playout_delay: 100}}",
    )
    settings = room_settings(config, Random(1))
    assert settings.presets == {
        "call": RoomDefaults(
            max_participants=2,
            metadata="m",
            playout_delay=(0, 300),
            sync_streams=True,
            agents=(RoomAgentDispatch(agent_name="echo", metadata="loud"),),
        ),
        "lecture": RoomDefaults(playout_delay=(100, 10_000)),
    }


def test_no_limit_is_no_limit() -> None:
    for key, path in (("max_metadata_size", "metadata"), ("max_room_name_length", "room_name")):
        assert find(room_settings(configured(f"limit.{key}", "0"), Random(1)).limits, path) == sys.maxsize
    assert room_settings(configured("limit.num_tracks", "-1"), Random(1)).limits.server_tracks == 0
    assert room_settings(configured("limit.bytes_per_sec", "-1"), Random(1)).limits.bytes_per_second == 0
    assert room_settings(configured("audio.smooth_intervals", "0"), Random(1)).reception.levels.smooth_intervals == 1


def test_codecs_are_those_enabled_and_rtx_is_one() -> None:
    usual = media_policy(load_config(development=True))
    assert usual.rtx
    assert usual.answers is Setup.PASSIVE  # so that it is the server who chooses how media is protected
    assert set(MediaPolicy().receive) <= set(usual.receive)
    without = media_policy(configured("room.enabled_codecs", "[{mime: video/vp8}]"))
    assert (without.receive, without.send, without.rtx) == (("video/VP8",), ("video/VP8",), False)


@pytest.mark.parametrize("filters", ["interfaces: {excludes: [lo]}", "ips: {excludes: [127.0.0.0/8]}",
                                     "interfaces: {includes: [none]}", "ips: {includes: [192.0.2.0/24]}"])  # fmt: skip
def test_filters_hold_for_addresses_named_and_found(filters: str) -> None:
    loopback = "rtc: {enable_loopback_candidate: true"
    for hosts in ("127.0.0.1", "0.0.0.0"):
        text = LOOPBACK.replace("127.0.0.1", hosts)
        assert "127.0.0.1" in media_hosts(load_config(f"{text}{loopback}}}"))
        try:
            assert "127.0.0.1" not in media_hosts(load_config(f"{text}{loopback}, {filters}}}"))
        except ConfigError as error:
            assert str(error).startswith("rtc.interfaces: no network address is left")  # noqa: PT017  all there is


def test_loopback_among_all_addresses_must_be_asked_for() -> None:
    text = "keys: {k: a-secret-of-thirty-two-characters}\nbind_addresses: [0.0.0.0]\n"
    allowed = media_hosts(load_config(text + "rtc: {enable_loopback_candidate: true}"))
    assert "127.0.0.1" in allowed
    try:
        assert "127.0.0.1" not in media_hosts(load_config(text))
    except ConfigError as error:
        assert str(error).startswith("rtc.interfaces: no network address is left")  # noqa: PT017  all there is


async def test_media_is_advertised_at_the_node_s_address_and_configured_port() -> None:
    async with AsyncExitStack() as stack:
        taken = await open_mux(load_config(LOOPBACK + "rtc: {udp_port: 0}"), stack)
        port = taken.local_addresses[0][1]
        if port < 65535:
            config = load_config(f"{LOOPBACK}rtc: {{udp_port: {port}-{min(port + 20, 65535)}, node_ip: 192.0.2.9}}")
            mux = await open_mux(config, stack)
            (advertised,) = [address for address in mux.local_addresses if address[0] == "192.0.2.9"]
            assert port < advertised[1] <= port + 20


@pytest.mark.parametrize("forced", [False, True])
async def test_a_tcp_port_is_a_candidate_and_may_be_the_only_one(forced: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    text = f"{LOOPBACK}rtc: {{udp_port: 0, tcp_port: {port}, force_tcp: {str(forced).lower()}, node_ip: 192.0.2.9}}"
    async with triosfu.serve(load_config(text)) as server, await trio.open_tcp_stream("127.0.0.1", port):
        peers: Any = server.rooms.services.peers
        offerer = peers(name="x", handler=None, single=False, offerer=True)
        kinds = [candidate.split()[2:8:3] for candidate in offerer.local_candidates]
        assert kinds == ([["tcp", str(port)]] if forced else [["udp", kinds[0][1]], ["tcp", str(port)]])
        assert all("192.0.2.9" in candidate for candidate in offerer.local_candidates)
        assert offerer.local_candidates[-1].endswith("tcptype passive")
        with pytest.raises(ConfigError, match=rf"^rtc\.tcp_port: cannot open {port}: "):
            async with AsyncExitStack() as stack:
                await open_mux(load_config(text), stack)


async def test_ice_lite_is_what_peers_are() -> None:
    for value in (False, True):
        config = load_config(f"{LOOPBACK}rtc: {{udp_port: 0, use_ice_lite: {str(value).lower()}}}")
        async with triosfu.serve(config) as server:
            peers: Any = server.rooms.services.peers
            assert peers.settings.ice_lite is value


async def exchange(port: int, request: bytes) -> bytes:
    with trio.fail_after(10):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request)
            return b"".join([part async for part in stream])


async def test_a_request_s_body_has_the_configured_bound() -> None:
    async with triosfu.serve(
        load_config(LOOPBACK + "rtc: {udp_port: 0}\nlimit: {max_api_request_body_size: 10}")
    ) as it:
        for size, status in ((10, b"404"), (11, b"413")):
            head = f"POST /twirp/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
            assert (await exchange(it.port, head.encode() + bytes(size))).split()[1] == status


async def test_a_signal_message_has_the_configured_bound() -> None:
    async with triosfu.serve(
        load_config(LOOPBACK + "rtc: {udp_port: 0}\nlimit: {signal_message_size_limit: 90}")
    ) as it:
        token = it.create_token(identity="alice", room="r")
        head = (
            f"GET /rtc?protocol=15&access_token={token} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        frame = bytes([0x82, 0x80 | 100]) + bytes(4 + 100)  # binary, masked with zeros
        answer = await exchange(it.port, head.encode() + frame)
        assert answer.startswith(b"HTTP/1.1 101")
        assert (1009).to_bytes(2, "big") in answer[-64:]


async def test_an_embedded_server_logs_as_configured_and_leaves_a_configured_structlog_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    structlog.reset_defaults()
    try:
        config = load_config(LOOPBACK + "rtc: {udp_port: 0}\nlogging: {level: error, json: true}")
        async with triosfu.serve(config):
            log = structlog.get_logger()
            log.warning("too quiet")
            token = "eyJhbGc".upper()
            try:
                int(f"not {len(token)}")
            except ValueError:
                log.exception("handler failed")
        errors = capsys.readouterr().err
        assert errors.startswith("{")
        assert "not 7" in errors
        assert "EYJHBGC" not in errors
        assert "too quiet" not in errors
        structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
        async with triosfu.serve(config):
            assert structlog.get_config()["processors"][-1].__class__ is structlog.processors.KeyValueRenderer
    finally:
        structlog.reset_defaults()


async def test_an_embedded_server_is_one_process() -> None:
    with pytest.raises(ConfigError, match=r"^workers: worker processes are started by `triosfu run` only$"):
        async with triosfu.serve(load_config("workers: 2", development=True)):
            raise AssertionError
