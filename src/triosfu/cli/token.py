"""`triosfu token create`: an access token on standard output."""

from __future__ import annotations

from typing import Annotated

import typer

from triosfu.cli.options import ConfigBody, ConfigFile, Development, KeyFile, Keys, configure
from triosfu.config import parse_duration
from triosfu.errors import ConfigError
from triosfu.tokens import KINDS, SOURCES, VideoGrant, create_token

token = typer.Typer(name="token", help="Access tokens.", no_args_is_help=False)

Grant = Annotated[bool, typer.Option()]
Permission = Annotated[bool | None, typer.Option()]


@token.callback()
def _tokens() -> None:
    """Access tokens."""


@token.command()
def create(
    *,
    identity: Annotated[str, typer.Option("--identity", "-i", help="Who joins; unique in the room.")] = "",
    room: Annotated[str, typer.Option("--room", "-r", help="The room to join, or to administer.")] = "",
    name: Annotated[str, typer.Option(help="The name to show.")] = "",
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long it is valid, such as 30m or 24h.")] = "6h",
    metadata: Annotated[str, typer.Option(help="The participant's metadata.")] = "",
    attribute: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An attribute; repeatable.")] = None,
    kind: Annotated[str, typer.Option(help="standard, agent, egress, ingress, sip, ...")] = "standard",
    join: Annotated[bool, typer.Option("--join/--no-join", help="May join the room [if one is named].")] = True,
    admin: Annotated[bool, typer.Option("--admin", help="May administer the room.")] = False,
    create_rooms: Annotated[bool, typer.Option("--create", help="May create and delete rooms.")] = False,
    list_rooms: Annotated[bool, typer.Option("--list", help="May list rooms.")] = False,
    record: Annotated[bool, typer.Option("--record", help="May use the egress API.")] = False,
    ingress: Annotated[bool, typer.Option("--ingress", help="May use the ingress API.")] = False,
    publish: Annotated[bool | None, typer.Option("--publish/--no-publish", help="May publish tracks.")] = None,
    publish_source: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE", help="Only these: camera, microphone, ...; repeatable.")
    ] = None,
    publish_data: Annotated[
        bool | None, typer.Option("--publish-data/--no-publish-data", help="May send data.")
    ] = None,
    subscribe: Annotated[bool | None, typer.Option("--subscribe/--no-subscribe", help="May receive tracks.")] = None,
    update_metadata: Annotated[bool, typer.Option("--update-metadata", help="May change its own metadata.")] = False,
    hidden: Annotated[bool, typer.Option("--hidden", help="Is not shown to others.")] = False,
    recorder: Annotated[bool, typer.Option("--recorder", help="Is a recorder.")] = False,
    agent: Annotated[bool, typer.Option("--agent", help="May register as an agent worker.")] = False,
    api_key: Annotated[str | None, typer.Option(envvar="LIVEKIT_API_KEY", help="The key to sign with.")] = None,
    api_secret: Annotated[str | None, typer.Option(envvar="LIVEKIT_API_SECRET", help="And its secret.")] = None,
    development: Development = False,
    config: ConfigFile = None,
    config_body: ConfigBody = None,
    keys: Keys = None,
    key_file: KeyFile = None,
) -> None:
    """Print an access token.

    The key comes from --api-key and --api-secret, --dev, --keys, --key-file or the configuration; the first pair signs.
    """
    seconds = _seconds(ttl)
    if kind.lower() not in KINDS:
        raise ConfigError(f"--kind: {kind} is not one of {', '.join(KINDS)}")
    sources = tuple(source.lower() for source in publish_source or ())
    for source in sources:
        if source not in SOURCES:
            raise ConfigError(f"--publish-source: {source} is not one of {', '.join(SOURCES)}")
    joins = join and bool(room)
    if joins and not identity:
        raise ConfigError("--identity: is missing: whoever joins a room has one")
    if admin and not room:
        raise ConfigError("--room: is missing: it is one room that --admin is for")
    if not (joins or admin or create_rooms or list_rooms or record or ingress or agent):
        raise ConfigError("--room: is missing: without it or another grant the token allows nothing")
    if api_key and api_secret and not development:
        pair = api_key, api_secret
    elif (api_key or api_secret) and not development:
        raise ConfigError(f"--api-{'secret' if api_key else 'key'}: is missing: a key and its secret go together")
    else:
        chosen = configure(config, config_body, keys=keys, key_file=key_file, development=development)
        pair = next(iter(chosen.keys.items()))
    video = VideoGrant(
        room=room,
        room_join=joins,
        room_admin=admin,
        room_create=create_rooms,
        room_list=list_rooms,
        room_record=record,
        ingress_admin=ingress,
        can_publish=publish,
        can_publish_sources=sources,
        can_publish_data=publish_data,
        can_subscribe=subscribe,
        can_update_own_metadata=update_metadata or None,
        hidden=hidden,
        recorder=recorder,
        agent=agent,
    )
    attributes = _attributes(attribute or [])
    typer.echo(
        create_token(
            *pair,
            identity=identity,
            ttl=seconds,
            video=video,
            name=name,
            kind=kind.lower(),
            metadata=metadata,
            attributes=attributes,
        )
    )


def _seconds(ttl: str) -> float:
    try:
        seconds = parse_duration(ttl)
    except ValueError as error:
        raise ConfigError(f"--ttl: {error}") from None
    if seconds < 1:
        raise ConfigError("--ttl: must be at least 1s")
    return seconds


def _attributes(written: list[str]) -> dict[str, str]:
    attributes = {}
    for item in written:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise ConfigError("--attribute: must be KEY=VALUE")
        attributes[key] = value
    return attributes
