from __future__ import annotations

import asyncio
import zlib
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import Opcode

from fuzz.checks.deflate import check_deflate_offers, check_deflated_frames
from tests.net.test_websocket import Raw, echo, masked, server_of
from triosfu.net.deflate import BLOCK_END, WORTHWHILE, Deflate
from triosfu.net.listeners import open_listeners
from triosfu.net.websocket import WebSocket, WebSocketClosed

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 100_000
PLAIN = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"  # as Chromium has it


def deflate(data: bytes, *, final: bool = False, bits: int = 15) -> bytes:
    """One message as any zlib compresses it, its end left out (RFC 7692, sections 7.2.1 and 7.2.3.4)."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -bits)
    if final:
        return deflater.compress(data) + deflater.flush() + b"\0"
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(BLOCK_END)


def compressed(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    """A masked frame with RSV1."""
    frame = masked(opcode, payload, fin=fin)
    return bytes([frame[0] | 0x40]) + frame[1:]


def heard(data: bytes, *, most: int = MOST, piece: int = 1 << 16) -> list[Event]:
    """What a server that has accepted an offer makes of these frames."""
    connection = Connection(ConnectionType.SERVER, [Deflate(most=most)])
    events: list[Event] = []
    for start in range(0, len(data), piece):
        connection.receive_data(data[start : start + piece])
        events += connection.events()
    return events


def message(events: list[Event]) -> bytes | str:
    parts = [event.data for event in events if isinstance(event, BytesMessage | TextMessage)]
    whole = events[-1]
    assert isinstance(whole, BytesMessage | TextMessage)
    assert whole.message_finished
    return "".join(map(str, parts)) if isinstance(whole, TextMessage) else b"".join(parts)  # type: ignore[arg-type]


def code(events: list[Event]) -> int:
    assert isinstance(events[-1], CloseConnection)
    return int(events[-1].code)


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ("permessage-deflate", PLAIN),
        ("permessage-deflate; client_max_window_bits", PLAIN),
        ("permessage-deflate;client_max_window_bits=9 ; server_no_context_takeover", PLAIN),
        ("permessage-deflate; server_max_window_bits=15", PLAIN),
        (
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            f"{PLAIN}; server_max_window_bits=12",
        ),
        ('permessage-deflate; server_max_window_bits="10"', f"{PLAIN}; server_max_window_bits=10"),
        ("x-webkit-deflate-frame, permessage-deflate", PLAIN),
        ('other; a="b, c", permessage-deflate', PLAIN),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", PLAIN),
        (
            "permessage-deflate; unknown, permessage-deflate; server_max_window_bits=9",
            f"{PLAIN}; server_max_window_bits=9",
        ),
        ("", None),
        (",;,", None),
        ("deflate", None),
        ("permessage-deflates", None),
        ('other; a="b, permessage-deflate"', None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=012", None),
        ("permessage-deflate; server_max_window_bits=-12", None),
        ('permessage-deflate; server_max_window_bits="12', None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_no_context_takeover=1", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("permessage-deflate; mux", None),
        ("permessage-deflate;", None),
        ("permessage-deflate" + " " * 1024, None),
    ],
)
def test_offers_are_accepted_or_declined(offers: str, answer: str | None) -> None:
    accepted = Deflate.accept_one_of(offers, most=MOST)
    assert (accepted and accepted.answer) == answer
    check_deflate_offers(offers.encode())


PIECES = st.sampled_from(["permessage-deflate", ";", ",", '"', "=", " ", "12", "server_max_window_bits", "=9", "x"])


@given(st.lists(PIECES | st.text(st.characters(max_codepoint=255), max_size=3), max_size=12).map("".join))
def test_any_offer_is_declined_or_answered_as_asked(offers: str) -> None:
    check_deflate_offers(offers.encode("latin-1"))


TEXTS = st.text(max_size=50) | st.integers(0, 5000).map("ab".__mul__)


@settings(max_examples=40)
@given(TEXTS | TEXTS.map(str.encode), st.booleans(), st.integers(9, 15), st.integers(1, 50), st.integers(1, 4))
def test_what_zlib_has_compressed_is_read_in_any_fragments(
    said: str | bytes, final: bool, bits: int, piece: int, fragments: int
) -> None:
    payload = deflate(said.encode() if isinstance(said, str) else said, final=final, bits=bits)
    size = -(-len(payload) // fragments)
    parts = [payload[start : start + size] for start in range(0, len(payload), size)]
    frames = b""
    for number, part in enumerate(parts):
        if number:
            frames += masked(Opcode.PING, b"between") + masked(Opcode.CONTINUATION, part, fin=number == len(parts) - 1)
        else:
            frames += compressed(Opcode.TEXT if isinstance(said, str) else Opcode.BINARY, part, fin=len(parts) == 1)
    events = heard(frames, piece=piece)
    assert message(events) == said
    assert [event.payload for event in events if isinstance(event, Ping)] == [b"between"] * (len(parts) - 1)


@given(TEXTS | TEXTS.map(str.encode), st.integers(9, 15))
def test_what_we_say_is_read_by_zlib(said: str | bytes, bits: int) -> None:
    connection = Connection(ConnectionType.SERVER, [Deflate(most=MOST, window_bits=bits)])
    raw = said.encode() if isinstance(said, str) else said
    for _ in range(2):  # nothing is carried over from the first
        frame = connection.send(TextMessage(data=said) if isinstance(said, str) else BytesMessage(data=said))
        payload = frame[2 if frame[1] < 126 else 4 :]
        if frame[0] & 0x40:
            assert len(payload) < len(raw)
            inflater = zlib.decompressobj(-bits)
            assert inflater.decompress(payload + BLOCK_END) == raw
        else:
            assert payload == raw
        assert bool(frame[0] & 0x40) == (len(raw) >= WORTHWHILE)


def test_what_does_not_get_smaller_is_sent_as_it_is() -> None:
    noise = Random(7692).randbytes(4000)
    connection = Connection(ConnectionType.SERVER, [Deflate(most=MOST)])
    assert len(noise) >= WORTHWHILE
    frame = connection.send(BytesMessage(data=noise))
    assert (frame[0], frame[4:]) == (0x82, noise)


@pytest.mark.parametrize("size", [MOST, MOST + 1])
@pytest.mark.parametrize("piece", [1 << 16, 10])
def test_a_message_inflates_to_the_limit_and_no_further(size: int, piece: int) -> None:
    events = heard(compressed(Opcode.BINARY, deflate(b"x" * size)), piece=piece)
    if size <= MOST:
        assert message(events) == b"x" * size
    else:
        assert code(events) == 1009


def test_a_bomb_is_not_inflated() -> None:
    bomb = deflate(bytes(50 << 20))
    assert len(bomb) < 1 << 16
    inflated: list[int] = []

    class Watched(Deflate):
        def _inflate(self, inflater: zlib._Decompress, data: bytes) -> bytes | int:  # type: ignore[override]
            found = super()._inflate(inflater, data)
            inflated.append(MOST - self._left)
            return found

    connection = Connection(ConnectionType.SERVER, [Watched(most=MOST)])
    connection.receive_data(compressed(Opcode.BINARY, bomb))
    assert code(list(connection.events())) == 1009
    assert inflated == [MOST + 1]


def test_the_limit_counts_all_fragments_of_a_message_and_begins_anew_with_the_next() -> None:
    half = deflate(b"x" * MOST)
    first, rest = half[:20], half[20:]
    whole = compressed(Opcode.BINARY, first, fin=False) + masked(Opcode.CONTINUATION, rest)
    events = heard(whole + whole)
    assert sum(isinstance(event, BytesMessage) and event.message_finished for event in events) == 2
    stored = zlib.compressobj(0, zlib.DEFLATED, -15)
    more = stored.compress(b"y" * 10) + stored.flush(zlib.Z_SYNC_FLUSH)
    frames = compressed(Opcode.BINARY, more, fin=False)
    frames += b"".join(masked(Opcode.CONTINUATION, more, fin=False) for _ in range(20))
    assert code(heard(frames, most=100)) == 1009


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (compressed(Opcode.BINARY, b"\xff\xff\xff"), 1007),
        (compressed(Opcode.BINARY, deflate(b"truncated, in the middle of a block" * 9)[:-9]), 1007),
        (compressed(Opcode.BINARY, b"\x00\x32\x00\xcd\xff of fifty bytes, thirty"), 1007),
        (compressed(Opcode.BINARY, b""), 1007),
        (compressed(Opcode.TEXT, deflate(b"\xff\xfe")), 1007),
        (compressed(Opcode.PING, b""), 1002),
        (compressed(Opcode.CLOSE, b"\x03\xe8"), 1002),
        (masked(Opcode.BINARY, b"a", fin=False) + compressed(Opcode.CONTINUATION, b"b"), 1002),
        (compressed(Opcode.BINARY, deflate(b"a"), fin=False) + compressed(Opcode.BINARY, deflate(b"b")), 1002),
    ],
    ids=[
        "no deflate",
        "truncated",
        "truncated in a stored block",
        "empty",
        "no UTF-8",
        "ping",
        "close",
        "second fragment",
        "message within a message",
    ],
)
def test_what_is_not_as_the_rfc_has_it_ends_the_connection(frames: bytes, expected: int) -> None:
    assert code(heard(frames)) == expected


def test_an_uncompressed_message_may_come_between_compressed_ones() -> None:
    events = heard(
        compressed(Opcode.TEXT, deflate(b"one"))
        + masked(Opcode.TEXT, b"two")
        + compressed(Opcode.TEXT, deflate(b"three"))
    )
    assert [event.data for event in events if isinstance(event, TextMessage) and event.message_finished] == [
        "one",
        "two",
        "three",
    ]


FRAMES = st.builds(
    lambda make, opcode, payload, fin: make(opcode, payload, fin=fin or opcode.iscontrol()),
    st.sampled_from([masked, compressed]),
    st.sampled_from(list(Opcode)),
    st.binary(max_size=40)
    | st.binary(max_size=300).map(deflate).map(lambda data: data[:120])
    | st.just(deflate(bytes(20_000))),
    st.booleans(),
)


@given(st.lists(FRAMES, max_size=6).map(b"".join), st.integers(1, 64))
def test_any_frames_end_the_connection_at_worst(data: bytes, piece: int) -> None:
    check_deflated_frames(data, piece)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (compressed(Opcode.BINARY, deflate(bytes(10 << 20))), 1009),
        (compressed(Opcode.BINARY, b"\xff\xff\xff"), 1007),
        (compressed(Opcode.PING, b""), 1002),
    ],
    ids=["bomb", "no deflate", "ping"],
)
async def test_a_bad_message_is_answered_with_a_close_frame_and_its_session_is_told(
    frame: bytes, expected: int
) -> None:
    codes: list[int] = []

    async def session(socket: WebSocket) -> None:
        assert await socket.receive() == "fine"
        with pytest.raises(WebSocketClosed) as closed:
            await socket.receive()
        codes.append(closed.value.code)

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, session, extensions=OFFER)
        await client.upgrade()
        assert f"\r\nSec-WebSocket-Extensions: {PLAIN}\r\n".encode() in client.received
        await client.stream.send_all(compressed(Opcode.TEXT, deflate(b"fine")) + frame)
        [(opcode, payload)] = await client.read_to_end()
        assert (opcode, payload[:2]) == (8, expected.to_bytes(2, "big"))
        await client.served.wait()
    assert codes == [expected]
    assert client.server.counters["websockets_deflated"] == 1
    assert client.server.counters["websocket_failed"] == 0


async def test_a_client_that_offered_nothing_may_not_compress() -> None:
    async with trio.open_nursery() as nursery:
        client = Raw(nursery, echo)
        await client.upgrade()
        assert b"Extensions" not in client.received
        await client.stream.send_all(compressed(Opcode.TEXT, deflate(b"hello")))
        [(opcode, payload)] = await client.read_to_end()
        assert (opcode, payload[:2]) == (8, (1002).to_bytes(2, "big"))
    assert client.server.counters["websockets_deflated"] == 0


@pytest.mark.parametrize("bits", [0, 9, 12, 15])
async def test_aiohttp_compresses_and_is_answered_in_kind(bits: int) -> None:
    said: list[str | bytes] = ["short", "é" * 3000, "x" * 500_000, b"b" * 70_000, b""]
    [listener] = await open_listeners(["127.0.0.1"], 0)
    port = listener.socket.getsockname()[1]

    async def converse() -> tuple[int, list[str | bytes]]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{port}/rtc", compress=bits) as client,
        ):
            answers = []
            for one in said:
                await (client.send_str(one) if isinstance(one, str) else client.send_bytes(one))
                answers.append((await client.receive(timeout=10)).data)
            return client.compress, answers

    server = server_of(echo)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listener])
        run: Callable[[], tuple[int, list[str | bytes]]] = partial(asyncio.run, converse())
        compress, answers = await trio.to_thread.run_sync(run)
        nursery.cancel_scope.cancel()
    assert answers == said
    assert bool(compress) == bool(bits)
    assert server.counters["websockets_deflated"] == bool(bits)
