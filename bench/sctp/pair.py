"""One run: two peers in processes of their own, over loopback, with or without a wire that delays and loses."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CANDIDATE = re.compile(r"^a=candidate:(\S+ 1 udp \d+) \S+ (\d+) typ host.*\r\n", re.MULTILINE | re.IGNORECASE)
LARGE = re.compile(r"^a=x-max-packet-size:.*\r\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """What is between the peers."""

    delay: float = 0.0  # seconds, one way
    loss: float = 0.0  # share of datagrams, each way
    common: bool = False  # our peers do not know of each other that they take large packets, as others do not say

    @property
    def direct(self) -> bool:
        """Is there nothing?"""
        return not self.delay and not self.loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one run has shown."""

    rate: float  # Mbit/s of user data that arrived
    sender: float  # cores that the sender kept busy
    receiver: float
    series: list[tuple[float, int]]  # seconds, bytes that had arrived

    @property
    def rate_per_core(self) -> float:
        """Mbit/s for each core that the two ends keep busy together."""
        return self.rate / (self.sender + self.receiver)


class Process:
    """A child that speaks JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, **values: Any) -> None:  # noqa: ANN401  JSON
        """Write one line to it."""
        assert self._process.stdin is not None
        print(json.dumps(values), file=self._process.stdin, flush=True)

    def hear(self) -> Any:  # noqa: ANN401  JSON
        """Read its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended")
        return json.loads(line)


@contextlib.contextmanager
def child(module: str, *arguments: object) -> Iterator[Process]:
    """A process that lives as long as the block."""
    command = [sys.executable, "-m", f"bench.sctp.{module}", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Process(process)
        finally:
            process.kill()


def moved(sdp: str, port: int) -> tuple[str, int]:
    """The description with one candidate, at `port` of loopback; and the port that it had."""
    found = CANDIDATE.findall(sdp)
    foundation, real = found[0]
    first = True

    def one(_match: re.Match[str]) -> str:
        nonlocal first
        line, first = (f"a=candidate:{foundation} 127.0.0.1 {port} typ host\r\n" if first else ""), False
        return line

    return CANDIDATE.sub(one, sdp), int(real)


def measure(kind: str, *, seconds: float, size: int, path: Path) -> Figures:
    """Let two peers of a kind (`ours` or `theirs`) send for so long."""
    with contextlib.ExitStack() as stack:
        sender = stack.enter_context(child(kind, "send", seconds, size))
        receiver = stack.enter_context(child(kind, "receive", seconds, size))
        offer = sender.hear()["sdp"]
        if path.common:
            offer = LARGE.sub("", offer)
        if path.direct:
            receiver.tell(sdp=offer)
            answer = receiver.hear()["sdp"]
            sender.tell(sdp=LARGE.sub("", answer) if path.common else answer)
        else:
            wire = stack.enter_context(child("relay", path.delay, path.loss))
            ports = wire.hear()["ports"]
            offer, first = moved(offer, ports[1])
            receiver.tell(sdp=offer)
            answer, second = moved(receiver.hear()["sdp"], ports[0])
            wire.tell(ports=[first, second])
            sender.tell(sdp=answer)
        used = sender.hear()
        receiver.tell(stop=True)
        tally = receiver.hear()
    return Figures(
        rate=tally["size"] * 8 / tally["seconds"] / 1e6,
        sender=used["cpu"] / seconds,
        receiver=tally["cpu"] / tally["seconds"],
        series=tally["series"],
    )
