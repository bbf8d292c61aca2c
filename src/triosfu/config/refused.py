"""The keys of LiveKit's configuration that triosfu cannot honour, and why.

A value that asks for nothing (off, empty, or LiveKit's default where that is what happens anyway) is dropped; any other
is refused, so that no operator believes in a setting that does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from triosfu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a key is refused, and the values that are let pass because they change nothing."""

    reason: str
    harmless: tuple[object, ...] = ()
    switch: str = ""  # for a section: while this key in it is off, the rest of it means nothing


_CLUSTER: Final = "one server is one node so far: there is no Redis (for more cores, see workers)"
_TCP: Final = "no client is moved from UDP to TCP: ICE takes the way that works, see rtc.tcp_port"
_TURN: Final = "no TURN server is built in yet: list one of your own under rtc.turn_servers"
_BANDWIDTH: Final = (
    "nothing is lowered or paused for bandwidth yet: only rtc.congestion_control.use_send_side_bwe is honoured"
)
_STUN: Final = "no STUN server is asked for our address: set rtc.node_ip to it"
_RECONNECT: Final = "forced reconnects are not made"
_PION: Final = "there is no pion here: use logging.level"
_SAMPLING: Final = "log lines are not sampled"
_SCTP: Final = "SCTP's congestion control is not configurable"
_DATA_TRACKS: Final = "not configurable yet"

REFUSED: Final[Mapping[str, Refusal]] = {
    "redis": Refusal(_CLUSTER),
    "node_selector": Refusal(_CLUSTER, ("any", "random", "lowest")),
    "signal_relay": Refusal(_CLUSTER),
    "psrpc": Refusal(_CLUSTER),
    "api": Refusal(_CLUSTER),
    "node_stats": Refusal(
        "rates are measured every two seconds over ten, which is not configurable", ("2s", "30s", ["10s"])
    ),
    "metric": Refusal("what clients measure is passed on as it is, not collected or rewritten"),
    "debug_handler": Refusal("there is no debug port: `triosfu tasks` shows what every task waits for"),
    "trace": Refusal("traces are not exported"),
    "environment": Refusal("it has no effect: leave it out"),
    "log_level": Refusal("LiveKit has replaced it by logging.level"),
    "turn": Refusal(_TURN, switch="enabled"),
    "ingress": Refusal("ingress is not served yet"),
    "webhook.url_notifier": Refusal("a room has one queue: use webhook.resource_url_notifier", (10, 100)),
    "logging.pion_level": Refusal(_PION, ("error",)),
    "logging.component_levels": Refusal("one level serves all components: use logging.level"),
    "logging.sample": Refusal(_SAMPLING),
    "logging.sample_initial": Refusal(_SAMPLING),
    "logging.sample_interval": Refusal(_SAMPLING),
    "rtc.allow_tcp_fallback": Refusal(_TCP),
    "rtc.tcp_fallback_rtt_threshold": Refusal(_TCP),
    "rtc.allow_udp_unstable_fallback": Refusal(_TCP),
    "rtc.external_ip_only": Refusal(_STUN),
    "rtc.advertise_internal_ip": Refusal("with rtc.node_ip set, only those addresses are advertised"),
    "rtc.skip_external_ip_validation": Refusal(_STUN),
    "rtc.use_mdns": Refusal("our own candidates are addresses, never mDNS names"),
    "rtc.use_stun_port_as_ice": Refusal(_STUN),
    "rtc.batch_io": Refusal("reading and writing is always batched, there is nothing to set"),
    "rtc.packet_buffer_size": Refusal("use rtc.packet_buffer_size_video and rtc.packet_buffer_size_audio"),
    "rtc.strict_acks": Refusal("it has no effect: leave it out", (True,)),
    "rtc.congestion_control.enabled": Refusal(_BANDWIDTH),
    "rtc.congestion_control.allow_pause": Refusal(_BANDWIDTH),
    "rtc.congestion_control.stream_allocator": Refusal(_BANDWIDTH),
    "rtc.congestion_control.remote_bwe": Refusal(_BANDWIDTH),
    "rtc.congestion_control.use_send_side_bwe_interceptor": Refusal(_BANDWIDTH),
    "rtc.congestion_control.send_side_bwe": Refusal(_BANDWIDTH),
    "rtc.congestion_control.send_side_bwe_pacer": Refusal(_BANDWIDTH),
    "rtc.reconnect_on_publication_error": Refusal(_RECONNECT),
    "rtc.reconnect_on_subscription_error": Refusal(_RECONNECT),
    "rtc.reconnect_on_data_channel_error": Refusal(_RECONNECT),
    "rtc.datachannel_lossy_target_latency": Refusal(_DATA_TRACKS),
    "rtc.lossy_target_latency": Refusal(_DATA_TRACKS),
    "rtc.data_track_target_latency": Refusal(_DATA_TRACKS),
    "rtc.sctp_min_cwnd": Refusal(_SCTP),
    "rtc.sctp_fast_rtx_wnd": Refusal(_SCTP),
    "rtc.sctp_cwnd_ca_step": Refusal(_SCTP),
    "rtc.enable_rtp_stream_restart_detection": Refusal("it is not configurable"),
    "rtc.enable_warp": Refusal("WARP is not served yet"),
    "rtc.forward_stats": Refusal("how long packets stay here is not measured for each"),
    "room.create_room_timeout": Refusal(_CLUSTER, ("10s",)),
    "room.create_room_attempts": Refusal(_CLUSTER, (3,)),
    "room.update_batch_target_size": Refusal("it is not configurable", (131_072,)),
    "room.max_metadata_size": Refusal("LiveKit has replaced it by limit.max_metadata_size"),
    "audio.active_red_encoding": Refusal("RED is forwarded and never made"),
    "audio.enable_loss_proxying": Refusal("loss reports are not passed on to publishers"),
    "video.stream_tracker": Refusal("it is not configurable"),
    "limit.max_data_track_custom_encoding_length": Refusal(_DATA_TRACKS, (32,)),
}


def refuse(raw: dict[str, Any]) -> None:
    """Take every key that is not honoured out of `raw`.

    Raises:
        ConfigError: One of them asks for something.
    """
    for path, refusal in REFUSED.items():
        *parents, name = path.split(".")
        section: Any = raw
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            continue
        value = section.pop(name)
        if refusal.switch and isinstance(value, dict) and not value.get(refusal.switch):
            continue
        for key, leaf in _leaves(path, value):
            if leaf and leaf not in refusal.harmless:
                raise ConfigError(f"{key}: {refusal.reason}")


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}", inner)
    else:
        yield path, value
