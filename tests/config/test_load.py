from __future__ import annotations

import stat
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triosfu.config import (
    Config,
    Filter,
    NetworkFilter,
    PlayoutDelay,
    PliThrottle,
    PortRange,
    PrometheusConfig,
    RoomConfig,
    TurnServer,
    load_config,
    parse_duration,
    parse_keys,
    read_config_file,
)
from triosfu.config.refused import REFUSED
from triosfu.config.values import WEBHOOK_EVENTS
from triosfu.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

KEYS = "keys: {APIkey: a-secret-of-thirty-two-characters}\n"
SECRET = "hush-hush-nobody-may-ever-read-this"


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(KEYS + text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_word_the_defaults_are_livekits() -> None:
    config = load_config(KEYS)
    assert config == Config(keys={"APIkey": "a-secret-of-thirty-two-characters"})
    assert config.port == 7880
    assert config.bind_addresses == ("0.0.0.0", "::")
    assert config.rtc.udp_port == PortRange(7882, 7882)
    assert not config.development


def test_development_mode_stays_on_loopback_with_the_known_pair() -> None:
    config = load_config(development=True)
    assert config.development
    assert config.keys == {"devkey": "secret"}
    assert config.bind_addresses == ("127.0.0.1", "::1")
    assert config.rtc.udp_port == PortRange(7882, 7882)
    assert config.rtc.enable_loopback_candidate
    assert load_config("development: true") == config


def test_development_mode_leaves_alone_what_is_configured() -> None:
    text = KEYS + "bind_addresses: [192.0.2.1]\nrtc: {enable_loopback_candidate: false, udp_port: 9}"
    config = load_config(text, development=True)
    assert list(config.keys) == ["APIkey"]
    assert config.bind_addresses == ("192.0.2.1",)
    assert not config.rtc.enable_loopback_candidate
    assert config.rtc.udp_port == PortRange(9, 9)


def test_every_section_is_read() -> None:
    config = load_config(
        KEYS
        + """
port: 8000
bind_addresses: ["", localhost, 192.0.2.1, "2001:DB8::1"]
region: eu
enable_data_tracks: false
rtc:
  port_range_start: 50000
  port_range_end: 50100
  node_ip: 203.0.113.7, 2001:db8::7
  use_external_ip: true
  use_ice_lite: true
  tcp_port: 7881
  force_tcp: true
  interfaces: {includes: [eth0], excludes: [docker0]}
  ips: {includes: [10.1.2.3/8], excludes: [10.0.0.1]}
  stun_servers: ["stun.example.org:3478"]
  turn_servers: [{host: turn.example.org, port: 443, protocol: tls, username: u, credential: c}]
  packet_buffer_size_video: 300
  pli_throttle: {low_quality: 250ms, mid_quality: 1.5s, high_quality: 1m}
room:
  auto_create: false
  enabled_codecs: [{mime: video/vp8}, {mime: AUDIO/OPUS, fmtp_line: ""}]
  max_participants: 3
  empty_timeout: 1
  departure_timeout: 2
  sync_streams: true
  playout_delay: {enabled: true, min: 100, max: 200}
audio: {active_level: 30, min_percentile: 50, update_interval: 500, smooth_intervals: 4}
video: {dynacast_pause_delay: 10s}
limit: {num_tracks: -1, bytes_per_sec: 1_000_000, max_metadata_size: 1}
prometheus_port: 6790
prometheus: {port: 6789, username: u, password: p}
logging: {level: warn, json: true}
"""
    )
    assert (config.port, config.region, config.enable_data_tracks) == (8000, "eu", False)
    assert config.bind_addresses == ("0.0.0.0", "::", "127.0.0.1", "::1", "192.0.2.1", "2001:db8::1")
    assert config.rtc.udp_port == PortRange(50000, 50100)
    assert config.rtc.node_ip == ("203.0.113.7", "2001:db8::7")
    assert config.rtc.use_ice_lite
    assert (config.rtc.tcp_port, config.rtc.force_tcp) == (7881, True)
    assert config.rtc.interfaces == Filter(includes=("eth0",), excludes=("docker0",))
    assert config.rtc.ips == NetworkFilter(includes=(ip_network("10.0.0.0/8"),), excludes=(ip_network("10.0.0.1/32"),))
    assert config.rtc.stun_servers == ("stun.example.org:3478",)
    assert config.rtc.turn_servers == (
        TurnServer(host="turn.example.org", port=443, protocol="tls", username="u", credential="c"),
    )
    assert (config.rtc.packet_buffer_size_video, config.rtc.packet_buffer_size_audio) == (300, 200)
    assert config.rtc.pli_throttle == PliThrottle(low_quality=0.25, mid_quality=1.5, high_quality=60.0)
    assert config.room == RoomConfig(
        auto_create=False,
        enabled_codecs=("video/VP8", "audio/opus"),
        max_participants=3,
        empty_timeout=1,
        departure_timeout=2,
        sync_streams=True,
        playout_delay=PlayoutDelay(enabled=True, min=100, max=200),
    )
    assert (config.audio.active_level, config.audio.smooth_intervals) == (30, 4)
    assert config.video.dynacast_pause_delay == 10.0
    assert (config.limit.num_tracks, config.limit.bytes_per_sec, config.limit.max_metadata_size) == (-1, 1_000_000, 1)
    assert config.prometheus == PrometheusConfig(port=6790, username="u", password="p")
    assert "password" not in repr(config.prometheus)
    assert (config.logging.level, config.logging.json) == ("warning", True)


def test_a_section_whose_lines_are_all_comments_is_empty() -> None:
    assert load_config(KEYS + "rtc:\n  # udp_port: 1\nroom:\nlimit: {num_tracks: }") == load_config(KEYS)


def test_overrides_win_and_go_into_sections() -> None:
    config = load_config(
        KEYS + "port: 1\nrtc: {udp_port: 2, use_ice_lite: true}",
        overrides={"port": 3, "rtc": {"udp_port": "4-5"}, "keys": {"other": SECRET}},
    )
    assert (config.port, config.rtc.udp_port, config.rtc.use_ice_lite) == (3, PortRange(4, 5), True)
    assert config.keys == {"other": SECRET}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("port: seventy", "port: should be a valid integer, unable to parse string as an integer"),
        ("port: 70000", "port: should be less than or equal to 65535"),
        ("prot: 7880", "prot: neither LiveKit nor triosfu knows this key"),
        ('"a\\nb": 1', "a b: neither LiveKit nor triosfu knows this key"),
        ("prot:", "prot: neither LiveKit nor triosfu knows this key"),
        ("rtc: {udp_prot: 1}", "rtc.udp_prot: neither LiveKit nor triosfu knows this key"),
        ("rtc: {udp_port: 8-7}", "rtc.udp_port: 8 to 7 is not a range of ports"),
        ("rtc: {udp_port: 7882-7883-7884}", "rtc.udp_port: must be a port or a range of ports such as 7882-7890"),
        ("rtc: {udp_port: true}", "rtc.udp_port: must be a port or a range of ports such as 7882-7890"),
        ("rtc: {port_range_start: 50000}", "rtc.port_range_end: is missing: a range has two ends"),
        (
            "rtc: {port_range_start: 9, port_range_end: 8}",
            "rtc.port_range_start: 9 to 8 is not a range of ports",
        ),
        ("rtc: {node_ip: here}", "rtc.node_ip: 'here' does not appear to be an IPv4 or IPv6 address"),
        (
            "rtc: {use_external_ip: true}",
            "rtc.use_external_ip: no STUN server is asked for our address: set rtc.node_ip to it",
        ),
        ("rtc: {turn_servers: [{port: 1}]}", "rtc.turn_servers.0.host: is missing"),
        (
            "rtc: {pli_throttle: {low_quality: 500}}",
            "rtc.pli_throttle.low_quality: must be a duration with its unit, such as 500ms or 1m30s",
        ),
        (
            "rtc: {packet_buffer_size_video: 0}",
            "rtc.packet_buffer_size_video: should be greater than or equal to 1",
        ),
        ("rtc: 7", "rtc: should be a dictionary or an instance of RtcConfig"),
        (
            "bind_addresses: [example.org]",
            "bind_addresses.0: 'example.org' does not appear to be an IPv4 or IPv6 address",
        ),
        ("bind_addresses: 127.0.0.1", "bind_addresses: must be a list of IP addresses"),
        ("bind_addresses: [1]", "bind_addresses: must be a list of IP addresses"),
        (
            "room: {enabled_codecs: [{mime: video/vp8, fmtp_line: a=b}]}",
            "room.enabled_codecs.0: a codec's fmtp_line is not configurable here: leave it out",
        ),
        (
            "room: {room_configurations: {a: {egress: {}}}}",
            "room.room_configurations.a.egress: neither LiveKit nor triosfu knows this key",
        ),
        (
            "room: {room_configurations: {a: {agents: [{}]}}}",
            "room.room_configurations.a.agents.0.agent_name: is missing",
        ),
        (
            "room: {room_configurations: {a: {min_playout_delay: 3, max_playout_delay: 2}}}",
            "room.room_configurations.a.min_playout_delay: 3 is more than max, 2",
        ),
        (
            "room: {room_configurations: {a: {metadata: xx}}}\nlimit: {max_metadata_size: 1}",
            "room.room_configurations.a.metadata: is longer than limit.max_metadata_size",
        ),
        ("room: {playout_delay: {min: 3, max: 2}}", "room.playout_delay.min: 3 is more than max, 2"),
        ("logging: {level: loud}", "logging.level: should be 'debug', 'info', 'warning' or 'error'"),
        ("port: 1\nport: 2", "config: not valid YAML in line 3: port stands twice"),
        ("rtc: [", "config: not valid YAML in line 2: expected the node content, but found '<stream end>'"),
        ("? [a]\n: 1", "config: not valid YAML in line 2: found unhashable key"),
        ("1: 2", "1: Keys should be strings"),
        ("\x00", "config: not valid YAML"),
        ("development: maybe", "development: should be a valid boolean, unable to interpret input"),
        ("redis: {address: 'localhost:6379'}", f"redis.address: {REFUSED['redis'].reason}"),
        ("rtc: {tcp_port: 7890, udp_port: 7882-7890}", "rtc.tcp_port: must not be one of rtc.udp_port"),
        ("rtc: {tcp_port: 7880}", "rtc.tcp_port: must not be the port of signalling, or of metrics"),
        ("rtc: {force_tcp: true}", "rtc.force_tcp: needs rtc.tcp_port"),
        ("rtc: {allow_tcp_fallback: true}", f"rtc.allow_tcp_fallback: {REFUSED['rtc.allow_tcp_fallback'].reason}"),
        ("turn: {enabled: true, udp_port: 3478}", f"turn.enabled: {REFUSED['turn'].reason}"),
        ("webhook: {urls: [http://x]}", "webhook.api_key: is missing: say which of keys signs webhooks"),
        ("webhook: {urls: [http://x], api_key: other}", "webhook.api_key: is not one of keys"),
        (
            "webhook: {urls: ['http://a:secret@']}",
            "webhook.urls.0: must be a URL such as https://example.com/webhooks",
        ),
        ("webhook: {urls: [ftp://x]}", "webhook.urls.0: must be a URL such as https://example.com/webhooks"),
        ("webhook: {url: http://x}", "webhook.url: neither LiveKit nor triosfu knows this key"),
        (
            "webhook: {filter_params: {include_events: [room_begun]}}",
            f"webhook.filter_params.include_events.0: must be one of {', '.join(WEBHOOK_EVENTS)}",
        ),
        (
            "webhook: {resource_url_notifier: {max_depth: 0}}",
            "webhook.resource_url_notifier.max_depth: should be greater than or equal to 1",
        ),
        (
            "webhook: {url_notifier: {num_workers: 3}}",
            f"webhook.url_notifier.num_workers: {REFUSED['webhook.url_notifier'].reason}",
        ),
        ("prometheus: {port: 99999}", "prometheus.port: should be less than or equal to 65535"),
        ("prometheus: {prot: 6789}", "prometheus.prot: neither LiveKit nor triosfu knows this key"),
        ("prometheus_port: many", "prometheus_port: must be a port"),
        ("prometheus_port: 65536", "prometheus_port: must be a port"),
        ("port: 6789\nprometheus: {port: 6789}", "prometheus.port: must not be the port of signalling"),
        (
            "prometheus: {port: 6789, password: x}",
            "prometheus.username: must be set together with prometheus.password, or neither",
        ),
        (
            "node_stats: {stats_update_interval: 5s}",
            f"node_stats.stats_update_interval: {REFUSED['node_stats'].reason}",
        ),
        (
            "rtc: {congestion_control: {stream_allocator: {probe_mode: media}}}",
            "rtc.congestion_control.stream_allocator.probe_mode: "
            + REFUSED["rtc.congestion_control.stream_allocator"].reason,
        ),
    ],
)
def test_a_mistake_is_one_line_that_starts_with_the_key(text: str, line: str) -> None:
    assert refused(text) == line


