"""What each of several worker processes is configured with: the same, but ports of its own for media."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from triosfu.config.values import PortRange
from triosfu.errors import ConfigError

if TYPE_CHECKING:
    from triosfu.config.model import Config

LONGEST_ROOM_NAME: Final = 4096  # characters: names travel between processes, in one message each
HIGHEST: Final = 65535


def of_worker(config: Config, index: int) -> Config:
    """The configuration of worker process `index` of `config.workers`.

    A single `rtc.udp_port` is the first one's, the next ones have those behind it; of a range each has an equal part.
    So it is with `rtc.tcp_port`, which has no range. As that is none of `rtc.udp_port`, no worker has both on one.

    Raises:
        ConfigError: There are not enough ports, or one of them is another's.
    """
    longest = min(config.limit.max_room_name_length or LONGEST_ROOM_NAME, LONGEST_ROOM_NAME)
    rtc = replace(config.rtc, udp_port=_udp_ports(config, index), tcp_port=_tcp_port(config, index))
    return replace(config, workers=1, rtc=rtc, limit=replace(config.limit, max_room_name_length=longest))


def _udp_ports(config: Config, index: int) -> PortRange:
    given, workers = config.rtc.udp_port, config.workers
    if not given.first:
        return given  # any free one
    count = given.last - given.first + 1
    if count == 1:
        if given.first + workers - 1 > HIGHEST:
            raise ConfigError(f"rtc.udp_port: there are no {workers} ports from {given.first} on, one for each worker")
        return PortRange(given.first + index, given.first + index)
    if count < workers:
        raise ConfigError(f"rtc.udp_port: {given.first} to {given.last} are too few for {workers} workers")
    share = count // workers
    return PortRange(given.first + index * share, given.first + (index + 1) * share - 1)


def _tcp_port(config: Config, index: int) -> int:
    first = config.rtc.tcp_port
    if not first:
        return 0
    if first + config.workers - 1 > HIGHEST:
        raise ConfigError(f"rtc.tcp_port: there are no {config.workers} ports from {first} on, one for each worker")
    port = first + index
    if port in {config.port, config.prometheus.port}:
        raise ConfigError(f"rtc.tcp_port: worker {index} would have {port}, the port of signalling, or of metrics")
    return port
