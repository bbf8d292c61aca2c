"""How single values are written in LiveKit's YAML, and what they become."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=0)]

# Seconds in the units of Go's durations.
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")

CODECS: Final = (
    "audio/PCMU",
    "audio/PCMA",
    "audio/opus",
    "audio/red",
    "video/VP8",
    "video/H264",
    "video/VP9",
    "video/AV1",
    "video/H265",
    "video/rtx",
)
WEBHOOK_EVENTS: Final = (
    "room_started",
    "room_finished",
    "participant_joined",
    "participant_left",
    "participant_connection_aborted",
    "track_published",
    "track_unpublished",
    "agent_job_started",
    "agent_job_ended",
    # Not sent yet, and a filter may name them.
    "egress_started",
    "egress_updated",
    "egress_ended",
    "ingress_started",
    "ingress_ended",
)
MOST_WORKERS: Final = 128
_CANONICAL: Final = {mime.lower(): mime for mime in CODECS}


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports `first` to `last`, both included; 0 to 0 is any one free port."""

    first: int
    last: int


def parse_duration(value: object) -> float:
    """Seconds from a duration with its unit, like 500ms or 1m30s; a bare number has none, except 0."""
    if value == 0 and not isinstance(value, bool):
        return 0.0
    if not isinstance(value, str) or not value or _PART.sub("", value):
        raise ValueError("must be a duration with its unit, such as 500ms or 1m30s")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))


def parse_port_range(value: Any) -> PortRange:  # noqa: ANN401  whatever YAML holds
    """A port, a range as `first-last`, or a mapping of `start` and `end`."""
    if isinstance(value, PortRange):
        return value
    if isinstance(value, dict):
        value = f"{value.get('start')}-{value.get('end', value.get('start'))}"
    written = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", str(value), re.ASCII)
    if written is None:
        raise ValueError("must be a port or a range of ports such as 7882-7890")
    first, last = int(written[1]), int(written[2] or written[1])
    if not first <= last <= 65535:
        raise ValueError(f"{first} to {last} is not a range of ports")
    return PortRange(first, last)


def parse_node_ip(value: object) -> tuple[str, ...]:
    """One address, or an IPv4 and an IPv6 one with a comma between them."""
    if not isinstance(value, str):
        raise ValueError("must be an IP address, or two with a comma between them")  # noqa: TRY004  pydantic's protocol
    return tuple(str(ip_address(part.strip())) for part in value.split(",") if part.strip())


def parse_bind_address(value: object) -> str:
    """An address to listen on; empty stands for all of them."""
    if not isinstance(value, str):
        raise ValueError("must be a list of IP addresses")  # noqa: TRY004  pydantic's protocol
    return str(ip_address(value)) if value not in {"", "localhost"} else value


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """A network such as 10.0.0.0/8, or one address."""
    return ip_network(str(value), strict=False)


def parse_codec(value: object) -> str:
    """A codec's MIME type in its usual case, from LiveKit's mapping or the bare name."""
    if isinstance(value, dict):
        if value.get("fmtp_line"):
            raise ValueError("a codec's fmtp_line is not configurable here: leave it out")
        value = value.get("mime")
    mime = _CANONICAL.get(str(value).lower())
    if mime is None:
        raise ValueError(f"{value} is not one of {', '.join(_CANONICAL)}")
    return mime


def parse_webhook_url(value: object) -> str:
    """An http or https URL with a host; the message does not repeat it, for it may hold a password."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        good = parts is not None and parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be a URL such as https://example.com/webhooks")
    return str(value)


def parse_webhook_event(value: object) -> str:
    """The name of an event."""
    if value not in WEBHOOK_EVENTS:
        raise ValueError(f"must be one of {', '.join(WEBHOOK_EVENTS)}")
    return str(value)


def parse_level(value: object) -> object:
    """A log level by either of its names."""
    return "warning" if value == "warn" else value


def parse_workers(value: object) -> int:
    """How many worker processes; `auto` is one for each core that this process may use."""
    if value == "auto":
        return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, MOST_WORKERS)
    written = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,3}", written, re.ASCII):
        raise ValueError("must be a number of processes, or auto")
    if not 1 <= int(written) <= MOST_WORKERS:
        raise ValueError(f"must be 1 to {MOST_WORKERS}, or auto")
    return int(written)


Duration = Annotated[float, BeforeValidator(parse_duration)]
Ports = Annotated[PortRange, BeforeValidator(parse_port_range)]
NodeIp = Annotated[tuple[str, ...], BeforeValidator(parse_node_ip)]
BindAddress = Annotated[str, BeforeValidator(parse_bind_address)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(parse_network)]
WebhookUrl = Annotated[str, BeforeValidator(parse_webhook_url)]
WebhookEventName = Annotated[str, BeforeValidator(parse_webhook_event)]
Workers = Annotated[int, BeforeValidator(parse_workers)]
CodecName = Annotated[str, BeforeValidator(parse_codec)]