def test_the_configuration_must_be_a_mapping() -> None:
    with pytest.raises(ConfigError, match=r"^config: must be a mapping of keys to values$"):
        load_config("- a\n- b")


@pytest.mark.parametrize("path", REFUSED)
def test_a_key_that_is_not_honoured_is_refused_by_name_unless_it_asks_for_nothing(path: str) -> None:
    refusal = REFUSED[path]

    def config_with(value: object) -> str:
        for name in reversed(path.split(".")):
            value = {name: value}
        return yaml.safe_dump(value)

    asked: object = {refusal.switch: ["on"]} if refusal.switch else ["something"]
    assert refused(config_with(asked)).startswith(path)
    for harmless in (*refusal.harmless, None, False, 0, "", [], {}, {"anything": {"deep": 0}}):
        load_config(KEYS + config_with(harmless))
    if refusal.switch:
        load_config(KEYS + config_with({refusal.switch: None, "other": "on"}))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "keys: at least one key pair is needed"),
        ("keys: {}", "keys: at least one key pair is needed"),
        (f"keys: {{APIx: [{SECRET}]}}", "keys.APIx: should be a valid string"),
        ("keys: {APIx: 12345}", "keys.APIx: should be a valid string"),
        ("keys: {APIx: ''}", "keys.APIx: neither a key nor its secret may be empty"),
        (f"keys: {{APIx: 'ssh-{SECRET}'}}", "keys.APIx: must be a shared secret"),
        (f"keys: {SECRET}", "keys: "),
        (f"keys: {{APIx: {SECRET}", "config: not valid YAML"),
    ],
)
def test_keys_are_needed_and_never_shown(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(text)
    assert str(caught.value).startswith(line)
    assert SECRET not in str(caught.value)


def test_secrets_are_not_in_a_configuration_s_representation() -> None:
    config = load_config(
        f"keys: {{APIx: {SECRET}}}\nrtc: {{turn_servers: [{{host: h, port: 1, credential: {SECRET}}}]}}"
    )
    assert SECRET not in repr(config)


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"APIx: {SECRET}\nAPIy: other\n")
    file.chmod(0o640)
    assert load_config(f"key_file: {file}").keys == {"APIx": SECRET, "APIy": "other"}
    for mode in (stat.S_IROTH, stat.S_IWOTH, stat.S_IXOTH):
        file.chmod(0o600 | mode)
        with pytest.raises(ConfigError, match=r"^key_file: others may use "):
            load_config(f"key_file: {file}")


