"""One end of the socket between the front and a worker process: whole messages, each with sockets and data beside it.

    while not control.hand_over({"kind": "take"}, sock.fileno(), data):    # at once, or not at all
        await control.room()
    control.tell({"kind": "free", "room": "a"})        # at once, or in its turn as soon as there is room
    letter = await control.receive()

Messages are small JSON objects over SOCK_SEQPACKET; what they carry is passed by SCM_RIGHTS (unix(7)): a socket, and
data of any size as an anonymous file. Nothing here waits for the other side to read. What is told is bounded: an end
whose other side has stopped reading is broken, and says so to whoever receives.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from triosfu.errors import TriosfuError, UsageError

LARGEST: Final = 64 * 1024  # bytes of one message, without what it carries
MOST_DATA: Final = 256 << 20  # bytes of data beside it
MOST_WAITING: Final = 20_000  # messages that the other side has not had room for
CARRIED: Final = 2  # descriptors beside one message, at most
DESCRIPTOR: Final = array.array("i").itemsize


class ControlClosed(TriosfuError):
    """The other end is gone, does not read, or says what this end does not understand."""


@dataclass(slots=True)
class Letter:
    """A message and what came with it, which is the receiver's to close."""

    said: dict[str, Any]
    sock: socket.socket | None = None
    data: bytes = b""

    def text(self, name: str) -> str:
        """A field that must be a text.

        Raises:
            ControlClosed: It is none.
        """
        value = self.said.get(name)
        if not isinstance(value, str):
            raise ControlClosed(f"no text {name} in {self.said.get('kind')}")
        return value

    def number(self, name: str) -> float:
        """A field that must be a number; ControlClosed if it is none."""
        value = self.said.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ControlClosed(f"no number {name} in {self.said.get('kind')}")
        return value

    def close(self) -> None:
        """Close the socket that came with it, if nobody has taken it."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None


@dataclass(eq=False)
class Control:
    """This end, which owns `sock`. `run` sends what had to wait."""

    sock: socket.socket
    most_waiting: int = MOST_WAITING
    _waiting: deque[bytes] = field(default_factory=deque)
    _stirred: trio.Event = field(default_factory=trio.Event)
    _wanted: trio.Event | None = None  # somebody waits for room
    _receiving: trio.CancelScope | None = None
    _broken: str = ""

    def __post_init__(self) -> None:
        """Never block."""
        self.sock.setblocking(False)
        self._stream = trio.socket.from_stdlib_socket(self.sock)

    @property
    def closed(self) -> bool:
        """Whether nothing goes through any more."""
        return bool(self._broken)

    def close(self, why: str = "closed here") -> None:
        """Close this end; synchronous. Whoever receives is told."""
        if self._broken:
            return
        self._broken = why
        self._waiting.clear()
        self._stirred.set()
        self._found_room()
        if self._receiving is not None:
            self._receiving.cancel()
        self._stream.close()

    def hand_over(self, said: dict[str, Any], sock: int | None = None, data: bytes = b"") -> bool:
        """Send a message with the socket of descriptor `sock` and `data` now; False if that fails: nothing was sent.

        The socket stays open here as well: the other end has a copy.
        """
        if self._broken or self._waiting or len(data) > MOST_DATA:
            return False
        message = _written(said, sock=sock is not None)
        carried = [] if sock is None else [sock]
        if not data:
            return self._send(message, carried)
        try:
            copy = _as_file(data)
        except OSError:  # out of descriptors, or of memory
            return False
        try:
            return self._send(message, [*carried, copy])
        finally:
            os.close(copy)

    def tell(self, said: dict[str, Any]) -> None:
        """Send a message now, or as soon as there is room; in order. Nothing is lost but with the whole end."""
        if self._broken:
            return
        message = _written(said, sock=False)
        if not self._waiting and (self._send(message, []) or self._broken):
            return
        if len(self._waiting) >= self.most_waiting:
            self.close("the other side does not read")
            return
        self._waiting.append(message)
        self._stirred.set()

    async def run(self) -> None:
        """Send what has to wait, until this end is closed. Cancelled, it has lost nothing."""
        while not self._broken:
            await self._stirred.wait()
            self._stirred = trio.Event()
            while self._waiting or self._wanted is not None:  # nobody waits at an end that is closed
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_writable(self.sock)
                while self._waiting and self._send(self._waiting[0], []):
                    self._waiting.popleft()
                if not self._waiting:
                    self._found_room()

    async def room(self) -> None:
        """Wait until there may be room for what is handed over, or this end is closed; `run` has to run.

        Cancelled, it has changed nothing.
        """
        if not self._broken:
            if self._wanted is None:
                self._wanted = trio.Event()
                self._stirred.set()
            await self._wanted.wait()

    def _found_room(self) -> None:
        if self._wanted is not None:
            self._wanted.set()
            self._wanted = None

    async def receive(self) -> Letter:
        """Wait for the next message. Cancelled, it has taken none.

        Raises:
            ControlClosed: There will be none.
        """
        while not self._broken:
            with trio.CancelScope() as self._receiving:
                try:
                    data, ancillary, flags, _ = await self._stream.recvmsg(
                        LARGEST, socket.CMSG_SPACE(CARRIED * DESCRIPTOR), socket.MSG_CMSG_CLOEXEC
                    )
                except (OSError, trio.ClosedResourceError) as error:
                    self.close(f"cannot be read: {type(error).__name__}")
                    break
                letter = self._read(data, ancillary, flags)
                if letter is not None:
                    return letter
        raise ControlClosed(self._broken)

    def _read(self, data: bytes, ancillary: list[tuple[int, int, bytes]], flags: int) -> Letter | None:
        """What has come; None closes this end."""
        descriptors = array.array("i")
        for level, kind, carried in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(carried[: len(carried) - len(carried) % DESCRIPTOR])
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                self.close("a message was cut")
                return None
            said = _said(data)
            has_sock = said.pop("sock", False) is True
            content = _content(descriptors[-1]) if len(descriptors) > has_sock else b""
            sock = socket.socket(fileno=descriptors.pop(0)) if has_sock and descriptors else None
        except (ControlClosed, OSError) as error:
            self.close(str(error))
            return None
        finally:
            for left in descriptors:
                os.close(left)
        return Letter(said, sock, content)

    def _send(self, message: bytes, descriptors: list[int]) -> bool:
        if len(message) > LARGEST:
            raise UsageError(f"control: a message of {len(message)} bytes")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self.sock.sendmsg([message], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            if descriptors and not isinstance(error, BrokenPipeError | ConnectionError):
                return False  # too many descriptors are on their way: what stands in for it goes elsewhere
            self.close(f"cannot be written: {error.strerror}")
            return False
        return True


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a control socket."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def available() -> bool:
    """Whether this system has what is needed."""
    return hasattr(socket, "SCM_RIGHTS") and hasattr(socket, "MSG_CMSG_CLOEXEC") and hasattr(os, "memfd_create")


def _written(said: dict[str, Any], *, sock: bool) -> bytes:
    return json.dumps({**said, "sock": True} if sock else said, separators=(",", ":")).encode()


def _said(data: bytes) -> dict[str, Any]:
    if not data:
        raise ControlClosed("the other side has ended")
    try:
        said = json.loads(data)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ControlClosed("not a message")
    return said


def _as_file(data: bytes) -> int:
    descriptor = os.memfd_create("triosfu")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    if size > MOST_DATA:
        raise ControlClosed("too much data")
    return os.pread(descriptor, size, 0)
