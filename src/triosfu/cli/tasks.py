"""`triosfu tasks`: what every task of a running server waits for, since when, and what bounds the wait."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from triosfu.errors import ConfigError

OPTION: Final = "--socket"
ANSWER: Final = 5.0  # seconds for the server to answer; one that does not is stuck, which is news too
REFRESH: Final = 1.0  # seconds
WIDE: Final = 300  # columns of what is no terminal: nothing is cut for a file
LARGEST: Final = 64 << 20  # bytes of an answer

SocketPath = Annotated[
    str | None, typer.Option(OPTION, metavar="PATH", help="The server's admin socket [where --port has it].")
]
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="The server's HTTP port.")]
Watching = Annotated[bool, typer.Option("--watch", help="Look again every second, until Ctrl-C.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the tree as one JSON document.")]


def tasks(*, path: SocketPath = None, port: Port = 7880, watch: Watching = False, as_json: AsJson = False) -> int:
    """Show the live tasks of a running server: what each waits for, and what bounds the wait."""
    # Not before it is needed: it imports everything, and the other commands are quick.
    from triosfu.server.admin import default_socket_path  # noqa: PLC0415

    place = default_socket_path(port) if path is None else Path(path)
    if as_json:
        if watch:
            raise ConfigError("--watch: not together with --json")
        typer.echo(json.dumps(fetch(place)))
        return 0
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    if not watch:
        console.print(render(fetch(place)))
        return 0
    with Live(render(fetch(place)), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            time.sleep(REFRESH)
            live.update(render(fetch(place)), refresh=True)


def fetch(path: Path) -> dict[str, Any]:
    """The tree that the server at `path` gives.

    Raises:
        ConfigError: There is no such server, it does not answer, or `path` is not to be trusted.
    """
    from triosfu.server.admin import check_socket  # noqa: PLC0415  as above

    if not check_socket(path, OPTION):
        raise ConfigError(f"{OPTION}: no server listens at {path}")
    data = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(ANSWER)
            client.connect(str(path))
            while len(data) < LARGEST and (more := client.recv(65536)):
                data += more
        tree = json.loads(data)
    except TimeoutError:
        raise ConfigError(f"{OPTION}: the server at {path} does not answer within {ANSWER:.0f} s") from None
    except OSError as error:
        raise ConfigError(f"{OPTION}: {path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{OPTION}: the server at {path} ended while it answered") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{OPTION}: what answers at {path} is not triosfu")
    return tree


def render(task: dict[str, Any]) -> Tree:
    """The tree as `rich` draws it, a line for each task; a wait that nothing bounds is red."""
    unbounded = sum(1 for one in _walk(task) if one["bound"] == "none")
    total = sum(1 for _ in _walk(task))
    head = Text(f"{total} tasks, ")
    head.append(f"{unbounded} without a bound", style="bold red" if unbounded else "green")
    tree = Tree(head, guide_style="dim")
    _grow(tree, task)
    return tree


def _grow(tree: Tree, task: dict[str, Any]) -> None:
    branch = tree.add(_line(task))
    for nursery in task["nurseries"]:
        for child in nursery:
            _grow(branch, child)


def _walk(task: dict[str, Any]) -> list[dict[str, Any]]:
    return [task, *(one for nursery in task["nurseries"] for child in nursery for one in _walk(child))]


def _line(task: dict[str, Any]) -> Text:
    line = Text(_printable(task["name"]), style="bold")
    line.append("  ")
    waits, where = task["waits_on"], task["where"].removeprefix("triosfu.")
    at = f"{where}:{task['line']}"
    since = "" if task["since"] is None else f" for {task['since']:.1f} s"
    plain = "not bold"
    match task["bound"]:
        case "running":
            line.append("running", style=f"{plain} green")
        case "children":
            line.append(f"waits for {waits}", style=f"{plain} dim")
        case "deadline":
            line.append(f"{waits} at {at}{since}, {task['deadline_in']:.1f} s left", style=plain)
        case "declared":
            line.append(f"{waits} at {at}{since}, ", style=plain)
            line.append(_printable(task["reason"]), style=f"{plain} dim")
        case _:
            line.append(f"{waits} at {at}{since}, WITHOUT A BOUND", style="bold red")
    return line


def _printable(text: str) -> str:
    """Names come from clients: none of them gets at the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
