"""Reads a page of metrics as Prometheus would: over HTTP, by prometheus-client's own parser."""

from __future__ import annotations

import base64
import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import trio
from prometheus_client.parser import text_string_to_metric_families

from triosfu.config import PrometheusConfig, load_config

if TYPE_CHECKING:
    from triosfu.config import Config

LIMIT = 10.0  # seconds; reached only by a failing test


@dataclass(frozen=True)
class Page:
    """The samples of one page."""

    kinds: dict[str, str]  # of families, by name
    samples: list[tuple[str, dict[str, str], float]] = field(repr=False)

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples of a name that have these labels."""
        return sum(self.all(name, **labels))

    def all(self, name: str, **labels: str) -> list[float]:
        return [value for said, found, value in self.samples if said == name and labels.items() <= found.items()]

    def labels(self, name: str) -> set[frozenset[str]]:
        return {frozenset(labels) for said, labels, _ in self.samples if said == name}


def read(text: str) -> Page:
    families = list(text_string_to_metric_families(text))
    samples = [(one.name, dict(one.labels), one.value) for family in families for one in family.samples]
    return Page({family.name: family.type for family in families}, samples)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def monitored(port: int, *, username: str = "", password: str = "", text: str = "") -> Config:
    """A development server's configuration, with metrics on `port`."""
    config = load_config(text, overrides={"port": 0, "rtc": {"udp_port": 0}}, development=True)
    return replace(config, prometheus=PrometheusConfig(port=port, username=username, password=password))


async def get(port: int, path: str = "/metrics", *, login: str = "", method: str = "GET") -> tuple[int, str]:
    """Status and body."""
    head, body = await ask(port, path, login=login, method=method)
    return int(head.split()[1]), body


async def ask(port: int, path: str = "/metrics", *, login: str = "", method: str = "GET") -> tuple[str, str]:
    """Head and body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", "Origin: http://x"]
    lines.append("Access-Control-Request-Method: GET")  # which says something with OPTIONS only
    if login:
        lines.append(f"Authorization: Basic {base64.b64encode(login.encode()).decode()}")
    data = b""
    with trio.fail_after(LIMIT):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all("\r\n".join([*lines, "", ""]).encode())
            while more := await stream.receive_some(65536):
                data += more
    head, _, body = data.decode().partition("\r\n\r\n")
    return head, body


async def scrape(port: int) -> Page:
    """What the metrics are now."""
    status, text = await get(port)
    assert status == 200
    return read(text)
