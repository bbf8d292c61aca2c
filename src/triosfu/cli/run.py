"""`triosfu run`: serve until interrupted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlencode

import trio
import typer
from rich.console import Console

import triosfu
from triosfu import logs
from triosfu.cli.allocator import give_large_blocks_back
from triosfu.cli.collector import Collector
from triosfu.cli.options import ConfigBody, ConfigFile, Development, KeyFile, Keys, configure

if TYPE_CHECKING:
    from triosfu.server import Front, Server

SAFE_SECRET = 32  # characters

Bind = Annotated[
    list[str] | None,
    typer.Option("--bind", metavar="ADDRESS", help="An address to listen on; may stand several times."),
]
HttpPort = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="For HTTP and WebSocket [7880].")]
UdpPort = Annotated[
    str | None, typer.Option(envvar="UDP_PORT", metavar="PORT", help="For media, one or a range [7882].")
]
NodeIp = Annotated[
    str | None, typer.Option(envvar="NODE_IP", metavar="IP", help="The address that clients reach us at.")
]
Region = Annotated[str | None, typer.Option(envvar="LIVEKIT_REGION", help="What clients are told as our region.")]
LogLevel = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error [info].")
]
Workers = Annotated[
    str | None, typer.Option(metavar="N", help="Processes that rooms are spread over; auto is one for each core [1].")
]
AdminSocket = Annotated[
    str | None,
    typer.Option(
        "--admin-socket", metavar="PATH", help="For `triosfu tasks`; none for no socket [a place of its own]."
    ),
]


def run(
    *,
    development: Development = False,
    config: ConfigFile = None,
    config_body: ConfigBody = None,
    bind: Bind = None,
    port: HttpPort = None,
    udp_port: UdpPort = None,
    node_ip: NodeIp = None,
    keys: Keys = None,
    key_file: KeyFile = None,
    workers: Workers = None,
    region: Region = None,
    log_level: LogLevel = None,
    admin_socket: AdminSocket = None,
) -> None:
    """Serve LiveKit clients until Ctrl-C; a second Ctrl-C ends at once."""
    given: dict[str, Any] = {
        "bind_addresses": bind or None,
        "port": port,
        "workers": workers,
        "region": region,
        "rtc": _given(udp_port=udp_port, node_ip=node_ip),
        "logging": _given(level=log_level),
    }
    chosen = configure(
        config,
        config_body,
        keys=keys,
        key_file=key_file,
        development=development,
        overrides=_given(**given),
    )
    # Not before it is needed: it imports everything, and the other commands are quick.
    from triosfu.cli.worker import COMMAND  # noqa: PLC0415
    from triosfu.server import run_until_signalled  # noqa: PLC0415

    give_large_blocks_back()
    logs.configure(level=chosen.logging.level, json=chosen.logging.json, for_good=True)
    for name, secret in chosen.keys.items():
        if len(secret) < SAFE_SECRET and not chosen.development:
            logs.log.warning("keys.short_secret", key=name, advice="use at least 32 characters: triosfu keys generate")
    place: Path | Literal["default"] | None = "default"
    if admin_socket is not None:
        place = None if admin_socket == "none" else Path(admin_socket)
    serve = partial(run_until_signalled, chosen, on_ready=announce, worker=COMMAND, admin_socket=place)
    trio.run(serve, instruments=[Collector()])


def announce(server: Server | Front) -> None:
    """Tell the one who started us what to do next."""
    # As wide as its lines: a wrapped link cannot be opened.
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    web = server.http_url.replace("//127.0.0.1", "//localhost")  # browsers give camera and microphone to localhost
    console.print(f"triosfu {triosfu.__version__} serves {web}", style="bold")
    console.print(f"  LiveKit URL   {server.url}")
    console.print(f"  media         UDP {', '.join(map(str, server.media_ports))}")
    if server.config.workers > 1:
        console.print(f"  workers       {server.config.workers} processes")
    if not server.config.development:
        console.print("  a token       triosfu token create --room demo --identity alice, with the same keys")
        return
    name, secret = next(iter(server.config.keys.items()))
    console.print(f"  API key       {name}, secret {secret}: for development, never on a public address")
    console.print("  demo          open both links, in two tabs:")
    for identity in ("alice", "bob"):
        token = server.create_token(identity=identity, room="demo")
        query = urlencode({"room": "demo", "identity": identity, "token": token})
        console.print(f"{web}/demo?{query}", style="cyan")
    console.print("  a token       triosfu token create --dev --room demo --identity carol")
    console.print("  Ctrl-C ends it.")


def _given(**options: Any) -> dict[str, Any]:  # noqa: ANN401  options of any type
    return {name: value for name, value in options.items() if value not in (None, {})}
