"""What must hold for any bytes that come over a TCP connection of ICE."""

from __future__ import annotations

from triosfu.net.batch import LARGEST
from triosfu.net.tcp import Frames, UnframedError

PLACES = 3  # for packets, of each look


def check_frames(data: bytes) -> None:
    """The same packets come out however the stream is cut; the first byte says how."""
    step = (data[0] if data else 0) + 1
    stream = data[1:]
    whole, cut = Frames(), Frames()
    whole.feed(stream)
    expected, broken = packets(whole)
    got: list[bytes] = []
    failed = False
    for at in range(0, len(stream), step):
        cut.feed(stream[at : at + step])
        more, failed = packets(cut)
        got += more
        if failed:
            break
    assert got == expected
    assert failed is broken
    if not broken:
        assert len(whole) == len(cut) <= LARGEST + 1
        written = b"".join(len(packet).to_bytes(2, "big") + packet for packet in expected)
        assert stream.startswith(written)
        assert len(stream) - len(written) == len(whole)


def packets(frames: Frames) -> tuple[list[bytes], bool]:
    """All that have come, and whether the stream is no stream of packets behind them."""
    views = [memoryview(bytearray(LARGEST)) for _ in range(PLACES)]
    found: list[bytes] = []
    try:
        while lengths := frames.take(views):
            found += [bytes(view[:length]) for view, length in zip(views, lengths, strict=False)]
    except UnframedError:
        return found, True
    return found, False
