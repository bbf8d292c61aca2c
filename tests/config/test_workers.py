"""How many worker processes there are, and which ports each has."""

from __future__ import annotations

import os

import pytest

from triosfu.config import Config, PortRange, load_config
from triosfu.config.workers import LONGEST_ROOM_NAME, of_worker
from triosfu.errors import ConfigError


def configured(text: str) -> Config:
    return load_config(text, development=True)


def test_one_is_the_default_and_auto_is_one_for_each_core() -> None:
    assert configured("").workers == 1
    assert configured("workers: 3").workers == 3
    assert configured("workers: '3'").workers == 3
    assert configured("workers: auto").workers == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("rtc", "udp", "tcp"),
    [
        ("", [(7882, 7882), (7883, 7883), (7884, 7884)], [0, 0, 0]),
        ("udp_port: 0", [(0, 0)] * 3, [0, 0, 0]),
        ("udp_port: 9000, tcp_port: 8000", [(9000, 9000), (9001, 9001), (9002, 9002)], [8000, 8001, 8002]),
        ("udp_port: 9000-9002", [(9000, 9000), (9001, 9001), (9002, 9002)], [0, 0, 0]),
        ("udp_port: 9000-9009", [(9000, 9002), (9003, 9005), (9006, 9008)], [0, 0, 0]),
        ("udp_port: 7882, tcp_port: 7881", [(7882, 7882), (7883, 7883), (7884, 7884)], [7881, 7882, 7883]),
    ],
)
def test_each_has_ports_of_its_own(rtc: str, udp: list[tuple[int, int]], tcp: list[int]) -> None:
    config = configured(f"workers: 3\nrtc: {{{rtc}}}")
    workers = [of_worker(config, index).rtc for index in range(3)]
    assert [one.udp_port for one in workers] == [PortRange(first, last) for first, last in udp]
    assert [one.tcp_port for one in workers] == tcp


def test_the_rest_is_as_it_was_and_each_is_one_process() -> None:
    config = configured("workers: 2\nregion: here\nlimit: {max_room_name_length: 0, max_metadata_size: 7}")
    one = of_worker(config, 1)
    assert (one.workers, one.region, one.keys, one.limit.max_metadata_size) == (1, "here", config.keys, 7)
    assert one.limit.max_room_name_length == LONGEST_ROOM_NAME
    short = configured("workers: 2\nlimit: {max_room_name_length: 9}")
    assert of_worker(short, 0).limit.max_room_name_length == 9


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("workers: 0", "workers: must be 1 to 128, or auto"),
        ("workers: 129", "workers: must be 1 to 128, or auto"),
        ("workers: yes", "workers: must be a number of processes, or auto"),
        ("workers: 1.5", "workers: must be a number of processes, or auto"),
        ("workers: 3\nrtc: {udp_port: 9000-9001}", "rtc.udp_port: 9000 to 9001 are too few for 3 workers"),
        ("workers: 3\nrtc: {udp_port: 65534}", "rtc.udp_port: there are no 3 ports from 65534 on, one for each worker"),
        ("workers: 3\nrtc: {tcp_port: 65534}", "rtc.tcp_port: there are no 3 ports from 65534 on, one for each worker"),
        (
            "workers: 3\nport: 8002\nrtc: {tcp_port: 8000}",
            "rtc.tcp_port: worker 2 would have 8002, the port of signalling, or of metrics",
        ),
        (
            "workers: 3\nprometheus: {port: 8001}\nrtc: {tcp_port: 8000}",
            "rtc.tcp_port: worker 1 would have 8001, the port of signalling, or of metrics",
        ),
    ],
)
def test_what_cannot_be_is_one_line(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        configured(text)
    assert str(refused.value) == line
