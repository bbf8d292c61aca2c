"""Which addresses carry media: the sockets to open, and what clients are told about them."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import ifaddr

from triosfu.errors import ConfigError
from triosfu.net.tcp import listen
from triosfu.net.udp import UdpMux

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from contextlib import AsyncExitStack

    from triosfu.config import Config, Filter, NetworkFilter

WILDCARDS = {"0.0.0.0": 4, "::": 6}  # noqa: S104  what an operator may write; IP version behind it


def media_hosts(config: Config) -> list[str]:
    """The numeric addresses to open UDP sockets on, those that clients should prefer first.

    A wildcard among the bind addresses stands for every usable interface address of its family; ICE needs to know them
    one by one. Loopback is left out unless it is configured, or all there is.

    Raises:
        ConfigError: No address is left.
    """
    hosts: dict[str, None] = {}
    for address in config.bind_addresses:
        version = WILDCARDS.get(address)
        if version is None:
            if _is_usable(config, address):
                hosts[address] = None
        else:
            hosts.update(dict.fromkeys(_interface_addresses(config, version)))
    if not hosts:
        raise ConfigError("rtc.interfaces: no network address is left to receive media on")
    return list(hosts)


def _is_usable(config: Config, host: str) -> bool:
    """Whether the interface and address filters let an address pass that is asked for by name."""
    address = ipaddress.ip_address(host)
    if not _allowed(address, config.rtc.ips):
        return False
    names = [adapter.name for adapter in ifaddr.get_adapters() for ip in adapter.ips if _text(ip) == str(address)]
    return not names or any(_allowed_name(name, config.rtc.interfaces) for name in names)


def _text(ip: ifaddr.IP) -> str:
    return ip.ip if isinstance(ip.ip, str) else ip.ip[0]


def _interface_addresses(config: Config, version: int) -> Iterator[str]:
    loopback = []
    for adapter in ifaddr.get_adapters():
        if not _allowed_name(adapter.name, config.rtc.interfaces):
            continue
        for ip in adapter.ips:
            text = _text(ip)
            address = ipaddress.ip_address(text)
            if address.version != version or address.is_link_local or not _allowed(address, config.rtc.ips):
                continue
            if address.is_loopback and not config.rtc.enable_loopback_candidate:
                loopback.append(text)
            else:
                yield text
    if config.development:
        yield from loopback  # a developer's machine may be offline


def _allowed_name(name: str, names: Filter) -> bool:
    return (not names.includes or name in names.includes) and name not in names.excludes


def _allowed(address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: NetworkFilter) -> bool:
    included = not networks.includes or any(address in network for network in networks.includes)
    return included and not any(address in network for network in networks.excludes)


async def open_mux(config: Config, stack: AsyncExitStack) -> UdpMux:
    """A mux on the first free port of `rtc.udp_port`, and on `rtc.tcp_port` if there is to be one; `stack` closes it.

    Cancelled, it has left no port open.

    Raises:
        ConfigError: A port cannot be had on every address.
    """
    hosts = media_hosts(config)
    listeners = _listeners(config, hosts)
    for listener in listeners:
        stack.callback(listener.close)
    ports = config.rtc.udp_port
    problem: OSError | None = None
    for port in range(ports.first, ports.last + 1):
        advertised = [(str(ip), port) for ip in config.rtc.node_ip]
        opened = UdpMux.open(hosts, port, advertised=advertised, listeners=listeners)
        try:
            return await stack.enter_async_context(opened)
        except OSError as error:
            problem = error
    reason = problem.strerror if problem is not None else "the range is empty"
    raise ConfigError(f"rtc.udp_port: cannot open {ports.first} to {ports.last}: {reason}")


def _listeners(config: Config, hosts: list[str]) -> list[socket.socket]:
    if not config.rtc.tcp_port:
        return []
    try:
        return listen(hosts, config.rtc.tcp_port)
    except OSError as error:
        raise ConfigError(f"rtc.tcp_port: cannot open {config.rtc.tcp_port}: {error.strerror}") from None
