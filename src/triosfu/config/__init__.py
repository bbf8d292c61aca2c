"""What an operator may choose: LiveKit's YAML keys, read once, as frozen values.

    config = load_config(text, overrides={"rtc": {"node_ip": "203.0.113.7"}})
    config = load_config(development=True)

Every key that LiveKit knows is either a field here or refused by `load_config` with one line that starts with the key.
"""

from __future__ import annotations

from triosfu.config.load import DEVELOPMENT_KEY, DEVELOPMENT_SECRET, load_config, parse_keys, read_config_file
from triosfu.config.model import (
    AudioConfig,
    Config,
    EventFilter,
    Filter,
    LimitConfig,
    LoggingConfig,
    NetworkFilter,
    PlayoutDelay,
    PliThrottle,
    PrometheusConfig,
    RoomConfig,
    RtcConfig,
    TurnServer,
    VideoConfig,
    WebhookConfig,
    WebhookQueueConfig,
)
from triosfu.config.values import PortRange, parse_duration

__all__ = [
    "DEVELOPMENT_KEY",
    "DEVELOPMENT_SECRET",
    "AudioConfig",
    "Config",
    "EventFilter",
    "Filter",
    "LimitConfig",
    "LoggingConfig",
    "NetworkFilter",
    "PlayoutDelay",
    "PliThrottle",
    "PortRange",
    "PrometheusConfig",
    "RoomConfig",
    "RtcConfig",
    "TurnServer",
    "VideoConfig",
    "WebhookConfig",
    "WebhookQueueConfig",
    "load_config",
    "parse_duration",
    "parse_keys",
    "read_config_file",
]
