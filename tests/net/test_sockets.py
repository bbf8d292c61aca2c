"""The sockets of a server: a port on every host, for itself alone, and a second socket to which its control comes."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from triosfu.net import sockets
from triosfu.net.sockets import bind, open_beside
from triosfu.net.udp import UdpMux

if TYPE_CHECKING:
    from collections.abc import Iterator

MEDIA, CONTROL = "media", "control"
HOSTS = ("127.0.0.1", "::1")


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Pair:
    """A port with both of its sockets."""

    def __init__(self, host: str, stack: ExitStack) -> None:
        (self.first,) = bind([host], 0)
        stack.enter_context(self.first)
        self.address = self.first.getsockname()[:2]
        second = open_beside(self.first)
        assert second is not None, "this system has no such thing"
        self.second = stack.enter_context(second)
        self.peer = stack.enter_context(socket.socket(self.first.family, socket.SOCK_DGRAM))

    def where(self, datagram: bytes) -> str:
        """Which of them `datagram` comes to."""
        self.peer.sendto(datagram, self.address)
        for name, sock in ((MEDIA, self.first), (CONTROL, self.second)):
            try:
                assert sock.recv(2048) == datagram
            except BlockingIOError:
                continue
            return name
        return "nowhere"


@pytest.fixture
def pair(host: str) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(host, stack)


@pytest.mark.parametrize(
    ("begins", "comes_to"),
    [
        ("00 01", CONTROL),  # STUN: a request, and its answers
        ("01 01", CONTROL),
        ("01 11", CONTROL),
        ("03 ff", CONTROL),
        ("04 00", MEDIA),
        ("13 c9", MEDIA),  # ZRTP and TURN channels, which nobody speaks
        ("14 fe", MEDIA),  # DTLS: from 20 on, handshakes and data channels
        ("16 fe", MEDIA),
        ("17 fe", MEDIA),
        ("3f c9", MEDIA),
        ("7f c9", MEDIA),
        ("80 60", MEDIA),  # RTP: payload types with and without the marker, and all shapes of the first byte
        ("90 6f", MEDIA),
        ("90 e0", MEDIA),
        ("bf 7f", MEDIA),
        ("80 c8", MEDIA),  # a sender report
        ("81 c8", MEDIA),
        ("80 c9", CONTROL),  # a receiver report
        ("81 c9", CONTROL),
        ("bf c9", CONTROL),
        ("8f cd", CONTROL),  # transport-wide feedback
        ("af cd", CONTROL),  # the same with padding
        ("8f ce", CONTROL),  # REMB
        ("81 cd", MEDIA),  # NACK
        ("a1 cd", MEDIA),
        ("81 ce", MEDIA),  # PLI
        ("84 ce", MEDIA),  # FIR
        ("81 ca", MEDIA),  # descriptions, BYE, APP and XR come seldom and beside something else
        ("81 cb", MEDIA),
        ("81 cc", MEDIA),
        ("80 cf", MEDIA),
        ("c0 c9", MEDIA),
        ("ff c9", MEDIA),
    ],
)
def test_what_a_datagram_begins_with_says_which_socket_it_comes_to(pair: Pair, begins: str, comes_to: str) -> None:
    for rest in (b"", bytes(10), bytes(1200)):
        assert pair.where(bytes.fromhex(begins) + rest) == comes_to, len(rest)


def test_what_is_too_short_to_be_looked_at_comes_to_the_first_socket(pair: Pair) -> None:
    assert [pair.where(data) for data in (b"", b"\x80", b"\x81")] == [MEDIA] * 3
    assert pair.where(b"\x00") == CONTROL


def test_without_the_second_socket_all_comes_to_the_first_one(pair: Pair) -> None:
    pair.second.close()
    for data in (b"\x00\x01" + bytes(18), b"\x81\xc9" + bytes(10), b"\x80\x60" + bytes(10)):
        pair.peer.sendto(data, pair.address)
        assert pair.first.recv(100) == data


@pytest.mark.parametrize("refuses", ["socket", "filter"])
def test_where_the_system_refuses_all_comes_to_one_socket(
    host: str, refuses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    (sock,) = bind([host], 0)
    monkeypatch.setattr(sockets, "attach_filter" if refuses == "filter" else "_prepare", refuse)
    before = len(_descriptors())
    with sock, socket.socket(sock.family, socket.SOCK_DGRAM) as peer:
        assert open_beside(sock) is None
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT), "and nobody else is let in"
        assert len(_descriptors()) == before + 1, "but for the peer's"
        for data in (b"\x00\x01" + bytes(18), b"\x81\xc9" + bytes(10), b"\x80\x60" + bytes(10)):
            peer.sendto(data, sock.getsockname())
            assert sock.recv(100) == data


def test_elsewhere_there_is_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    (sock,) = bind(["127.0.0.1"], 0)
    with sock:
        assert open_beside(sock) is None


def test_another_server_is_not_let_in(pair: Pair) -> None:
    with socket.socket(pair.first.family, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="in use"):
        other.bind(pair.address)
    with pytest.raises(OSError, match="in use"):
        bind([pair.address[0]], pair.address[1])


def test_a_port_that_another_server_shares_with_its_like_is_not_free(host: str) -> None:
    """It would let us in, and each would get half of what comes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((host, 0))
        with pytest.raises(OSError, match="in use"):
            bind([host], other.getsockname()[1])


async def test_a_mux_that_is_cancelled_has_closed_both_sockets_of_every_port() -> None:
    before = _descriptors()
    with trio.CancelScope() as scope:
        async with UdpMux.open(HOSTS, 0) as mux:
            assert len({port for _, port in mux.local_addresses}) == 1
            assert len(_descriptors() - before) == 4
            scope.cancel()
            await trio.sleep_forever()
    assert _descriptors() <= before
    for sock in bind(HOSTS, mux.local_addresses[0][1]):
        sock.close()


def _descriptors() -> set[str]:
    """Of sockets, by what they are."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(path.readlink()))
        except OSError:  # the one of this look
            continue
    return {name for name in found if name.startswith("socket:")}