def test_an_unreadable_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^key_file: cannot read .*: No such file or directory$"):
        load_config(f"key_file: {tmp_path / 'absent'}")
    with pytest.raises(ConfigError, match=r"^config: cannot read .*: Is a directory$"):
        read_config_file(str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"^config: .* is not UTF-8 text$"):
        read_config_file(str(tmp_path / "binary"))


def test_keys_are_read_with_or_without_the_space() -> None:
    assert parse_keys("a: b\nc: d") == {"a": "b", "c": "d"}
    assert parse_keys("a:b") == {"a": "b"}
    for wrong in ("a", "a: 1", "a: [b]", "1: b"):
        with pytest.raises(ConfigError, match=r"^--keys: "):
            parse_keys(wrong, "--keys")


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), (0, 0), ("500ms", 0.5), ("1h2m3.5s", 3723.5), ("2us", 2e-6)])
def test_durations_have_units(text: object, seconds: float) -> None:
    if text == "0":
        with pytest.raises(ValueError, match="with its unit"):
            parse_duration(text)
    else:
        assert parse_duration(text) == pytest.approx(seconds)


YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(sorted({*Config.__dataclass_fields__, "key_file", "redis", "turn", "webhook"}))
RTC_NAMES = st.sampled_from(
    ["udp_port", "node_ip", "ips", "interfaces", "pli_throttle", "port_range_start", "tcp_port", "force_tcp"]
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first run on a machine makes Hypothesis's tables
@given(st.dictionaries(NAMES, YAML | st.dictionaries(RTC_NAMES, YAML), max_size=5))
def test_any_yaml_is_a_configuration_or_one_line(raw: dict[str, Any]) -> None:
    try:
        load_config(KEYS if not raw else yaml.safe_dump(raw))
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017  the other outcome is a configuration


@given(st.text())
def test_any_text_is_a_configuration_or_one_line(text: str) -> None:
    try:
        load_config(text)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
