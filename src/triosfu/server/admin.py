"""The admin socket: whoever may open it, which is its owner alone, gets the live tree of tasks as one line of JSON.

    server                                          triosfu tasks
    bind 0600 in a directory 0700 of our own  ◀──── connect
    look at the tree                          ────▶ one JSON document, end of file

There is no request, so there is nothing to parse. Connections are served one after the other, each within five seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from triosfu.errors import ConfigError
from triosfu.server.task_tree import look, watching

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

log = structlog.get_logger(__name__)

BACKLOG: Final = 8
PATIENCE: Final = 5.0  # seconds for one reader to take its tree
LONGEST: Final = 107  # bytes of a path; `sun_path` of unix(7), less its final zero
OPTION: Final = "--admin-socket"


def default_socket_path(port: int) -> Path:
    """Where the server on HTTP `port` has its admin socket: in $XDG_RUNTIME_DIR, else in /tmp/triosfu-<uid>."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path(f"/tmp/triosfu-{os.geteuid()}")  # noqa: S108  checked by `check_folder`
    return folder / f"triosfu-{port}.sock"


def check_folder(folder: Path, option: str) -> None:
    """Refuse a directory in which somebody else could put something in our place.

    Raises:
        ConfigError: `folder` is missing, a symbolic link, not ours, or open to others' writing.
    """
    try:
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(f"{option}: {folder}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{option}: {folder} is not a directory itself, and links are not followed")
    if found.st_uid != os.geteuid():
        raise ConfigError(f"{option}: {folder} belongs to somebody else")
    if found.st_mode & 0o022:
        raise ConfigError(f"{option}: others may write to {folder}")


def check_socket(path: Path, option: str) -> bool:
    """Whether there is a socket of ours at `path`; False if there is nothing.

    Raises:
        ConfigError: There is something else, or its directory is not to be trusted.
    """
    check_folder(path.parent, option)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{option}: {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(f"{option}: {path} is not a socket of this user")
    return True


@contextlib.contextmanager
def open_admin_socket(path: Path) -> Iterator[socket.socket]:
    """Listen at `path`, for its owner alone; a stale socket is replaced. Leaving the block removes it.

    Raises:
        ConfigError: `path` cannot be had, or not safely.
    """
    if path.parent == default_socket_path(0).parent:
        with contextlib.suppress(OSError):  # whatever is there instead, or not there, is looked at next
            path.parent.mkdir(mode=0o700)
    if len(os.fsencode(path)) > LONGEST:
        raise ConfigError(f"{OPTION}: {path} is longer than {LONGEST} bytes")
    if check_socket(path, OPTION):
        if _answers(path):
            raise ConfigError(f"{OPTION}: another server listens at {path}")
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        mask = os.umask(0o177)  # not chmod after bind: it is never open to others, not even for a moment
        try:
            listener.bind(str(path))
        except OSError as error:
            raise ConfigError(f"{OPTION}: {path}: {error.strerror}") from None
        finally:
            os.umask(mask)
        made = path.lstat()
        try:
            listener.listen(BACKLOG)
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if os.path.samestat(path.lstat(), made):
                    path.unlink()


async def serve_admin(
    listener: socket.socket, *, others: Callable[[], Awaitable[list[dict[str, Any]]]] | None = None
) -> None:
    """Give everybody who connects the tree of that moment, until cancelled; the reader of then gets no more of it.

    What `others` has found, the trees of other processes, hangs below our own. Does not close `listener`.
    """
    accepting = trio.socket.from_stdlib_socket(listener)
    with watching() as watch:
        while True:
            try:
                connection, _ = await accepting.accept()
            except OSError as error:  # out of file descriptors, or a client that is gone already
                log.warning("admin.accept_failed", error=error.strerror)
                await trio.sleep(1)
                continue
            with trio.move_on_after(PATIENCE):
                async with trio.SocketStream(connection) as stream:
                    try:
                        beside = [] if others is None else await others()
                        tree = look(watch).to_json()
                        tree["nurseries"] += [beside] if beside else []
                        await stream.send_all(json.dumps(tree).encode() + b"\n")
                    except trio.BrokenResourceError:
                        pass  # the reader did not wait for it
                    except Exception:  # looking at the server must not end it
                        log.exception("admin.failed")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.setblocking(False)
        try:
            knock.connect(str(path))
        except BlockingIOError:  # its queue is full, so it has one
            return True
        except OSError:
            return False
        return True
